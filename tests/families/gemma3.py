"""The Gemma 3 family at test size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, processors
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from tests.families.base import TinyFamily

# The shape of the published layout: the beginning-of-text token, no role for the system, whose message opens the
# user's turn, text without the white space at its ends, one begin token for an image.
GEMMA = """\
{{ bos_token }}
{%- set turns = messages -%}
{%- set opening = '' -%}
{%- if messages[0].role == 'system' -%}
{%- set opening = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\n\n' -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{%- for message in turns -%}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}
{%- if loop.first -%}{{ opening }}{%- endif -%}
{%- if message.content is string -%}{{ message.content | trim }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<start_of_image>' }}
{%- elif part.type == 'text' -%}{{ part.text | trim }}{%- endif -%}
{%- endfor -%}{%- endif -%}{{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""

TOKENS = {
    "bos_token": "<bos>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}


def may_attend(positions: list[int], images: list[int], window: int | None) -> torch.Tensor:
    """Who may see whom, pair by pair: what came before and one's own image, all of it within the window."""
    return torch.tensor(
        [
            [
                (key <= query or image == other >= 0) and (window is None or query - key < window)
                for key, other in zip(positions, images, strict=True)
            ]
            for query, image in zip(positions, images, strict=True)
        ]
    )


class Gemma3(TinyFamily):
    name = "gemma3"
    model_class = "Gemma3ForConditionalGeneration"
    special = ("<start_of_turn>", "<end_of_turn>", *TOKENS.values())
    chat_template = GEMMA
    side = 56  # pixels of the square that every photo becomes: 8 x 8 patches, 4 x 4 tokens
    image_tokens = 16
    window = 24  # positions: binds within an image pair, and is longer than an image, as in the released models

    @property
    def photo_sizes(self):
        """Exact, smaller, larger, wide and tall: both roads resize with Pillow."""
        return [(56, 56), (60, 90), (56, 56), (200, 31), (40, 40), (97, 300), (56, 112)]

    def config(self, tokenizer, hidden, layers, tower):
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": tower[0],
            "intermediate_size": 2 * tower[0],
            "num_hidden_layers": tower[1],
            "num_attention_heads": 2,
            "image_size": self.side,
            "patch_size": 7,
            "vision_use_head": False,
        }
        text = self.text_settings(tokenizer, hidden, layers) | {
            "bos_token_id": tokenizer.convert_tokens_to_ids("<bos>"),
            "head_dim": hidden // 2,  # not hidden / heads
            "query_pre_attn_scalar": hidden // 3,  # not head_dim
            "sliding_window": self.window,
            "layer_types": ["full_attention" if i % 3 == 2 else "sliding_attention" for i in range(layers)],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        }
        ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
        return transformers.Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=self.image_tokens,
            boi_token_index=ids["boi_token"],
            eoi_token_index=ids["eoi_token"],
            image_token_index=ids["image_token"],
        )

    def preparation(self, config):
        return {
            "preprocessor_config.json": {
                "image_processor_type": "Gemma3ImageProcessor",
                "do_convert_rgb": None,
                "do_normalize": True,
                "do_pan_and_scan": None,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.45, 0.4],
                "image_std": [0.5, 0.4, 0.6],
                "image_seq_length": self.image_tokens,
                "resample": 2,
                "rescale_factor": 1 / 255,
                "size": {"height": self.side, "width": self.side},
            },
            "processor_config.json": {"image_seq_length": self.image_tokens, "processor_class": "Gemma3Processor"},
        }

    def write_preparation(self, folder, config):
        """Make the tokenizer, too, like the published one: it puts its first token before what it is told to begin."""
        super().write_preparation(folder, config)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | TOKENS))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        first = tokenizer.token_to_id("<bos>")
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", first)])
        tokenizer.save(str(folder / "tokenizer.json"))

    def processor(self, folder: Path) -> Any:
        """Return transformers' own processor, which writes what surrounds an image and what stands for it."""
        named = {name: token for name, token in TOKENS.items() if name != "bos_token"}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, extra_special_tokens=named)
        return transformers.Gemma3Processor(
            Gemma3ImageProcessorPil.from_pretrained(folder), tokenizer, image_seq_length=self.image_tokens
        )

    def _inputs(self, folder: Path, text: str, photos: list[np.ndarray]) -> Any:
        # The text begins with <bos> already.
        inputs = self.processor(folder)(images=[photos], text=[text], add_special_tokens=False, return_tensors="pt")
        assert inputs["token_type_ids"].sum() == len(photos) * self.image_tokens
        return inputs

    @torch.no_grad()
    def plain(self, network, tokenizer, folder, text, photos):
        inputs = self._inputs(folder, text, photos)
        return network(**{name: inputs[name] for name in ("input_ids", "pixel_values", "token_type_ids")}).logits[0, -1]

    @torch.no_grad()
    def plain_pruned(self, network, tokenizer, folder, text, photos, kept):
        inputs = self._inputs(folder, text, photos)
        visual = inputs["token_type_ids"][0].bool()
        embeds = network.get_input_embeddings()(inputs["input_ids"])[0]
        embeds[visual] = network.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)
        stays, images = torch.ones_like(visual), torch.full(visual.shape, -1)
        stays[visual] = torch.from_numpy(np.concatenate(kept))
        images[visual] = torch.arange(len(photos)).repeat_interleave(self.image_tokens)
        positions = stays.nonzero()[:, 0]
        rules = positions.tolist(), images[stays].tolist()
        window = network.config.text_config.sliding_window
        states = network.model.language_model(
            inputs_embeds=embeds[stays][None],
            position_ids=positions[None],
            attention_mask={
                "full_attention": may_attend(*rules, None)[None, None],
                "sliding_attention": may_attend(*rules, window)[None, None],
            },
        ).last_hidden_state
        return network.lm_head(states)[0, -1]


FAMILIES = [Gemma3()]
