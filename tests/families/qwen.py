"""The Qwen-VL families at test size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.families.base import CHATML, TinyFamily

# (rows, columns) of tokens of the test photos: whole tokens on both sides, so that no resizing comes between two roads.
GRIDS = [(4, 6), (3, 3), (7, 2), (4, 6), (2, 9), (5, 5), (6, 4)]


class QwenFamily(TinyFamily):
    special = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    chat_template = CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    token_side: int
    mean_std: tuple[list[float], list[float]] = ([0.5] * 3, [0.5] * 3)

    @property
    def photo_sizes(self) -> list[tuple[int, int]]:
        return [(rows * self.token_side, columns * self.token_side) for rows, columns in GRIDS]

    def special_ids(self, tokenizer: Any) -> dict[str, int]:
        return {
            "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
            "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
            "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        }

    def section(self, hidden: int) -> list[int]:
        """Pairs of a head's dimensions that turn with time, row and column; they add up to half a head."""
        head = hidden // 4
        return [head // 2 - 2 * (3 * head // 16), 3 * head // 16, 3 * head // 16]

    def vision_settings(self, hidden: int, tower: tuple[int, int]) -> dict[str, Any]:
        return {
            "hidden_size": tower[0],
            "intermediate_size": 2 * tower[0],
            "num_heads": max(2, tower[0] // 64),
            "out_hidden_size": hidden,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "in_channels": 3,
        }

    def preparation(self, config: Any) -> dict[str, dict[str, Any]]:
        return {
            "preprocessor_config.json": {
                "image_processor_type": "Qwen2VLImageProcessor",
                "patch_size": config.vision_config.patch_size,
                "merge_size": 2,
                "temporal_patch_size": 2,
                "image_mean": self.mean_std[0],
                "image_std": self.mean_std[1],
                "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 2**24},
            }
        }

    def _inputs(self, network, tokenizer, folder: Path, text: str, photos: list[np.ndarray]):
        inputs = Qwen2VLImageProcessorPil.from_pretrained(folder)(photos, return_tensors="pt")
        sizes = iter((inputs["image_grid_thw"].prod(dim=1) // 4).tolist())
        image = network.config.image_token_id
        ids = [
            part
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]
            for part in [token] * (next(sizes) if token == image else 1)
        ]
        ids = torch.tensor([ids])
        return ids, (ids == image).int(), inputs

    @torch.no_grad()
    def plain(self, network, tokenizer, folder, text, photos):
        ids, kinds, inputs = self._inputs(network, tokenizer, folder, text, photos)
        network.model.rope_deltas = None
        return network(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0, -1]

    @torch.no_grad()
    def plain_pruned(self, network, tokenizer, folder, text, photos, kept):
        ids, kinds, inputs = self._inputs(network, tokenizer, folder, text, photos)
        image = kinds.bool()
        positions, _ = network.model.get_rope_index(ids, kinds, inputs["image_grid_thw"])
        features = network.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        embeds = network.get_input_embeddings()(ids)
        embeds[image] = torch.cat(list(features.pooler_output))
        keep_visual = torch.from_numpy(np.concatenate(kept))
        keep = torch.ones_like(image)
        keep[image] = keep_visual
        extra: dict[str, Any] = {}
        if getattr(features, "deepstack_features", None) is not None:
            levels = [torch.cat(list(f)) if isinstance(f, list | tuple) else f for f in features.deepstack_features]
            extra = {
                "visual_pos_masks": image[keep][None],
                "deepstack_visual_embeds": [level[keep_visual] for level in levels],
            }
        states = network.model.language_model(
            inputs_embeds=embeds[keep][None], position_ids=positions[:, keep][:, None], **extra
        ).last_hidden_state
        return network.lm_head(states)[0, -1]


class Qwen2(QwenFamily):
    name = "qwen2_vl"
    model_class = "Qwen2VLForConditionalGeneration"
    token_side = 28
    mean_std = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])

    def config(self, tokenizer, hidden, layers, tower):
        # This family calls the width of the tower `embed_dim`, and `hidden_size` what leaves it.
        vision = {
            "embed_dim": tower[0],
            "hidden_size": hidden,
            "depth": tower[1],
            "num_heads": max(2, tower[0] // 64),
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": self.section(hidden)}
        text = self.text_settings(tokenizer, hidden, layers) | {"rope_parameters": rope}
        return transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **self.special_ids(tokenizer))


class Qwen25(QwenFamily):
    name = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    token_side = 28
    mean_std = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])

    def config(self, tokenizer, hidden, layers, tower):
        # Windows of two tokens a side, so that both window attention and its re-ordering take part.
        # One time step a second, because transformers 5.5 multiplied the positions of still images by it.
        vision = self.vision_settings(hidden, tower) | {
            "depth": 2,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 1,
        }
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": self.section(hidden)}
        text = self.text_settings(tokenizer, hidden, layers) | {"rope_parameters": rope}
        return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **self.special_ids(tokenizer))


class Qwen3(QwenFamily):
    name = "qwen3_vl"
    model_class = "Qwen3VLForConditionalGeneration"
    token_side = 32

    def config(self, tokenizer, hidden, layers, tower):
        vision = self.vision_settings(hidden, tower) | {
            "depth": tower[1],
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        }
        rope = {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": self.section(hidden),
            "mrope_interleaved": True,
        }
        text = self.text_settings(tokenizer, hidden, layers) | {"head_dim": hidden // 4, "rope_parameters": rope}
        return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **self.special_ids(tokenizer))


FAMILIES = [Qwen2(), Qwen25(), Qwen3()]
