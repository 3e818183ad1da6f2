"""The library's front door: a bundle as an object, with the steps and defaults of the command line.

    import imgrank

    db = imgrank.open("db.h5")
    for hit in db.search("vase.jpg", k=10, rerank=50):
        print(hit.rank, hit.score, hit.file)

What is loaded for one search (encoder, graph, model) is kept for the next.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from imgrank.arrays import Floats, Ids, Pixels
from imgrank.boxes import Box
from imgrank.config import (
    DecodeSettings,
    EncoderSettings,
    Fuse,
    GraphSettings,
    RerankSettings,
    SearchSettings,
    Thresholds,
)
from imgrank.errors import ImageError, SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.records import STATUS_NAMES
from imgrank.results import Ranking

if TYPE_CHECKING:
    from imgrank.encode.base import Encoder
    from imgrank.steps.rerank import Reranker
    from imgrank.steps.search import Query, Searcher
    from imgrank.steps.shortlist import Shortlister

PathLike: TypeAlias = str | bytes | os.PathLike[str]
QueryLike: TypeAlias = PathLike | int | Pixels  # a photo file, the id of a photo of the bundle, or pixels (h, w, 3)

T = TypeVar("T")
_KEPT = 4  # graphs or models that stay loaded


@dataclass(frozen=True)
class Photo:
    """A photo that a bundle lists.

    Attributes:
        id: which is never used again for another photo.
        file: where it lies, or lay when it was indexed.
        width: pixels of the upright photo; 0 where it could not be read.
        height: likewise.
        status: one of `imgrank.records.STATUS_NAMES`; only photos that are "ok" can be found.
    """

    id: int
    file: Path
    width: int
    height: int
    status: str


class Database:
    """A bundle, or several as one, open for searching; made by `imgrank.open`.

    It shows the state of the files when they were opened. Not for use from several threads at once.
    """

    def __init__(
        self,
        bundles: Sequence[Path],
        *,
        roots: Sequence[Path] = (),
        decode: DecodeSettings | None = None,
        encoder: str | None = None,
        device: str = "auto",
        score_cache: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        from imgrank.steps.collection import open_collection

        self._photos = open_collection(bundles, decode, roots)
        self._asked_encoder, self._device = encoder, device
        self._score_cache, self._reporter = score_cache, reporter
        self._encoder: Encoder | None = None
        self._shortlisters: OrderedDict[Hashable, Shortlister] = OrderedDict()
        self._rerankers: OrderedDict[Hashable, Reranker] = OrderedDict()

    # What is there

    def __len__(self) -> int:
        """Return how many photos can be found."""
        return sum(int(self._photos.searched(part).sum()) for part in range(len(self._photos.parts)))

    def photos(self) -> Iterator[Photo]:
        """Yield every photo that is listed, also those that could not be read or were removed, in order of rows."""
        for part in self._photos.parts:
            for row, image_id in enumerate(part.ids.tolist()):
                record = part.bundle.images.record(row)
                status = STATUS_NAMES[part.statuses[row]]
                yield Photo(image_id, Path(os.fsdecode(part.path(row))), record.width, record.height, status)

    def descriptors(self) -> tuple[Ids, Floats]:
        """Return (n,) int64 ids and (n, dim) float32 descriptors, unit rows, of the photos that can be found.

        Raises:
            SettingsError: several bundles are open, so an id is not enough to tell photos apart.
        """
        if self._photos.several:
            raise SettingsError("several bundles are open; take the descriptors of each by itself")
        (part,) = self._photos.parts
        rows = self._photos.searched(0).nonzero()[0]
        return part.ids[rows], part.bundle.descriptors.read()[rows]

    def info(self) -> list[dict[str, Any]]:
        """Return for each bundle what `imgrank info --json` prints."""
        from imgrank.steps.info import describe

        return [describe(part.bundle.path) for part in self._photos.parts]

    # Searching

    def search(
        self,
        query: QueryLike | Sequence[QueryLike],
        *,
        k: int = SearchSettings.top_k,
        rerank: int | None = None,
        box: tuple[int, int, int, int] | None = None,
        fuse: Fuse | None = None,
        **options: Any,
    ) -> Ranking:
        """Find the photos that show the same thing as a query.

        Args:
            query: a photo file; the id of a photo of the (first) bundle, which is then not among its own hits; or
                (h, w, 3) uint8 sRGB pixels. With `fuse`, several of these that show one object.
            k: hits.
            rerank: look again at so many of the best and re-order them; None leaves the shortlist as it is.
            box: search for this part of the one photo file: left, top, width, height in pixels.
            fuse: "mean", "max" or "rrf": how several photos become one query.
            options: as of `imgrank search`, with the same defaults: fields of `SearchSettings` (ef, exact,
                exclude_self, collapse, copies_at, expand, expand_alpha), of `Thresholds` (min_score,
                min_probability), of `RerankSettings` (scorer, lam, task, ...) and of
                `imgrank.steps.second_stage.Request` (mllm, cache, prompt_file, compile); `filter` and `exclude`,
                patterns over stored paths.

        Returns:
            At most `k` hits, best first.

        Raises:
            ImageError: a photo of the query cannot be read.
            BundleError: the bundle has no descriptors or graph yet, or they do not fit the encoder that is here.
            SettingsError: options that do not exist, or contradict each other.
        """
        together: Sequence[QueryLike] = query if isinstance(query, list | tuple) else [query]  # type: ignore[list-item]
        if len(together) != 1 and fuse is None:
            raise SettingsError(
                f"{len(together)} queries; search for each with search_many, or give fuse= for one object"
            )
        searcher = self._searcher(k, rerank, options)
        return searcher.search(self._query(together, box, fuse))

    def search_many(
        self, queries: Iterable[QueryLike], *, k: int = SearchSettings.top_k, rerank: int | None = None, **options: Any
    ) -> Iterator[Ranking | ImageError]:
        """Search for each query in turn, as it comes; one that cannot be read gives its error in its place.

        While a query is re-ranked, the next one is read. Arguments are those of `search`.
        """
        searcher = self._searcher(k, rerank, options)
        return searcher.search_all(self._query([query], None, None) for query in queries)

    def rerank(self, ranking: Ranking, *, top: int = RerankSettings.top, **options: Any) -> Ranking:
        """Re-order hits of this bundle, as `imgrank rerank` does.

        Args:
            ranking: from `search`, or from `imgrank.results.read_rankings`.
            top: candidates that are looked at again.
            options: fields of `RerankSettings`, `Request` and `Thresholds`; see `search`.

        Raises:
            InputError: a hit is not of this bundle, or the query photo is gone.
        """
        from imgrank.steps.rerank import rerank_rankings

        chosen = _Options(options)
        reranker = self._reranker(top, chosen)
        thresholds = chosen.take(Thresholds)
        chosen.end()
        (ranked,) = rerank_rankings(iter([ranking]), reranker, thresholds=thresholds)
        return ranked

    def close(self) -> None:
        """Close the files; what was found stays."""
        self._photos.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self.close()

    # What is loaded for it

    def _query(self, photos: Sequence[QueryLike], box: tuple[int, int, int, int] | None, fuse: Fuse | None) -> Query:
        from imgrank.steps.search import Query

        asked = tuple(self._photos.row_of_query(photo) if isinstance(photo, int) else _name(photo) for photo in photos)
        if box is not None:
            if len(asked) != 1 or not isinstance(asked[0], bytes):
                raise SettingsError("box= is a part of one photo file; name parts of several as photo.jpg#xywh=x,y,w,h")
            asked = (Box(*box).of(asked[0]),)
        return Query(asked, fuse or "mean")

    def _searcher(self, k: int, rerank: int | None, options: dict[str, Any]) -> Searcher:
        from imgrank.steps.bundle_encoder import load_bundle_encoder
        from imgrank.steps.search import Searcher
        from imgrank.steps.selection import Selection
        from imgrank.steps.shortlist import Shortlister

        chosen = _Options(options)
        settings = replace(chosen.take(SearchSettings, but="top_k"), top_k=k)
        patterns = [tuple(map(os.fsencode, _listed(chosen.values.pop(name, ())))) for name in ("filter", "exclude")]
        photos = self._photos.selecting(Selection(*patterns))
        thresholds = chosen.take(Thresholds)
        reranker = None if rerank is None else self._reranker(rerank, chosen)
        chosen.end()
        if self._encoder is None:
            bundle = self._photos.parts[0].bundle
            self._encoder = load_bundle_encoder(bundle, self._asked_encoder, self._device)
        key = (settings.ef, settings.exact, *patterns)
        shortlister = _kept(self._shortlisters, key, lambda: Shortlister(photos, settings))
        return Searcher(
            photos,
            settings,
            reranker=reranker,
            thresholds=thresholds,
            encoder=self._encoder,
            shortlister=shortlister,
        )

    def _reranker(self, top: int, chosen: _Options) -> Reranker:
        from imgrank.steps.rerank import Reranker
        from imgrank.steps.second_stage import Request

        settings = replace(chosen.take(RerankSettings, but="top"), top=top)
        request = replace(chosen.take(Request, but="device"), device=self._device)
        return _kept(
            self._rerankers,
            (settings, request),
            lambda: Reranker(self._photos, settings, request, score_cache=self._score_cache, reporter=self._reporter),
        )


def open(  # imgrank.open, as in gzip.open
    bundle: PathLike,
    *more: PathLike,
    roots: Sequence[PathLike] = (),
    encoder: str | None = None,
    device: str = "auto",
    decode: DecodeSettings | None = None,
    score_cache: PathLike | None = None,
    reporter: Reporter = SILENT,
) -> Database:
    """Open a bundle for searching.

    Args:
        bundle: the file.
        more: further bundles of the same encoder, searched as if all were one.
        roots: folder of the photos of each bundle, where they are not where the bundles say.
        encoder: where the encoder of the bundle lies on this machine, if it moved.
        device: for models: "auto", "cpu", "cuda", "cuda:1" or "mps".
        decode: limits and threads for reading photos.
        score_cache: file in which a model's answers are kept between runs, as the command line does in the user's
            cache; None keeps none.
        reporter: hears what the command line prints on standard error.

    Raises:
        BundleError: a file is no bundle, is damaged, or is of a newer version.
        SettingsError: a bundle is named twice, or there are not as many roots as bundles.
    """
    return Database(
        [_path(one) for one in (bundle, *more)],
        roots=[_path(root) for root in roots],
        decode=decode,
        encoder=encoder,
        device=device,
        score_cache=None if score_cache is None else _path(score_cache),
        reporter=reporter,
    )


def index_photos(
    paths: PathLike | Sequence[PathLike],
    bundle: PathLike,
    *,
    encoder: str | EncoderSettings | None = None,
    graph: GraphSettings | None = None,
    decode: DecodeSettings | None = None,
    root: PathLike | None = None,
    thumbnails: int | None = None,
    device: str = "auto",
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> Database:
    """Make photos searchable, as `imgrank index PATHS -o BUNDLE` does, and open the bundle.

    A bundle that is there follows its folders; photos that cannot be read are recorded in it, with the reason.

    Args:
        paths: photos and folders.
        bundle: the file to make or to bring up to date.
        encoder: model or settings; None takes the bundle's own, or the built-in one.
        graph: None takes the settings of the present graph, or the defaults.
        decode: limits and threads for reading photos.
        root: folder the stored paths are relative to, for a new bundle.
        thumbnails: keep a small picture of each photo, its longer side so many pixels; None keeps none.
        device: for models.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Raises:
        InputError: there are no photos, or a path does not exist.
        MismatchError: the bundle was made with another encoder.
    """
    from imgrank.steps.build_index import build_index
    from imgrank.steps.embed import embed

    target = _path(bundle)
    embed(
        target,
        [os.fsencode(path) for path in _listed(paths)],
        encoder=EncoderSettings(model=encoder) if isinstance(encoder, str) else encoder,
        decode=decode,
        root=None if root is None else _path(root),
        device=device,
        thumbnails=thumbnails,
        strict=strict,
        reporter=reporter,
    )
    build_index(target, graph, reporter=reporter)
    return open(target, device=device, decode=decode, reporter=reporter)


class _Options:
    """Keyword arguments that are fields of several settings."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self._known = dict(values), ["filter", "exclude"]

    def take(self, kind: type[T], but: str = "") -> T:
        """Return settings with the fields that were given, and the defaults of the rest; `but` is not an option."""
        own = _names(kind, but)
        self._known += own
        return kind(**{name: self.values.pop(name) for name in own if name in self.values})

    def end(self) -> None:
        """Refuse what nobody took.

        Raises:
            SettingsError: an option does not exist, or is for re-ranking and nothing re-ranks.
        """
        if not self.values:
            return
        from difflib import get_close_matches

        from imgrank.steps.second_stage import Request

        name = next(iter(self.values))
        if name in {*_names(RerankSettings), *_names(Request)}:
            raise SettingsError(f"{name}= is of the second look: give rerank=K")
        close = get_close_matches(name, self._known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(self._known))}"
        raise SettingsError(f"no option {name!r} here; {hint}")


def _names(kind: type, but: str = "") -> list[str]:
    return [field.name for field in fields(kind) if field.name != but]


def _kept(store: OrderedDict[Hashable, T], key: Hashable, make: Callable[[], T]) -> T:
    """Return what was made for a key before, or make it; what was not used for longest goes."""
    if key not in store:
        store[key] = make()
    store.move_to_end(key)
    while len(store) > _KEPT:
        store.popitem(last=False)
    return store[key]


def _name(photo: PathLike | Pixels) -> bytes | Pixels:
    return os.fsencode(photo) if isinstance(photo, str | bytes | os.PathLike) else photo


def _path(path: PathLike) -> Path:
    return Path(os.fsdecode(path))


def _listed(paths: PathLike | Sequence[PathLike]) -> Sequence[PathLike]:
    return [paths] if isinstance(paths, str | bytes | os.PathLike) else paths
