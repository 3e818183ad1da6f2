"""Multimodal language models of every supported family, with random weights, small enough to build in a test.

`save_tiny_mllm(folder, family)` writes a complete model folder (config, safetensors, tokenizer with a chat template,
preprocessor settings) that the real loading code loads. The weights come from a fixed seed and are large enough that
pairs of photos get clearly different logits. What is a family's own is in `tests/families`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.families import gemma3, idefics3, internvl, llava_onevision, qwen, qwen3_5
from tests.families.base import TinyFamily

_MODULES = (gemma3, idefics3, internvl, llava_onevision, qwen, qwen3_5)
TINY: dict[str, TinyFamily] = {family.key: family for module in _MODULES for family in module.FAMILIES}
FAMILIES = tuple(TINY)

_CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_CORPUS = [
    "The first photo shows one object, and the second photo shows the same object or another one.",
    "Reply with one digit only: 1 if it does, 0 if it does not. Is this the very same building, work or product?",
    "yes no true false system user assistant You compare photos. Yes No",
    *["Yes", "No"] * 20,  # whole words, as they stand at the start of a reply
]


def save_tokenizer(folder: Path, family: TinyFamily) -> transformers.PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer with the family's special tokens and single-digit numbers."""
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
    special = [*_CHAT_TOKENS, *family.special]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(family.special),
        chat_template=family.chat_template,
    )
    fast.save_pretrained(folder)
    return fast


def save_tiny_mllm(
    folder: Path,
    family: str | TinyFamily = "qwen3_vl",
    *,
    hidden: int = 64,
    layers: int = 4,
    tower: tuple[int, int] = (32, 4),
    seed: int = 0,
) -> Path:
    """Write a model folder with random weights and return it; `tower` is width and depth of the vision."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = TINY[family] if isinstance(family, str) else family
    tokenizer = save_tokenizer(folder, tiny)
    config = tiny.config(tokenizer, hidden, layers, tower)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, tiny.model_class)(config).eval()
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if weights.ndim > 1:
                    # Outputs about as large as inputs: every layer and every token has a say in the answer.
                    scale = 1.0 if "embed" in name else 1.5 / weights[0].numel() ** 0.5
                    weights.normal_(std=scale)
                elif name.endswith("bias"):
                    weights.normal_(std=0.1)
    model.save_pretrained(folder)
    tiny.write_preparation(folder, config)
    return folder
