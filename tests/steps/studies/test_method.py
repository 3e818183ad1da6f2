"""Lines that say how a shortlist is re-ranked."""

from pathlib import Path

import pytest

from imgrank.config import RerankSettings
from imgrank.errors import SettingsError
from imgrank.steps.second_stage import Request
from imgrank.steps.studies.method import check_labels, parse_method

REQUEST = Request(device="cpu")


def test_a_line_is_settings_and_names(tmp_path: Path) -> None:
    (tmp_path / "my prompt.txt").write_text("same? {query} {candidate}")
    line = (
        f"mllm label='Qwen, small' cache=small mllm=some/model lambda=0.3 task=product symmetric=yes answers=yes-no "
        f"dtype=bfloat16 prompt-file='{tmp_path / 'my prompt.txt'}'"
    )
    method = parse_method(line, top=7, request=REQUEST)
    assert method.label == "Qwen, small"
    assert method.text == line
    assert method.settings == RerankSettings(
        top=7, lam=0.3, scorer="mllm", task="product", symmetric=True, answers="yes-no", dtype="bfloat16"
    )
    assert (method.request.cache, method.request.mllm, method.request.device) == ("small", "some/model", "cpu")
    assert method.request.prompt_file == tmp_path / "my prompt.txt"
    assert method.facts()["prompt"] == "same? {query} {candidate}"


def test_what_is_not_said_is_the_default() -> None:
    method = parse_method("geometric", top=50, request=REQUEST)
    assert method.settings == RerankSettings(scorer="geometric")
    assert method.label == "geometric"


def test_the_first_stage_has_no_settings() -> None:
    assert parse_method("none label=shortlist", top=50, request=REQUEST).settings is None
    assert parse_method("none", top=50, request=REQUEST).facts() == {"method": "none"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "begin with none, mllm"),
        ("geometry", "geometric"),
        ("auto", "begin with"),
        ("mllm cash=small", "cache"),
        ("mllm small", "no setting key=value"),
        ("mllm cache=", "no setting key=value"),
        ("mllm cache=a cache=b", "given twice"),
        ("mllm task=cat", "task is one of object"),
        ("mllm lambda=much", "a number between 0 and 1"),
        ("mllm lambda=1.5", "between 0 and 1"),
        ("mllm lambda=nan", "between 0 and 1"),
        ("mllm symmetric=perhaps", "yes or no"),
        ("mllm prompt-file=/nowhere/p.txt", "there is no file"),
        ("mllm label='open", "No closing quotation"),
        ("none lambda=0.3", "nothing to set but its label"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_method(line, top=50, request=REQUEST)


def test_two_methods_cannot_have_one_name() -> None:
    methods = [parse_method(line, top=5, request=REQUEST) for line in ("geometric", "maxsim label=geometric")]
    with pytest.raises(SettingsError, match="label=NAME"):
        check_labels(methods)
    check_labels(methods[:1])
