"""Settings of every step, as frozen values: the command line and the library take their defaults from here.

A settings value travels with what it made: it is written as JSON into the group of the bundle that it produced,
read back by `from_json`, and unknown or ill-typed keys are refused.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Self

from imgrank.errors import SettingsError

BUILTIN = "builtin"  # the encoder and the MLLM that come with the package; goes before folders of that name
UNKNOWN = "unknown"  # the encoder of imported descriptors, where nobody named it
Pooling = Literal["auto", "cls", "mean", "gem"]
ProjectionChoice = Literal["default", "collection"]  # or a file
Prune = Literal["divprune", "grid", "none"]
TokenDtype = Literal["float16", "bfloat16", "int8"]
ScorerName = Literal["auto", "mllm", "maxsim", "geometric"]
Task = Literal["object", "landmark", "artwork", "product", "category"]
PromptLayout = Literal["images-first", "instruction-first"]
ProfileChoice = Literal["auto", "none", "qwen3-vl-reranker", "lamra-rank", "lamra-rank-qwen2.5vl"]
Fuse = Literal["mean", "max", "rrf"]
ExplainMethod = Literal["matches", "attention"]
OutputFormat = Literal["table", "jsonl", "tsv", "trec", "paths"]
CalibrationMethod = Literal["isotonic", "logistic"]
GroupFormat = Literal["table", "jsonl", "tsv", "paths"]
Linkage = Literal["single", "average", "complete"]
DedupBy = Literal["overlay", "similarity", "content"]
Keep = Literal["largest", "oldest", "newest", "first"]
FusionMethod = Literal["rrf", "combsum", "combmnz"]


@dataclass(frozen=True)
class Settings:
    """Base of the settings values: JSON in, JSON out."""

    def to_json(self) -> str:
        """Return the settings as one line of JSON with sorted keys, so that equal settings give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SettingsError: not a JSON object, an unknown key, or a value of another type than the field's.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"{cls.__name__}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"{cls.__name__}: expected a JSON object")
        hints = typing.get_type_hints(cls)
        for key, value in values.items():
            if key not in hints:
                raise SettingsError(f"{cls.__name__}: unknown key {key!r}; known: {', '.join(sorted(hints))}")
            if not _fits(value, hints[key]):
                raise SettingsError(f"{cls.__name__}: {key} cannot be {value!r}")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is tuple:
        parts = typing.get_args(hint)
        kinds = parts[:1] * len(value) if isinstance(value, list) and parts[-1] is Ellipsis else parts
        return isinstance(value, list) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


@dataclass(frozen=True)
class DecodeSettings(Settings):
    """How photos become pixels."""

    max_megapixels: float = 200.0  # of the stored image; 0 turns the limit off
    workers: int = 0  # decoding threads; 0 takes one per core, at most 8


MAX_THUMBNAIL_SIDE = 1024  # pixels


@dataclass(frozen=True)
class ThumbnailSettings(Settings):
    """Small pictures of photos, kept in the bundle or made when somebody looks: JPEG."""

    longer_side: int = 256  # pixels
    quality: int = 80  # of 100, as libjpeg counts


MOST_SCALES, MIN_SCALE, MAX_SCALE = 8, 0.1, 4.0  # of what a model sees


@dataclass(frozen=True)
class EncoderSettings(Settings):
    """Which global descriptor, and how it is computed."""

    model: str = BUILTIN  # or a Hugging Face id or folder
    revision: str | None = None
    pooling: Pooling = "auto"  # auto: the family's own (CLS for DINO, the projected embedding for CLIP and SigLIP)
    image_size: int | None = None  # pixels; None: the model's own
    # default: the encoder's own; collection: fitted on the photos indexed first; else a file with one, of which a
    # bundle keeps the name and the digest: NAME@DIGEST
    projection: str = "default"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    projection_dim: int | None = None  # numbers kept of principal directions; None: all, or as many as the fit gives
    whitening: float | None = None  # of principal directions, 0 (none) to 1 (whole); None: 0.5
    gem_p: float | None = None  # exponent of the pooling gem; None: 3
    scales: tuple[float, ...] | None = None  # factors of the side of what the model sees; None: the one size

    def to_json(self) -> str:
        """Return one line of JSON, without settings of later versions that are not used: others can read it then."""
        later = ("projection_dim", "whitening", "gem_p", "scales")
        values = {
            key: value for key, value in dataclasses.asdict(self).items() if value is not None or key not in later
        }
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class GraphSettings(Settings):
    """The HNSW graph (Malkov and Yashunin, arXiv:1603.09320)."""

    m: int = 16  # links per node and upper level; the lowest level has 2 m
    ef_construction: int = 200
    seed: int = 100
    augment: int = 0  # neighbours that each descriptor is moved towards before the graph is built (augmentation)
    augment_alpha: float = 3.0  # their weights are their similarities to this power


