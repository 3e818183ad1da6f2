"""`requantize`: a token cache in, the same tokens in fewer bytes out; no photos, no model.

The new cache is written beside the old one in parts, and takes its place in one commit at the end. A run that was cut
goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgrank.bundle import file, layout
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import (
    ImageTokens,
    TokenColumn,
    TokenTable,
    append_tokens,
    check_cache_name,
    create_tokens,
    replace_tokens,
    write_proof,
)
from imgrank.config import TokenSettings
from imgrank.errors import InputError, SettingsError
from imgrank.mllm.base import VisualTokens
from imgrank.progress import SILENT, Reporter
from imgrank.steps.codebooks import codebook_arrays
from imgrank.steps.features import kept_settings, reduced, stored_codebooks
from imgrank.steps.sample import TRAINING_TOKENS
from imgrank.tokens.base import Codec, Reducer
from imgrank.tokens.product_quantization import check_subvectors, train_codebooks
from imgrank.tokens.recipe import codebook_spec, codec_of, parse_recipe, recipe_text, reducers_of

PART = 64  # rows of one commit
_DRAWN = 64  # rows that are read at a time for the sample; another number gives another sample


@dataclass
class RequantizeSummary:
    """What `requantize` did.

    Attributes:
        cache: name of the new cache.
        recipe: all that was done to its tokens.
        images: rows with tokens.
        tokens_before: in the old cache.
        tokens: in the new one.
        bytes_before: of the old columns.
        bytes: of the new columns and codebooks.
        error: mean squared distance of tokens from what they were, as a share of their mean squared length; of the
            tokens that this run wrote, and without those that were left out.
    """

    cache: str
    recipe: str
    images: int = 0
    tokens_before: int = 0
    tokens: int = 0
    bytes_before: int = 0
    bytes: int = 0
    error: float = 0.0


def requantize(
    bundle: Path,
    recipe: str,
    *,
    cache: str | None = None,
    to: str | None = None,
    device: str = "cpu",
    reporter: Reporter = SILENT,
) -> RequantizeSummary:
    """Apply a recipe to the tokens that a cache holds.

    Args:
        bundle: with a cache of visual tokens.
        recipe: what to do with the stored tokens; without a size.
        cache: its name; None takes the only one.
        to: name of the new cache; None puts it in the place of the old one.
        device: where codebooks are trained and tokens encoded.
        reporter: hears of progress.

    Raises:
        SettingsError: the recipe asks for another size, or there are several caches and none was named.
        MissingGroupError: there is no such cache.
        InputError: there are too few tokens to train codebooks on.
    """
    with file.Writer(bundle) as writer, file.read(bundle) as opened:
        table = visual_table(opened, cache)
        name = check_cache_name(to or table.name)
        before = kept_settings(table.provenance)
        wanted = parse_recipe(recipe, before)
        if (wanted.longer_side, wanted.max_tokens) != (before.longer_side, before.max_tokens):
            raise SettingsError("stored tokens have the size they have; leave resize and max-tokens out of the recipe")
        steps = " | ".join(step for step in (before.reduce, wanted.reduce) if step)
        after = replace(wanted, reduce=steps)
        provenance = requantized(table.provenance, before, after)
        if name in opened.token_tables and name != table.name:
            raise SettingsError(f"{bundle} has a cache {name!r} already; choose another name for --to")
        incoming = layout.UNFINISHED + name
        summary = RequantizeSummary(name, recipe_text(after), bytes_before=_bytes(table))
        work = _Work(table, before, reducers_of(wanted, device))
        begun = opened.unfinished.get(incoming)
        if begun is not None and begun.provenance.settings != provenance.settings:
            with writer.transaction() as h5:  # of a run with other wishes
                del h5[layout.TOKENS][incoming]
            begun = None
        if begun is None:
            _create(writer, work, incoming, after, provenance, device, reporter)
        with file.read(bundle) as now:
            codec = codec_of(after, stored_codebooks(now.unfinished[incoming]), device)
            known = len(now.unfinished[incoming])
        lost, length = 0.0, 0.0
        with reporter.bar(len(table), "requantize", "photo") as advance:
            advance(known)
            for start in range(known, len(table), PART):
                rows = range(start, min(start + PART, len(table)))
                images = []
                for tokens in table.read(rows):
                    image, change, size = work.again(tokens, codec)
                    images.append(image)
                    lost, length = lost + change, length + size
                with writer.transaction() as h5:
                    append_tokens(h5, incoming, images)
                advance(len(rows))
        with writer.transaction() as h5:
            replace_tokens(h5, incoming, name)
    with file.read(bundle) as opened:
        made = opened.tokens(name)
        summary.images = int(np.count_nonzero(np.diff(made.offsets)))
        summary.tokens_before, summary.tokens = int(table.offsets[-1]), int(made.offsets[-1])
        summary.bytes = _bytes(made)
        summary.error = lost / length if length else 0.0
    return summary


def visual_table(bundle: file.Bundle, cache: str | None) -> TokenTable:
    """Return a cache of visual tokens: the one that is named, or the only one.

    Raises:
        SettingsError: there are several, or the one named holds local features.
        MissingGroupError: there is none.
    """
    visual = [table for table in bundle.token_tables.values() if table.kind == "mllm"]
    if cache is None and len(visual) > 1:
        names = ", ".join(sorted(table.name for table in visual))
        raise SettingsError(f"{bundle.path} has several token caches ({names}); choose one with --cache")
    table = visual[0] if cache is None and visual else bundle.tokens(cache or layout.DEFAULT_CACHE)
    if table.kind != "mllm":
        raise SettingsError(f"cache {table.name!r} holds local features, not visual tokens of a model")
    return table


def requantized(provenance: Provenance, before: TokenSettings, after: TokenSettings) -> Provenance:
    """Return the provenance of tokens that were stored once before, in `from`."""
    values = json.loads(provenance.settings)
    values |= json.loads(after.to_json()) | {"from": [*values.get("from", []), before.store]}
    return replace(provenance, settings=json.dumps(values, sort_keys=True))


class _Work:
    """Decodes stored tokens and reduces them further."""

    def __init__(self, table: TokenTable, settings: TokenSettings, reducers: list[Reducer]) -> None:
        self.table, self._reducers = table, reducers
        self._codec = codec_of(settings, stored_codebooks(table))

    def decoded(self, tokens: ImageTokens) -> VisualTokens:
        columns = dict(tokens.columns)
        positions = columns.pop("position")
        return reduced(VisualTokens(self._codec.decode(columns), positions, tokens.grid, tokens.tiles), self._reducers)

    def again(self, tokens: ImageTokens, codec: Codec) -> tuple[ImageTokens, float, float]:
        """Return an image's tokens in the new form, the sum of their squared changes, and of their squared lengths."""
        if not tokens.columns:
            return tokens, 0.0, 0.0
        left = self.decoded(tokens)
        columns = codec.encode(left.vectors)
        change = float(((codec.decode(columns) - left.vectors).astype(np.float64) ** 2).sum())
        size = float((left.vectors.astype(np.float64) ** 2).sum())
        image = ImageTokens({**columns, "position": left.positions}, tokens.grid, tokens.status, tokens.tiles)
        return image, change, size

    def sample(self, count: int, seed: int = 0) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors of randomly chosen images until there are so many tokens."""
        order = np.random.default_rng([0xC0DE, seed]).permutation(len(self.table))
        for start in range(0, len(order), _DRAWN):
            for tokens in self.table.read(np.sort(order[start : start + _DRAWN]).tolist()):
                if tokens.columns:
                    vectors = self.decoded(tokens).vectors.astype(np.float32)
                    yield vectors
                    count -= len(vectors)
            if count <= 0:
                return


def _create(
    writer: file.Writer,
    work: _Work,
    name: str,
    settings: TokenSettings,
    provenance: Provenance,
    device: str,
    reporter: Reporter,
) -> None:
    first = next(work.sample(1), None)
    if first is None:
        raise InputError(f"cache {work.table.name!r} of {work.table.path} holds no tokens yet")
    levels, hidden = first.shape[1:]
    spec, codebooks = codebook_spec(settings), None
    if spec is not None:
        check_subvectors(spec.subvectors, hidden)
        vectors = np.concatenate(list(work.sample(TRAINING_TOKENS)))[:TRAINING_TOKENS]
        reporter.note(f"training codebooks for {settings.store} on {len(vectors)} tokens")
        codebooks = train_codebooks(vectors, spec, device=device)
    codec = codec_of(settings, codebooks, device)
    columns = [TokenColumn(key, kind, tail) for key, (kind, tail) in codec.columns(levels, hidden).items()]
    columns.append(TokenColumn("position", "<u2", (3,)))
    arrays = None if codebooks is None else codebook_arrays(codebooks)
    proof = work.table.proof
    kept = None if proof is None else proof.read()
    with writer.transaction() as h5:
        create_tokens(h5, name, "mllm", codec.name, columns, provenance, codebooks=arrays)
        if proof is not None and kept is not None:
            write_proof(h5, name, kept, proof.facts)


def _bytes(table: TokenTable) -> int:
    columns = sum(len(view) * view.row_bytes for view in table.columns.values())
    return columns + (0 if table.codebooks is None else table.codebooks.size)
