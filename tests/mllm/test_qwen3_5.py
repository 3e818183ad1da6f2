"""The Qwen3.5 adapters: chat, and what their hybrid language model needs beyond `tests/rerank/test_packing.py`."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import logging

from imgrank.errors import SettingsError
from imgrank.mllm.base import Segment
from imgrank.mllm.registry import load_mllm
from tests.families.qwen3_5 import FAMILIES

NAMES = [family.name for family in FAMILIES]


@pytest.fixture(scope="module", params=FAMILIES, ids=NAMES)
def pair(request, model_folder):
    folder = model_folder(request.param.name)
    network = getattr(transformers, request.param.model_class).from_pretrained(folder).eval()
    return load_mllm(str(folder), device="cpu", dtype="float32"), network


def segment(model, length: int, seed: int) -> Segment:
    """Rows that stand for text."""
    ids = torch.randint(20, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return model.text_segment(ids)


@pytest.mark.parametrize("prefix", [1, 2, 65, 200])
def test_single_tokens_and_long_suffixes_equal_whole_sequences(pair, prefix):
    model, network = pair
    start = segment(model, prefix, 0)
    ends = [segment(model, length, length) for length in (1, 130, 1, 64, 65, 3)]
    state = model.prefill(start)
    found = model.last_hidden(state, ends)
    backwards = model.last_hidden(state, ends[::-1]).flip(0)
    again = model.last_hidden(state, ends)
    for end, hidden in zip(ends, found, strict=True):
        whole = torch.cat([start.inputs, end.inputs])[None]
        with torch.no_grad():
            expected = network.model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(backwards, found, atol=2e-5, rtol=0)
    torch.testing.assert_close(again, found, atol=0, rtol=0)


def test_a_run_that_dies_half_way_leaves_the_prefix_as_it_was(pair, monkeypatch):
    model, _ = pair
    state, ends = model.prefill(segment(model, 20, 0)), [segment(model, 30, 1), segment(model, 5, 2)]
    expected = model.last_hidden(state, ends)
    layer = model._decoder.layers[2]
    with monkeypatch.context() as broken:
        broken.setattr(layer, "forward", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.last_hidden(state, ends)
    torch.testing.assert_close(model.last_hidden(state, ends), expected, atol=0, rtol=0)


THINKING = (
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{%- else -%}{{ '<think>\\n' }}{%- endif -%}"
)


@pytest.mark.parametrize("family", NAMES)
def test_the_answer_is_asked_for_at_once_whatever_the_template_does_by_default(model_folder, tmp_path, family):
    folder = shutil.copytree(model_folder(family), tmp_path / "model")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi. "}]}]
    ending = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert load_mllm(str(folder), device="cpu").chat(messages) == f"<|im_start|>user\n{image}Hi.<|im_end|>\n{ending}"
    for file in folder.glob("*.jinja"):
        file.unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": THINKING}))
    assert load_mllm(str(folder), device="cpu").chat(messages) == ending


@pytest.mark.parametrize("family", NAMES)
def test_layers_of_an_unknown_kind_are_refused(model_folder, tmp_path, family):
    folder = shutil.copytree(model_folder(family), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["layer_types"] = ["linear_attention"] * 3 + ["sliding_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SettingsError, match="sliding_attention"):
        load_mllm(str(folder), device="cpu")


def test_visual_tokens_have_one_level(pair):
    model, _ = pair
    photo = np.random.default_rng(0).integers(0, 256, (70, 100, 3), dtype=np.uint8)
    (tokens,) = model.encode([photo], longer_side=560, max_tokens=1280)
    assert tokens.grid == (2, 3)
    assert tokens.vectors.shape == (6, 1, model.hidden)
    assert model.settings["token_side"] == 32


def test_kernels_that_a_cpu_cannot_run_are_not_advised(pair, monkeypatch):
    model, _ = pair
    layer, levels = model._decoder.layers[0], []
    plain = layer.forward

    def forward(*args, **kwargs):
        levels.append(logging.get_verbosity())
        return plain(*args, **kwargs)

    monkeypatch.setattr(layer, "forward", forward)
    before = logging.get_verbosity()
    model.last_hidden(model.prefill(segment(model, 4, 0)), [segment(model, 3, 1)])
    assert levels == [logging.ERROR] * 2
    assert logging.get_verbosity() == before


def test_a_row_takes_what_its_largest_layer_holds(pair):
    # By hand for the tiny sizes: 4 x 64 for the stream; 4 x 128 in the feed-forward part, or of 2 of 4 experts
    # 2 x (4 x 64 + 2 x 64), 4 x 64 of the shared one and 4 of the choice; 4 x 96 channels and 4 x 32 values;
    # twice 4 heads x (12 x 16 + 4 x 64 + 3 x 16 x 16 // 64) in the recurrence. All of 4 bytes.
    model, _ = pair
    wide = {"qwen3_5": 512, "qwen3_5_moe": 2 * 384 + 256 + 4}[model.family]
    assert model.row_bytes == 4 * (256 + wide + 384 + 128 + 2 * 4 * (192 + 256 + 12))