@dataclass(frozen=True)
class TokenSettings(Settings):
    """What of an image's visual tokens is kept; `imgrank.tokens.recipe` reads and writes it as one line."""

    longer_side: int = 560  # pixels; the low-memory setting of arXiv:2604.13268
    max_tokens: int = 1280  # visual tokens of one image before any are left out
    reduce: str = "divprune:96"  # steps of a recipe that make fewer tokens, joined by " | "; empty keeps all
    store: str = "float16"  # the last step: how numbers are kept


@dataclass(frozen=True)
class SearchSettings(Settings):
    """The shortlist."""

    top_k: int = 100
    ef: int = 0  # candidates the graph search keeps; 0 takes max(2 k, 128)
    exact: bool = False
    exclude_self: bool = False  # leave out photos that are the query: the same file, or the same content
    collapse: bool = False  # fold hits that are copies of a better one into it
    copies_at: float | None = None  # similarity from which two hits are copies; None: by local features, as in dedup
    expand: int = 0  # neighbours of the query that are added to it (alpha query expansion)
    expand_alpha: float = 3.0  # their weights are their similarities to this power


@dataclass(frozen=True)
class Thresholds(Settings):
    """What a hit must reach to be kept; None: anything."""

    min_score: float | None = None
    min_probability: float | None = None  # only hits that were looked at again have one


@dataclass(frozen=True)
class RerankSettings(Settings):
    """The second stage."""

    top: int = 50  # candidates that are looked at again
    lam: float = 0.5  # weight of the similarity; 1 - lam is the weight of the probability
    scorer: ScorerName = "auto"
    task: Task = "object"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    profile: ProfileChoice = "auto"  # how a tuned re-ranker is asked; auto: by its name
    prompt_layout: PromptLayout | None = None  # None: the profile's, or images-first
    answers: str | None = None  # a name or file of `mllm.answers`; None: the profile's, or digits
    symmetric: bool = False  # ask about each pair in both orders
    top_only: int | None = None  # how many places of the result matter; None: all
    time_budget: float | None = None  # seconds for a query; None: as long as it takes


@dataclass(frozen=True)
class CalibrationSettings(Settings):
    """How a map from evidence to probability is learned and measured."""

    method: CalibrationMethod = "isotonic"
    top: int = 50  # candidates of each query
    folds: int = 5  # parts of the queries, each of which is measured by a map of the others
    bins: int = 10  # of the reliability table
    seed: int = 0  # deals queries out


@dataclass(frozen=True)
class ExplainSettings(Settings):
    """What is shown of a pair."""

    by: ExplainMethod = "matches"  # attention: of a language model's answer
    lines: int = 24  # matches that are shown, the strongest; of attention, tokens that are listed
    layers: tuple[int, int] | None = None  # first and last, from 1, over which attention is averaged; None: all


@dataclass(frozen=True)
class GroupSettings(Settings):
    """Which photos of a bundle show the same thing."""

    neighbours: int = 10  # of each photo, that are compared with it
    mutual: bool = False  # only pairs in which each is among the neighbours of the other
    min_similarity: float | None = None  # of a pair that is compared; None: by the scorer
    min_score: float | None = None  # of a pair that is linked; None: by the scorer
    linkage: Linkage = "average"
    exact: bool = False  # compare every two descriptors instead of following the graph


@dataclass(frozen=True)
class DedupSettings(Settings):
    """Which photos of a bundle are copies of each other."""

    by: DedupBy = "overlay"
    threshold: float = 0.65  # overlay of a pair that is a copy
    min_similarity: float | None = None  # of a pair that is compared; None: COPY_SIMILARITY, and none by similarity
    neighbours: int = 20  # of each photo, that are compared with it
    keep: Keep = "largest"
    exact: bool = False  # compare every two descriptors instead of following the graph


COPY_SIMILARITY = 0.2  # below it, few pairs are copies; docs/benchmarks.md has the numbers


@dataclass(frozen=True)
class FusionSettings(Settings):
    """How several rankings become one."""

    method: FusionMethod = "rrf"
    k: float = 60.0  # of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)
    top_k: int = 1000  # hits of each query


@dataclass(frozen=True)
class Preset:
    """A named pair of models."""

    encoder: str
    mllm: str | None  # None: the built-in local features and the geometric scorer
    gpu_memory: int  # bytes of GPU memory that run both with room for a chunk; 0 runs anywhere
    note: str


PRESETS = {
    "fast": Preset("builtin", None, 0, "no download, runs on any CPU"),
    "best": Preset(
        "google/siglip2-so400m-patch14-384",
        "Qwen/Qwen3-VL-8B-Instruct",
        24 * 2**30,
        "downloads about 20 GB; wants a GPU with 24 GB",
    ),
}
