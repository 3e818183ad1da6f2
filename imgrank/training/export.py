"""Write a trained network as a model folder that `--mllm` takes: config, float16 weights, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from imgrank.local.keypoints import LocalSettings
from imgrank.mllm.keypoint_network import KeypointNetwork
from imgrank.training.matcher import CANDIDATE, ONE, QUERY, READERS, VOCABULARY, ZERO

_PHOTO = "<|photo|>"
_UNKNOWN = "<|unknown|>"

# The question is always the same, so that words are left out. A photo is announced by its place in the pair.
_TEMPLATE = """\
{%- set photos = namespace(count=0) -%}
{%- for message in messages -%}{%- if message.content is not string -%}{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{{ ('<|query|>' if photos.count == 0 else '<|candidate|>') + '<|photo|>' }}
{%- set photos.count = photos.count + 1 -%}
{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'READERS' }}{%- endif -%}"""


def export(network: KeypointNetwork, folder: Path) -> None:
    """Write the folder; equal networks give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to(torch.float16).contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = network.config.to_diff_dict()
    for key in ("transformers_version", "_name_or_path"):
        config.pop(key, None)
        config["text_config"].pop(key, None)
    config["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / "preprocessor_config.json").write_text(LocalSettings().to_json() + "\n")
    _tokenizer().save(str(folder / "tokenizer.json"))
    words = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": _UNKNOWN, "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=1, sort_keys=True) + "\n")
    readers = "".join(_names()[number] for number in READERS)
    (folder / "chat_template.jinja").write_text(_TEMPLATE.replace("READERS", readers) + "\n")


def _names() -> dict[int, str]:
    readers = {number: f"<|read{place}|>" for place, number in enumerate(READERS, 1)}
    return {0: _PHOTO, QUERY: "<|query|>", CANDIDATE: "<|candidate|>", **readers, ZERO: "0", ONE: "1"}


def _tokenizer() -> Tokenizer:
    names = _names()
    vocabulary = {name: number for number, name in sorted(names.items())}
    vocabulary[_UNKNOWN] = VOCABULARY - 1
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in vocabulary if name.startswith("<|")])
    # The answers are tokens beside the others, whatever stands before them.
    tokenizer.add_tokens([AddedToken(names[number], special=False) for number in (ZERO, ONE)])
    return tokenizer
