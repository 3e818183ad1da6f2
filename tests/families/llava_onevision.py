"""The LLaVA-OneVision family at test size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from tests.families.base import TinyFamily

# In the form of the published template: a space after the role, all images, then each text on a line of its own.
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + ' ' }}
{%- for part in message.content if part.type == 'image' -%}{{ '<image>' }}{%- endfor -%}
{%- for part in message.content if part.type == 'text' -%}{{ '\n' + part.text }}{%- endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""


class Processor(LlavaOnevisionProcessor):
    """Transformers' own, which looks for a video processor, and so for torchvision, that photos do not need."""

    def check_argument_for_proper_class(self, *names: Any) -> Any:
        return None


class LlavaOnevision(TinyFamily):
    name = "llava_onevision"
    model_class = "LlavaOnevisionForConditionalGeneration"
    special = ("<image>", "<video>")
    chat_template = TEMPLATE
    side = 75  # pixels: 5 x 5 patches of 14, and a rest, as in the published tower
    # Exact, wide and tall, odd margins, larger and smaller: both roads resize with Pillow.
    photo_sizes: ClassVar = [(75, 75), (50, 75), (75, 30), (200, 133), (40, 41), (75, 75), (20, 300)]

    def config(self, tokenizer, hidden, layers, tower):
        vision = {
            "model_type": "siglip_vision_model",
            "hidden_size": tower[0],
            "intermediate_size": 2 * tower[0],
            "num_hidden_layers": tower[1],
            "num_attention_heads": 2,
            "image_size": self.side,
            "patch_size": 14,
            "vision_use_head": False,
        }
        return transformers.LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **self.text_settings(tokenizer, hidden, layers)},
            vision_config=vision,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=[[75, 75], [75, 150], [150, 75], [150, 150]],
        )

    def preparation(self, config):
        return {
            "preprocessor_config.json": {
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "do_convert_rgb": True,
                "do_normalize": True,
                "do_pad": True,
                "do_rescale": True,
                "do_resize": True,
                "image_grid_pinpoints": config.image_grid_pinpoints,
                "image_mean": [0.5, 0.45, 0.4],
                "image_std": [0.5, 0.4, 0.6],
                "resample": 3,
                "rescale_factor": 1 / 255,
                "size": {"height": self.side, "width": self.side},
            },
            "processor_config.json": {
                "num_image_tokens": 25,
                "processor_class": "LlavaOnevisionProcessor",
                "vision_feature_select_strategy": "full",
            },
        }

    def _inputs(self, folder: Path, text: str, photos: list[np.ndarray]) -> Any:
        processor = Processor(
            LlavaOnevisionImageProcessorPil.from_pretrained(folder),
            transformers.AutoTokenizer.from_pretrained(folder),
            None,
            num_image_tokens=25,
            vision_feature_select_strategy="full",
        )
        # A list in a list: these photos belong to one prompt, and so are not cut into tiles.
        return processor(images=[photos], text=[text], add_special_tokens=False, return_tensors="pt")

    @torch.no_grad()
    def plain(self, network, tokenizer, folder, text, photos):
        return network(**self._inputs(folder, text, photos)).logits[0, -1]

    @torch.no_grad()
    def plain_pruned(self, network, tokenizer, folder, text, photos, kept):
        inputs = self._inputs(folder, text, photos)
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask")
        image = ids == network.config.image_token_id
        embeds = network.get_input_embeddings()(ids)
        embeds[image] = torch.cat(list(network.get_image_features(**inputs).pooler_output))
        keep = torch.ones_like(image)
        # The vector that closes an image is none of the photo's tokens, and stays.
        keep[image] = torch.from_numpy(np.concatenate([[*mask, True] for mask in kept]))
        states = network.model.language_model(
            inputs_embeds=embeds[keep][None],
            position_ids=torch.arange(ids.shape[1])[None][keep][None],
            attention_mask=torch.ones(1, int(keep.sum())),  # else gaps between positions are taken for new sequences
        ).last_hidden_state
        return network.lm_head(states)[0, -1]


FAMILIES = [LlavaOnevision()]
