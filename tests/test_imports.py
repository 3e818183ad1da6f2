"""The import table of docs/architecture.md, held by reading every import statement of the package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "imgrank"
MODULES = sorted(PACKAGE.rglob("*.py"))
SHARED = {
    "config",
    "records",
    "results",
    "devices",
    "errors",
    "arrays",
    "groups",
    "boxes",
    "progress",
    "version",
    "checkpoints",
    "durations",
    "hub_cache",
    "nearest",
    "prefetch",
    "pretrained",
    "sizes",
    "user_cache",
    "user_config",
}
SIBLINGS = {"images", "encode", "bundle", "index", "mllm", "tokens", "local"}
ALLOWED = {  # folder -> folders it may import beside itself and the shared modules
    "images": set(),
    "local": {"images.resize"},
    "encode": {"images.resize", "local"},
    "bundle": set(),
    "index": set(),
    "mllm": {"images.resize", "local"},
    "tokens": set(),
    "rerank": {"mllm", "tokens", "local"},
    "report": {"images.resize"},
    "evaluation": {"images.resize"},
    "training": {"images", "local", "encode", "mllm", "tokens.prune"},
    "steps": SIBLINGS | {"rerank", "report", "training", "evaluation"},
    "library": {"steps", "encode.base"},
    "cli": {
        "steps",
        "images.scan",
        "evaluation.qrels",
        "evaluation.datasets",
        "evaluation.measures",
        "report.pareto",
        "report.shown",
        "encode.catalogue",
        "mllm.catalogue",
    },
}
OWNERS = {  # library -> where it may be imported
    "h5py": {"bundle", "steps.embed", "steps.cache_plans", "steps.requantize"},
    "hnswlib": {"index.hnsw"},
    "transformers": {"encode", "mllm", "pretrained"},
    "huggingface_hub": {"checkpoints", "hub_cache", "pretrained"},
    "peft": {"mllm.lora"},
    "timm": {"encode.timm"},
    "cv2": {"local"},
    "PIL": {"images", "report", "training", "steps.demo"},
    "pillow_heif": {"images"},
    "click": {"cli"},
    "rich": {"cli"},
    "tqdm": {"cli"},
    "torch": {
        *("encode", "mllm", "rerank.packing", "tokens", "devices", "pretrained"),
        *("steps.bench", "steps.doctor", "training"),
    },
    "matplotlib": {"report.curves", "report.pareto", "report.reliability"},
    "sklearn": {"rerank.calibration_fit"},
    "textual_image": {"cli.preview"},
    "pyarrow": {"steps.export_hits"},
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_table(path: Path) -> None:
    module = name_of(path)
    folder = module.split(".")[0]
    for imported in imports(path):
        library = imported.split(".")[0]
        if library in OWNERS:
            assert inside(module, OWNERS[library]), f"{module} imports {imported}"
        if library == "imgrank" and folder in ALLOWED:
            target = imported.removeprefix("imgrank.")
            fine = inside(target, SHARED | {folder} | ALLOWED[folder]) or target == "__version__"
            assert fine, f"{module} imports {imported}"


def test_every_folder_is_in_the_table() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(ALLOWED)
