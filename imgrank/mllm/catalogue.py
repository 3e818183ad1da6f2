"""Known checkpoints of the supported families: what they are called, how large they are, what they may be used for.

Facts only, from the configuration files and pages of the checkpoints (read up to 2026-10). Anything that follows from
a number here is computed by whoever needs it (`geometry`, `imgrank.steps.models`). A checkpoint is listed because an
adapter covers its architecture; adapters are tested on small random models of the same architecture, so these weights
are expected to work and were not run. Any other checkpoint of a family does as well; the list is for people who
have none yet. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imgrank.config import BUILTIN


@dataclass(frozen=True)
class Family:
    """An architecture that has an adapter.

    Attributes:
        title: its name in prose.
        source: where it is described.
    """

    title: str
    source: str


@dataclass(frozen=True)
class KnownModel:
    """A published checkpoint, or the model that comes with imgrank.

    Attributes:
        name: id on the Hugging Face hub, or "builtin".
        family: key of `FAMILIES`.
        parameters: numbers in its weight files.
        hidden: length of a token vector.
        licence: SPDX name, or the name its publisher gives it.
        token_side: pixels per token side, where it is not the usual one of the family.
        tile: pixels per tile side, where it is not the usual one of the family.
        weight_bytes: of a number in its files.
        gated: whether the hub asks for a login and for consent to the licence.
        note: what one should know beside that.
    """

    name: str
    family: str
    parameters: int
    hidden: int
    licence: str = "Apache-2.0"
    token_side: int | None = None
    tile: int | None = None
    weight_bytes: int = 2
    gated: bool = False
    note: str = ""

    @property
    def download_bytes(self) -> int:
        """Size of the weight files; 0 where they are part of imgrank."""
        return 0 if self.name == BUILTIN else self.parameters * self.weight_bytes


FAMILIES: Mapping[str, Family] = {  # by `model_type` of config.json
    "imgrank_keypoints": Family("built-in", "docs/builtin-models.md"),
    "qwen2_vl": Family("Qwen2-VL", "arXiv:2409.12191"),
    "qwen2_5_vl": Family("Qwen2.5-VL", "arXiv:2502.13923"),
    "qwen3_vl": Family("Qwen3-VL", "arXiv:2511.21631"),
    "qwen3_5": Family("Qwen3.5", "https://huggingface.co/Qwen/Qwen3.5-9B"),
    "qwen3_5_moe": Family("Qwen3.5, mixture of experts", "https://huggingface.co/Qwen/Qwen3.5-35B-A3B"),
    "internvl": Family("InternVL3", "arXiv:2508.18265"),
    "llava_onevision": Family("LLaVA-OneVision", "arXiv:2408.03326"),
    "gemma3": Family("Gemma 3", "arXiv:2503.19786"),
    "smolvlm": Family("SmolVLM2", "arXiv:2504.05299"),
    "idefics3": Family("Idefics3 and SmolVLM", "arXiv:2408.12637"),
}

_M = 10**6
_QWEN = "Qwen licence"
_QWEN_RESEARCH = "Qwen Research"
_GEMMA = "Gemma"
_FLOAT32 = "its files are float32, so the download is twice the size of the loaded model"
_RERANKER = "tuned to re-rank; asked with the prompt it was trained with"

KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        BUILTIN, "imgrank_keypoints", 1_820_000, 192, note="no download, runs on any CPU; compares, and knows no words"
    ),
    KnownModel("Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl", 2209 * _M, 1536),
    KnownModel("Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl", 8291 * _M, 3584),
    KnownModel(
        "code-kunkun/LamRA-Rank", "qwen2_vl", 8291 * _M, 3584, "MIT",
        note=_RERANKER + "; its authors load tokenizer and photo settings from Qwen/Qwen2-VL-7B-Instruct: "
        "copy them into its folder where they are missing",
    ),
    KnownModel(
        "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", 3755 * _M, 2048, _QWEN_RESEARCH, note="not for commercial use"
    ),
    KnownModel(
        "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", 8292 * _M, 3584,
        note="the model of the published code of arXiv:2604.13268",
    ),
    KnownModel("Qwen/Qwen2.5-VL-32B-Instruct", "qwen2_5_vl", 33453 * _M, 5120),
    KnownModel("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl", 73406 * _M, 8192, _QWEN),
    KnownModel("Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl", 2128 * _M, 2048),
    KnownModel("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", 4438 * _M, 2560),
    KnownModel("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", 8767 * _M, 4096),
    KnownModel("Qwen/Qwen3-VL-32B-Instruct", "qwen3_vl", 33357 * _M, 5120),
    KnownModel("Qwen/Qwen3-VL-Reranker-2B", "qwen3_vl", 2128 * _M, 2048, note=_RERANKER),
    KnownModel("Qwen/Qwen3-VL-Reranker-8B", "qwen3_vl", 8767 * _M, 4096, note=_RERANKER),
    KnownModel("Qwen/Qwen3.5-0.8B", "qwen3_5", 873 * _M, 1024),
    KnownModel("Qwen/Qwen3.5-2B", "qwen3_5", 2274 * _M, 2048),
    KnownModel("Qwen/Qwen3.5-4B", "qwen3_5", 4660 * _M, 2560),
    KnownModel("Qwen/Qwen3.5-9B", "qwen3_5", 9653 * _M, 4096),
    KnownModel("Qwen/Qwen3.5-27B", "qwen3_5", 27781 * _M, 5120),
    KnownModel(
        "Qwen/Qwen3.5-35B-A3B",
        "qwen3_5_moe",
        35952 * _M,
        2048,
        note="a mixture of experts: all of it is loaded, 3 billion parameters compute a token",
    ),
    KnownModel("OpenGVLab/InternVL3_5-1B-HF", "internvl", 1061 * _M, 1024),
    KnownModel("OpenGVLab/InternVL3_5-2B-HF", "internvl", 2348 * _M, 2048),
    KnownModel("OpenGVLab/InternVL3_5-4B-HF", "internvl", 4733 * _M, 2560),
    KnownModel("OpenGVLab/InternVL3_5-8B-HF", "internvl", 8528 * _M, 4096),
    KnownModel("OpenGVLab/InternVL3_5-14B-HF", "internvl", 15120 * _M, 5120),
    KnownModel("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "llava_onevision", 894 * _M, 896),
    KnownModel("llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision", 8030 * _M, 3584),
    KnownModel("google/gemma-3-4b-it", "gemma3", 4300 * _M, 2560, _GEMMA, gated=True),
    KnownModel("google/gemma-3-12b-it", "gemma3", 12187 * _M, 3840, _GEMMA, gated=True),
    KnownModel("google/gemma-3-27b-it", "gemma3", 27432 * _M, 5376, _GEMMA, gated=True),
    KnownModel("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "smolvlm", 256 * _M, 576, weight_bytes=4, note=_FLOAT32),
    KnownModel("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "smolvlm", 507 * _M, 960, weight_bytes=4, note=_FLOAT32),
    KnownModel(
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm", 2247 * _M, 2048, token_side=42, tile=384, weight_bytes=4,
        note=_FLOAT32,
    ),
    KnownModel("HuggingFaceTB/SmolVLM-256M-Instruct", "idefics3", 256 * _M, 576, token_side=64, tile=512),
    KnownModel("HuggingFaceTB/SmolVLM-500M-Instruct", "idefics3", 507 * _M, 960, token_side=64, tile=512),
    KnownModel("HuggingFaceTB/SmolVLM-Instruct", "idefics3", 2247 * _M, 2048, token_side=42, tile=384),
    KnownModel("HuggingFaceM4/Idefics3-8B-Llama3", "idefics3", 8462 * _M, 4096),
)  # fmt: skip


def known(name: str) -> KnownModel | None:
    """Return what is known of a hub id or "builtin"; None: it is not listed."""
    return next((one for one in KNOWN if one.name == name), None)
