"""What is misspelt is answered with what may have been meant."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from imgrank.config import RerankSettings
from imgrank.errors import UnknownModelError
from imgrank.progress import SILENT
from imgrank.steps.second_stage import Request, choose


@pytest.mark.parametrize(
    ("arguments", "code", "meant"),
    [
        (["search", "db.h5", "q.jpg", "--rernk", "3"], 2, "--rerank"),
        (["search", "db.h5", "q.jpg", "--format", "jsnl"], 2, "Did you mean jsonl?"),
        (["search", "db.h5", "q.jpg", "--scorer", "geometry"], 2, "Did you mean geometric?"),
        (["export", "tokens", "db.h5", "-o", "x", "--dtype", "float23"], 2, "Did you mean float32?"),
        (["search", "db.h5", "queries/query-00.jpg", "--rerank", "2", "--cache", "locl"], 4, "(there is: local)"),
        (["search", "db.h5", "queries/query-00.jpg", "--encoder", "dinov2-bas"], 2, "close: facebook/dinov2-base"),
        (
            ["search", "db.h5", "queries/query-00.jpg", "--rerank", "2", "--mllm", "Qwen/Qwen3-VL-8B-Instrct"],
            3,
            "did you mean Qwen/Qwen3-VL-8B-Instruct",
        ),
        (["models", "facebook/dinov2-bse"], 3, "did you mean facebook/dinov2-base"),
        (["study", "lamda"], 2, "Did you mean lambda?"),
        (["dataset", "roxfrod5k", "--data", "."], 2, "did you mean roxford5k?"),
        (["eval", "db.h5", "--qrels", "qrels.tsv", "--measure", "mAP@10"], 2, "the mean of AP@10 over the queries"),
    ],
)
def test_the_nearest_is_named(
    imgrank, collection: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, meant: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = imgrank(*arguments, cwd=collection)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert meant in done.stderr.decode()


def test_the_model_of_the_bundle_is_among_what_may_have_been_meant() -> None:
    table = SimpleNamespace(kind="mllm", provenance=SimpleNamespace(model="/models/my-own-model"))
    bundle = SimpleNamespace(path=Path("db.h5"), token_tables={"tokens": table})
    with pytest.raises(UnknownModelError, match="did you mean /models/my-own-model"):
        choose([bundle], RerankSettings(), Request(mllm="/models/my-own-modex", device="cpu"), SILENT)
