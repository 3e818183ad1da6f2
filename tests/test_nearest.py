import pytest

from imgrank.nearest import did_you_mean, nearest

MODELS = ["builtin", "Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", "google/gemma-3-4b-it"]


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("Qwen/Qwen3-VL-8B-Instrct", "Qwen/Qwen3-VL-8B-Instruct"),
        ("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct"),
        ("other/Gemma-3-4b-it", "google/gemma-3-4b-it"),
        ("BUILTIN", "builtin"),
    ],
)
def test_the_nearest_comes_first(typed: str, first: str) -> None:
    assert nearest(typed, MODELS)[0] == first


@pytest.mark.parametrize("typed", ["", "xyzzy", "Qwen/Qwen3-VL-8B-Instruct"])
def test_what_is_like_nothing_or_right_has_no_nearest(typed: str) -> None:
    assert nearest(typed, MODELS) == []
    assert did_you_mean(typed, MODELS) == ""


def test_few_are_named() -> None:
    names = [f"model-{number}" for number in range(9)]
    assert len(nearest("model", names)) == 3
    assert did_you_mean("model-", names, 2) == "did you mean model-0 or model-1?"
