"""Multimodal language models of every supported family, with random weights, small enough to build in a test.

`save_tiny_mllm(folder, family)` writes a complete model folder (config, safetensors, tokenizer with a chat template,
preprocessor settings) that the real loading code loads. The weights come from a fixed seed and are large enough that
pairs of photos get clearly different logits.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

FAMILIES = ("qwen2_5_vl", "qwen3_vl")

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# The chat layout of the Qwen family, with a system message of our own.
CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' -%}<|im_start|>system
You compare photos.<|im_end|>
{% endif -%}
{%- for message in messages -%}<|im_start|>{{ message.role }}
{% if message.content is string -%}{{ message.content }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

_CORPUS = [
    "The first photo shows one object, and the second photo shows the same object or another one.",
    "Reply with one digit only: 1 if it does, 0 if it does not. Is this the very same building, work or product?",
    "yes no true false system user assistant You compare photos. Yes No",
]


def save_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer with Qwen's special tokens and single-digit numbers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+|\s+| ?[^\s\p{L}\p{N}]+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    return fast


def _config(
    family: str, tokenizer: transformers.PreTrainedTokenizerFast, hidden: int, layers: int, tower: tuple[int, int]
):
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    # Pairs of a head's dimensions that turn with time, row and column; they add up to half a head.
    head = hidden // 4
    section = [head // 2 - 2 * (3 * head // 16), 3 * head // 16, 3 * head // 16]
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    vision = {
        "hidden_size": tower[0],
        "intermediate_size": 2 * tower[0],
        "num_heads": max(2, tower[0] // 64),
        "out_hidden_size": hidden,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
    }
    if family == "qwen2_5_vl":
        # Windows of two tokens a side, so that both window attention and its re-ordering take part.
        # One time step a second, because transformers 5.5 multiplied the positions of still images by it.
        vision |= {"depth": 2, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        vision |= {"tokens_per_second": 1}
        text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}}
        return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    if family == "qwen3_vl":
        vision |= {
            "depth": tower[1],
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        }
        text |= {
            "head_dim": head,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": section,
                "mrope_interleaved": True,
            },
        }
        return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
    raise ValueError(family)


def save_tiny_mllm(
    folder: Path,
    family: str = "qwen3_vl",
    *,
    hidden: int = 64,
    layers: int = 4,
    tower: tuple[int, int] = (32, 4),
    seed: int = 0,
) -> Path:
    """Write a model folder with random weights and return it; `tower` is width and (Qwen3-VL) depth of the vision."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    config = _config(family, tokenizer, hidden, layers, tower)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        names = {
            "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
            "qwen3_vl": "Qwen3VLForConditionalGeneration",
        }
        model = getattr(transformers, names[family])(config).eval()
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if weights.ndim > 1:
                    # Outputs about as large as inputs: every layer and every token has a say in the answer.
                    scale = 1.0 if "embed" in name else 1.5 / weights[0].numel() ** 0.5
                    weights.normal_(std=scale)
                elif name.endswith("bias"):
                    weights.normal_(std=0.1)
    model.save_pretrained(folder)
    mean, std = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]) if family == "qwen2_5_vl" else ([0.5] * 3, [0.5] * 3)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "Qwen2VLImageProcessor",
                "patch_size": config.vision_config.patch_size,
                "merge_size": 2,
                "temporal_patch_size": 2,
                "image_mean": mean,
                "image_std": std,
                "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 2**24},
            }
        )
    )
    return folder
