"""`imgrank models`: the list, models of one's own, and how both look in a terminal and in a pipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import in_terminal

COMMON = ["schema_version", "kind", "name", "family", "title", "supported"]
FACTS = ["parameters", "download_bytes", "licence", "gated", "offline", "presets", "note"]


@pytest.fixture
def models(imgrank, tmp_path: Path):
    """The command without a network and with an empty cache; returns the finished process."""
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    return lambda *arguments, **more: imgrank("models", *arguments, env=environment, **more)


def records(run: subprocess.CompletedProcess[bytes]) -> list[dict]:
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr == b""
    return [json.loads(line) for line in run.stdout.splitlines()]


def write_config(folder: Path, config: object, **files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def test_a_pipe_gets_one_record_a_model_encoders_first(models) -> None:
    run = models()
    found = records(run)
    assert run.stdout == models().stdout  # the same bytes each time
    kinds = [record["kind"] for record in found]
    assert kinds == sorted(kinds)
    assert set(kinds) == {"encoder", "mllm"}
    for record in found:
        assert list(record)[:6] == COMMON
        assert list(record)[-7:] == FACTS
        assert record["supported"] is True
    assert [record["name"] for record in found if record["offline"]] == ["builtin", "builtin"]
    assert found[0]["name"] == "builtin"


def test_kind_lists_one_kind(models) -> None:
    whole = records(models())
    for kind in ("encoder", "mllm"):
        assert records(models("--kind", kind)) == [record for record in whole if record["kind"] == kind]


def test_the_numbers_of_a_model_worked_by_hand(models) -> None:
    found = {record["name"]: record for record in records(models())}
    model = found["Qwen/Qwen3-VL-8B-Instruct"]
    assert (model["hidden"], model["levels"], model["token_side"], model["presets"]) == (4096, 4, 32, ["best"])
    assert (model["tokens_per_photo"], model["tokens_kept"]) == (18 * 13, 96)
    # Four levels of 4096 numbers: two bytes each, or one and a float32 scale for each level; 6 bytes for the place.
    assert model["bytes_per_token"] == {"float16": 4 * 4096 * 2 + 6, "int8": 4 * (4096 + 4) + 6}
    assert model["bytes_per_photo"] == {"float16": 96 * 32774, "int8": 96 * 16406}
    assert model["profile"] is None
    assert found["Qwen/Qwen3-VL-Reranker-8B"]["profile"] == "qwen3-vl-reranker"
    assert (model["licence"], model["gated"]) == ("Apache-2.0", False)
    assert 17e9 < model["download_bytes"] < 18e9


def test_a_model_in_the_cache_is_offline_when_it_is_complete(models, tmp_path: Path) -> None:
    name = "Qwen/Qwen3-VL-2B-Instruct"
    repository = tmp_path / "hub" / "models--Qwen--Qwen3-VL-2B-Instruct"
    config = {"model_type": "qwen3_vl", "text_config": {"hidden_size": 2048}}
    folder = write_config(repository / "snapshots" / "abc", config)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    def offline() -> list[str]:
        return [record["name"] for record in records(models()) if record["offline"]]

    listed = next(record for record in records(models()) if record["name"] == name)
    assert offline() == ["builtin", "builtin", name]  # an encoder and a language model
    assert records(models(name)) == [listed]  # read from its files, the same as from the catalogue
    (folder / "model.safetensors").unlink()
    assert offline() == ["builtin", "builtin"]
    assert records(models(name)) == [listed | {"offline": False}]


def test_a_listed_model_needs_no_network(models) -> None:
    names = ["google/siglip2-so400m-patch14-384", "Qwen/Qwen2.5-VL-7B-Instruct", "builtin"]
    listed = records(models())
    assert records(models(*names)) == [record for name in names for record in listed if record["name"] == name]
    assert [record["kind"] for record in records(models("builtin"))] == ["encoder", "mllm"]


def test_a_folder_is_described_from_its_configuration(models, tmp_path: Path) -> None:
    config = {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 100}, "vision_config": {"patch_size": 7}}
    folder = write_config(tmp_path / "Mine", config)
    (record,) = records(models("Mine", cwd=tmp_path))
    assert (record["name"], record["kind"], record["family"]) == ("Mine", "mllm", "qwen2_5_vl")
    assert (record["token_side"], record["tokens_per_photo"]) == (14, 40 * 30)
    assert record["bytes_per_token"] == {"float16": 206, "int8": 110}
    assert [record[fact] for fact in FACTS] == [None, None, None, None, True, [], ""]
    (folder / "tokenizer.json").unlink()
    assert records(models(folder))[0]["offline"] is False
    encoder = write_config(tmp_path / "Enc", {"model_type": "dinov2", "hidden_size": 384, "image_size": 518})
    (record,) = records(models(encoder))
    assert (record["kind"], record["dim"], record["image_size"], record["offline"]) == ("encoder", 384, 518, True)


def test_a_reranker_in_a_folder_gets_its_profile(models, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "Qwen3-VL-Reranker-2B", {"model_type": "qwen3_vl"})
    assert records(models(folder))[0]["profile"] == "qwen3-vl-reranker"


def write_adapter(folder: Path, base: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_text("")
    return folder


def test_an_adapter_is_described_by_its_base_model(models, tmp_path: Path) -> None:
    write_config(tmp_path / "base", {"model_type": "qwen3_vl", "text_config": {"hidden_size": 64}})
    folder = write_adapter(tmp_path / "lora", "../base")
    (base,) = records(models("base", cwd=tmp_path))
    (adapter,) = records(models("lora", cwd=tmp_path))
    assert adapter == base | {"name": "lora", "adapter_of": "../base"}
    assert adapter["offline"] is True
    (folder / "adapter_model.safetensors").unlink()
    assert records(models("lora", cwd=tmp_path))[0]["offline"] is False
    assert b"adapter of: ../base" in models("lora", "--format", "table", cwd=tmp_path).stdout
    write_adapter(tmp_path / "of-listed", "Qwen/Qwen3-VL-2B-Instruct")
    (adapter,) = records(models("of-listed", cwd=tmp_path))
    assert (adapter["hidden"], adapter["licence"], adapter["offline"]) == (2048, None, False)


@pytest.mark.parametrize("base", [None, 3, "", ".", "nowhere/at-all"])
def test_an_adapter_of_nothing_is_refused(models, tmp_path: Path, base: object) -> None:
    run = models(write_adapter(tmp_path / "lora", base))
    assert run.returncode == 3
    assert run.stdout == b""
    assert b"Traceback" not in run.stderr


@pytest.mark.parametrize("family", ["bert", "qwen3_vl_moe", None, ["clip"], {}])
def test_an_unsupported_architecture_is_an_answer_not_an_error(models, tmp_path: Path, family: object) -> None:
    folder = write_config(tmp_path / "other", {"model_type": family})
    (record,) = records(models(folder))
    assert (record["supported"], record["kind"], record["family"]) == (False, None, family)
    assert repr(family) in record["reason"]
    assert "qwen3_vl" in record["reason"]
    assert "siglip" in record["reason"]
    shown = models(folder, "--format", "table").stdout.decode()
    assert "not supported" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["./missing"], 3, "no such folder"),
        (["someone/unknown-model"], 3, "HF_HUB_OFFLINE"),
        (["empty"], 3, "config.json"),
        (["broken"], 2, "hidden"),
        (["--kind", "mllm", "builtin"], 2, "--kind"),
        (["--kind", "both"], 2, "--kind"),
        (["--format", "tsv"], 2, "--format"),
    ],
)
def test_bad_input(models, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    (tmp_path / "empty").mkdir()
    write_config(tmp_path / "broken", {"model_type": "qwen3_vl", "text_config": {"hidden_size": "hidden"}})
    run = models(*arguments, cwd=tmp_path)
    assert run.returncode == code
    assert run.stdout == b""
    assert words in run.stderr.decode()
    assert "Traceback" not in run.stderr.decode()


def test_help_ends_with_an_example_and_claims_no_more_than_was_tested(models) -> None:
    shown = models("--help").stdout.decode()
    assert "Example:\n      imgrank models" in shown
    assert "expected to work" in " ".join(shown.split())


def test_it_loads_no_model_library() -> None:
    code = (
        "import sys, imgrank.cli as c\n"
        "try:\n    c.cli.main(['models', '--format', 'jsonl'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'h5py', 'cv2', 'httpx', 'rich'}\n"
        "print(*heavy & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == ""
    assert len(run.stdout.splitlines()) > 10


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_gets_tables_that_fit(columns: int, tmp_path: Path) -> None:
    shown = in_terminal(["models"], None, columns, NO_COLOR="1", HF_HUB_CACHE=str(tmp_path))
    lines = [line.rstrip() for line in shown.splitlines()]
    assert all(len(line) <= columns for line in lines)
    assert "\x1b" not in shown
    heads = [line.split() for line in lines if line.startswith("model ")]
    assert heads == [
        ["model", "GB", "px", "dim", "licence", "offline"],
        ["model", "GB", "px", "tokens", "KiB", "licence", "offline"],
    ]
    if columns >= 80:  # else the name takes two lines
        (row,) = (line for line in lines if line.startswith("Qwen/Qwen3-VL-8B-Instruct "))
        assert row.split() == ["Qwen/Qwen3-VL-8B-Instruct", "17.5", "32", "234", "3073", "Apache-2.0"]
    encoder, model = (line for line in lines if line.startswith("builtin "))
    assert encoder.split() == ["builtin", "0.0", "any", "1024", "Apache-2.0", "yes"]
    assert model.split() == ["builtin", "0.0", "any", "512", "65", "Apache-2.0", "yes"]
    assert "…" not in shown  # nothing is cut off


def test_colour_is_for_terminals_that_want_it(tmp_path: Path, models) -> None:
    assert "\x1b[" in in_terminal(["models", "--kind", "encoder"], None, 80, HF_HUB_CACHE=str(tmp_path))
    assert b"\x1b" not in models("--format", "table").stdout


def test_models_of_ones_own_in_a_terminal(tmp_path: Path) -> None:
    config = {"model_type": "qwen3_vl", "text_config": {"hidden_size": 100}}
    folder = write_config(tmp_path / "a\x1b[31mred", config)
    shown = in_terminal(["models", folder, "builtin"], None, 80, NO_COLOR="1")
    assert "\x1b" not in shown  # neither ours nor those of a name
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    text = " ".join(shown.split())
    assert "token: 32 px a side, 4 vectors of 100 numbers; 806 B in float16, 422 B in int8" in text
    assert "4:3 photo: 234 tokens, 96 after pruning; 75.6 KiB in float16, 39.6 KiB in int8" in text
    assert "use: --encoder" in text
