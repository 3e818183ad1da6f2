"""`imgrank info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from imgrank.cli import options


@click.command(short_help="Show what a bundle holds.")
@options.bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(bundle: Path, as_json: bool) -> None:
    """Show what a bundle holds: its tree with shapes, bytes per photo, models, and what is out of date.

    \b
    Example:
        imgrank info db.h5
        imgrank info db.h5 --json | jq '.groups[].bytes_per_image'
    """
    from imgrank.steps.info import describe

    facts = describe(bundle)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for line in _lines(facts):
            click.echo(line)


def _lines(facts: dict[str, Any]) -> list[str]:
    from imgrank.cli.console import size
    from imgrank.images.scan import display

    counts = ", ".join(f"{count} {name}" for name, count in facts["images"].items()) or "none"
    lines = [
        f"{facts['path']}: {size(facts['file_bytes'])}, format {facts['format_version']}, {facts['created_by']}",
        f"photos: {counts}",
        f"root: {display(facts['root'].encode('utf-8', 'surrogateescape'))}",
    ]
    if facts["unseen_images"]:
        lines.append(f"{facts['unseen_images']} of them were never seen: their descriptors were imported without them")
    if facts["unapplied_journal"]:
        lines.append("a commit waits in the journal beside the file; the next writing command copies it in")
    for group in facts["groups"]:
        lines += ["", f"{group['group']}  {size(group['bytes'])}, {size(group['bytes_per_image'])} a photo"]
        if "model" in group:
            lines.append(f"  {group['model']} ({group['model_revision']}) {json.dumps(group['settings'])}")
        if group.get("imported_from"):
            lines.append(f"  imported from {group['imported_from']}")
        if group.get("stale"):
            lines.append(f"  stale: built from other descriptors; run `imgrank index {facts['path']}`")
        if group.get("rows_not_in_graph"):
            lines.append(f"  {group['rows_not_in_graph']} newer rows are searched exactly until `imgrank index` runs")
        if "tokens" in group:
            lines.append(f"  {group['kind']}, {group['codec']}, {group['tokens_per_image']} tokens a photo")
            once = {"codebooks": group["codebook_bytes"], "proof": group["proof_bytes"]}
            stored = ", ".join(f"{name} {size(count)}" for name, count in once.items() if count)
            lines += [f"  {line}" for line in (group["recipe"], stored and f"stored once: {stored}") if line]
        if "calibrated" in group:
            held = group["calibrated"]
            lines.append(
                f"  {held['pairs']} pairs of {held['queries']} queries, {held['same']} of them the same; "
                f"calibration error {held['ece_before']:.4f} before, {held['ece']:.4f} after"
            )
        if group.get("images_not_cached"):
            lines.append(f"  {group['images_not_cached']} newer rows are not cached")
        if "thumbnails" in group:
            lines.append(f"  {group['thumbnails']} thumbnails")
        if group.get("images_without_place"):
            lines.append(f"  {group['images_without_place']} newer rows have none yet")
        for name, array in group["arrays"].items():
            shape = ", ".join(map(str, array["shape"])) + ("," if len(array["shape"]) == 1 else "")
            lines.append(f"  {name:<14} ({shape}) {array['dtype']}")
    return lines
