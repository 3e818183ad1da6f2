"""Idefics3 and SmolVLM2 at test size, with the two kinds of tokenizers that their checkpoints have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from tests.families.base import TinyFamily

# In the form of the published templates: roles with a capital, no system message of its own, a turn that begins with
# an image has no space before it, and nothing stands around an image.
TEMPLATE = """\
<|im_start|>{% for message in messages -%}
{{ message.role | capitalize }}{{ ':' if message.content[0].type == 'image' else ': ' }}
{%- for part in message.content -%}
{{ '<image>' if part.type == 'image' else part.text }}
{%- endfor -%}<end_of_utterance>
{% endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""


class TiledFamily(TinyFamily):
    special: tuple[str, ...] = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    chat_template = TEMPLATE
    tile: int
    patch: int
    merge: int
    most: int  # tiles along the longer side
    mean_std: tuple[list[float], list[float]] = ([0.5] * 3, [0.5] * 3)
    config_class: str

    @property
    def tile_tokens(self) -> int:
        return (self.tile // self.patch // self.merge) ** 2

    @property
    def longer_side(self) -> int:  # type: ignore[override]
        return self.most * self.tile

    @property
    def photo_sizes(self) -> list[tuple[int, int]]:  # type: ignore[override]
        # Longer sides of whole tiles, so that transformers' fixed size is also ours; and single tiles: see `processor`.
        side = self.tile
        return [
            (2 * side, 3 * side),
            (side, side),
            (3 * side, side + 11),
            (3 * side - 7, 3 * side),
            (side // 2, 3 * side),
            (4 * side + 30, 6 * side),
            (side - 9, side // 3),
        ]

    def vision_settings(self, tower: tuple[int, int]) -> dict[str, Any]:
        return {
            "hidden_size": tower[0],
            "intermediate_size": 2 * tower[0],
            "num_hidden_layers": tower[1],
            "num_attention_heads": 2,
            "image_size": self.tile,
            "patch_size": self.patch,
        }

    def config(self, tokenizer, hidden, layers, tower):
        text = {"model_type": "llama"} | self.text_settings(tokenizer, hidden, layers)
        return getattr(transformers, self.config_class)(
            text_config=text,
            vision_config=self.vision_settings(tower),
            scale_factor=self.merge,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )

    def preparation(self, config: Any) -> dict[str, dict[str, Any]]:
        return {
            "preprocessor_config.json": {
                "image_processor_type": "Idefics3ImageProcessor",
                "do_convert_rgb": True,
                "do_image_splitting": True,
                "do_normalize": True,
                "do_pad": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": self.mean_std[0],
                "image_std": self.mean_std[1],
                "max_image_size": {"longest_edge": self.tile},
                "resample": 1,
                "rescale_factor": 1 / 255,
                "size": {"longest_edge": 4 * self.tile},
            }
        }

    def longest_edge(self, photo: np.ndarray) -> int:
        """The size to which a user of transformers would set the longer side of this photo."""
        tiles = [1, 2, 3][np.searchsorted([1.5 * self.tile, 2.5 * self.tile], max(photo.shape[:2]), side="right")]
        return tiles * self.tile

    def prepared(self, tokenizer: Any, folder: Path, photo: np.ndarray) -> tuple[str, Any]:
        """Return what transformers writes in place of "<image>", and its (1, tiles, 3, side, side) pixels.

        Photo by photo, because it has one size for all photos of a call.
        """
        raise NotImplementedError

    def inputs(self, tokenizer, folder: Path, text: str, photos: list[np.ndarray]):
        expansions, parts = zip(*(self.prepared(tokenizer, folder, photo) for photo in photos), strict=True)
        pieces = text.split("<image>")
        text = pieces[0] + "".join(expansion + piece for expansion, piece in zip(expansions, pieces[1:], strict=True))
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        pixels, masks = (
            torch.cat([part[name] for part in parts], dim=1) for name in ("pixel_values", "pixel_attention_mask")
        )
        return ids, pixels, masks

    @torch.no_grad()
    def plain(self, network, tokenizer, folder, text, photos):
        ids, pixels, mask = self.inputs(tokenizer, folder, text, photos)
        return network(input_ids=ids, pixel_values=pixels, pixel_attention_mask=mask).logits[0, -1]

    @torch.no_grad()
    def plain_pruned(self, network, tokenizer, folder, text, photos, kept):
        ids, pixels, mask = self.inputs(tokenizer, folder, text, photos)
        image = ids == network.config.image_token_id
        features = network.get_image_features(pixels, mask).pooler_output
        embeds = network.get_input_embeddings()(ids)
        # By image, or, by release, by tile.
        embeds[image] = torch.cat([part.reshape(-1, embeds.shape[-1]) for part in features])
        keep = torch.ones_like(image)
        keep[image] = torch.from_numpy(np.concatenate(kept))
        # The mask says that the gaps between positions are no borders between sequences.
        states = network.model.text_model(
            inputs_embeds=embeds[keep][None],
            position_ids=torch.arange(ids.shape[1])[None][keep][None],
            attention_mask=torch.ones(1, int(keep.sum()), dtype=torch.long),
        ).last_hidden_state
        return network.lm_head(states)[0, -1]


class Idefics3(TiledFamily):
    """The places of tiles are plain text, as in Idefics3-8B-Llama3 and SmolVLM-Instruct."""

    name = "idefics3"
    model_class = "Idefics3ForConditionalGeneration"
    config_class = "Idefics3Config"
    tile, patch, merge, most = 48, 8, 2, 3  # 6 patches a side, 3 tokens
    mean_std = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])

    def prepared(self, tokenizer, folder, photo):
        processor = Idefics3Processor(
            Idefics3ImageProcessorPil.from_pretrained(folder, size={"longest_edge": self.longest_edge(photo)}),
            tokenizer,
            image_seq_len=self.tile_tokens,
        )
        part = processor(text="<image>", images=[photo], add_special_tokens=False, return_tensors="pt")
        return tokenizer.decode(part["input_ids"][0]), part


class SmolVLM2(TiledFamily):
    """The places of tiles are tokens of the vocabulary."""

    name = "smolvlm"
    model_class = "SmolVLMForConditionalGeneration"
    config_class = "SmolVLMConfig"
    special = (
        *TiledFamily.special,
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    )
    tile, patch, merge, most = 76, 8, 3, 3  # 9 patches a side and 4 pixels left over, 3 tokens

    def prepared(self, tokenizer, folder, photo):
        # transformers' own processor class wants a package for its videos; this is its function for photos.
        processor = SmolVLMImageProcessorPil.from_pretrained(folder, size={"longest_edge": self.longest_edge(photo)})
        part = processor([photo], return_row_col_info=True, return_tensors="pt")
        text = get_image_prompt_string(
            part["rows"][0][0],
            part["cols"][0][0],
            self.tile_tokens,
            fake_token_around_image="<fake_token_around_image>",
            image_token="<image>",
            global_image_token="<global-img>",
        )
        return text, part


FAMILIES = [Idefics3(), SmolVLM2()]
