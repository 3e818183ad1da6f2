"""The InternVL family at test size, with the language models that its checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from tests.families.base import TinyFamily

# In the form of the published template: no system message of its own, a line's end after each image.
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string -%}{{ message.content }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""

TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


class Processor(InternVLProcessor):
    """Transformers' own, which looks for a video processor, and so for torchvision, that photos do not need."""

    def check_argument_for_proper_class(self, *names: Any) -> Any:
        return None


class InternVL(TinyFamily):
    name = "internvl"
    model_class = "InternVLForConditionalGeneration"
    special = tuple(TOKENS.values())
    chat_template = TEMPLATE
    text_type = "qwen2"
    text_extra: ClassVar[dict[str, Any]] = {}
    side = 42  # pixels: 6 x 6 patches, 3 x 3 tokens
    most_tiles = 4
    max_tokens = 5 * 9  # four tiles and the whole
    # One tile, whole numbers of tiles, and photos that both roads resize with Pillow. All are large enough for the
    # tiles that transformers cuts, so that both cut the same.
    photo_sizes: ClassVar = [(84, 84), (42, 42), (42, 126), (60, 100), (126, 126), (84, 42), (84, 126)]

    def config(self, tokenizer, hidden, layers, tower):
        vision = {
            "hidden_size": tower[0],
            "intermediate_size": 2 * tower[0],
            "num_hidden_layers": tower[1],
            "num_attention_heads": 2,
            "image_size": [self.side, self.side],
            "patch_size": [7, 7],
            "attention_bias": True,
            "layer_scale_init_value": 1.0,
        }
        text = {"model_type": self.text_type, **self.text_settings(tokenizer, hidden, layers), **self.text_extra}
        return transformers.InternVLConfig(
            text_config=text,
            vision_config=vision,
            image_seq_length=9,
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            tie_word_embeddings=False,
        )

    def preparation(self, config):
        return {
            "preprocessor_config.json": {
                "image_processor_type": "GotOcr2ImageProcessor",
                "crop_size": None,
                "crop_to_patches": False,
                "do_center_crop": None,
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.48, 0.46, 0.41],
                "image_std": [0.23, 0.22, 0.23],
                "max_patches": 12,
                "min_patches": 1,
                "resample": 3,
                "rescale_factor": 1 / 255,
                "size": {"height": self.side, "width": self.side},
            },
            "processor_config.json": {"image_seq_length": 9, "processor_class": "InternVLProcessor"},
        }

    def write_preparation(self, folder, config):
        super().write_preparation(folder, config)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"extra_special_tokens": TOKENS}))

    def _inputs(self, folder: Path, text: str, photos: list[np.ndarray]) -> Any:
        images = GotOcr2ImageProcessorPil.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        processor = Processor(images, tokenizer, None, image_seq_length=9)
        return processor(
            images=[photos],
            text=[text],
            max_patches=self.most_tiles,
            add_special_tokens=False,
            return_tensors="pt",
        )

    @torch.no_grad()
    def plain(self, network, tokenizer, folder, text, photos):
        return network(**self._inputs(folder, text, photos)).logits[0, -1]

    @torch.no_grad()
    def plain_pruned(self, network, tokenizer, folder, text, photos, kept):
        inputs = self._inputs(folder, text, photos)
        ids = inputs["input_ids"]
        image = ids == network.config.image_token_id
        embeds = network.get_input_embeddings()(ids)
        embeds[image] = network.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)
        keep = torch.ones_like(image)
        keep[image] = torch.from_numpy(np.concatenate(kept))
        states = network.model.language_model(
            inputs_embeds=embeds[keep][None],
            position_ids=torch.arange(ids.shape[1])[None][keep][None],
            attention_mask=torch.ones(1, int(keep.sum())),  # else gaps between positions are taken for new sequences
        ).last_hidden_state
        return network.lm_head(states)[0, -1]


class InternVLQwen3(InternVL):
    variant = text_type = "qwen3"
    text_extra: ClassVar = {"head_dim": 16}


FAMILIES = [InternVL(), InternVLQwen3()]
