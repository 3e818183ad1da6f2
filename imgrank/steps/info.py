"""`info`: what a bundle holds, as plain values."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.bundle import file, layout
from imgrank.bundle.journal import journal_path
from imgrank.bundle.table import ColumnView
from imgrank.records import OK, STATUS_NAMES
from imgrank.steps.calibration import facts_of
from imgrank.steps.features import kept_settings
from imgrank.tokens.recipe import recipe_text


def describe(bundle: Path) -> dict[str, Any]:
    """Return what a bundle holds: groups with shapes and bytes, models, settings, and whether a group is stale.

    Raises:
        BundleError: it cannot be read.
    """
    with file.read(bundle) as opened:
        images = opened.images
        statuses = images.statuses()
        counts = np.bincount(statuses, minlength=len(STATUS_NAMES))
        ok = int(counts[0])
        groups: list[dict[str, Any]] = [_group("/images", images.columns)]
        if (descriptors := opened.descriptor_table) is not None:
            groups.append(
                _group("/descriptors", descriptors.columns)
                | _provenance(descriptors.provenance)
                | {"dim": descriptors.dim, "imported_from": descriptors.imported_from or None}
            )
        if (graph := opened.graph_table) is not None:
            state = json.loads(graph.provenance.settings)
            rows = min(int(state.get("rows", 0)), len(images))
            fresh = (
                descriptors is not None
                and graph.provenance.input_digest == descriptors.digest(images.content_digest(rows))
            )  # fmt: skip
            groups.append(
                _group("/graph", graph.checked.columns)
                | _provenance(graph.provenance)
                | {"stale": not fresh, "rows_not_in_graph": len(images) - rows}
            )
        for name, table in sorted(opened.token_tables.items()):
            tokens = int(table.offsets[-1])
            groups.append(
                _group(f"/{layout.TOKENS}/{name}", {**table.images, **table.columns})
                | _provenance(table.provenance)
                | {
                    "kind": table.kind,
                    "codec": table.codec,
                    "tokens": tokens,
                    "tokens_per_image": round(tokens / ok, 1) if ok else 0.0,
                    "images_not_cached": len(images) - len(table),
                    "codebook_bytes": 0 if table.codebooks is None else table.codebooks.size,
                    "proof_bytes": 0 if table.proof is None else table.proof.size,
                    "recipe": recipe_text(kept_settings(table.provenance)) if table.kind == "mllm" else "",
                }
            )
        for name, calibration in sorted(opened.calibrations.items()):
            groups.append(
                _group(f"/{layout.CALIBRATION}/{name}", calibration.arrays.columns)
                | _provenance(calibration.provenance)
                | {"calibrated": asdict(facts_of(calibration))}
            )
        if (small := opened.thumbnail_table) is not None:
            groups.append(
                _group(f"/{layout.THUMBNAILS}", small.columns)
                | _provenance(small.provenance)
                | {
                    "thumbnails": int(np.count_nonzero(small.columns["width"].read())),
                    "images_without_place": len(images) - len(small),
                }
            )
        unseen = int(np.count_nonzero((statuses == OK) & ~images.columns["digest"].read().any(axis=1)))
        for group in groups:
            group["bytes_per_image"] = round(group["bytes"] / ok, 1) if ok else 0.0
        return {
            "path": os.fspath(bundle),
            "file_bytes": bundle.stat().st_size,
            "format_version": opened.version,
            "bundle_id": opened.bundle_id,
            "created_by": opened.created_by,
            "root": os.fsdecode(opened.root),
            "unapplied_journal": journal_path(bundle).exists(),
            "images": {STATUS_NAMES[code]: int(count) for code, count in enumerate(counts) if count},
            "unseen_images": unseen,
            "groups": groups,
        }


def _group(name: str, views: dict[str, ColumnView]) -> dict[str, Any]:
    arrays = {key: {"shape": list(view.shape), "dtype": str(view.dtype)} for key, view in views.items()}
    return {"group": name, "bytes": sum(len(view) * view.row_bytes for view in views.values()), "arrays": arrays}


def _provenance(provenance: Any) -> dict[str, Any]:
    return {
        "model": provenance.model,
        "model_revision": provenance.model_revision,
        "settings": json.loads(provenance.settings),
        "created_by": provenance.created_by,
    }
