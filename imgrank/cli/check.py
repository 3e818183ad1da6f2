"""`imgrank check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import options

if TYPE_CHECKING:
    from imgrank.steps.check import CheckReport

DAMAGED = 4  # exit code: the bundle has errors


@click.command(short_help="Find what is wrong with a bundle, and mend it.")
@options.bundle_argument
@click.option("--fast", is_flag=True, help="Structure, counts and ids only: no checksums of rows, no look for photos.")
@click.option("--no-photos", is_flag=True, help="Do not look whether the photos are still on the disk.")
@click.option("--repair", is_flag=True, help="Build again what is derived and drop what is lost, after a backup.")
@click.option("--fidelity", is_flag=True, help="Score the pairs of a cache's proof with its tokens instead.")
@click.option("--cache", metavar="NAME", help="For --fidelity: token cache.  [default: the only one]")
@click.option(
    "--mllm", metavar="MODEL", help="For --fidelity: where the model is now.  [default: the one the cache names]"
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16", "bfloat16"]),
    help="For --fidelity: number type of the model.  [default: that of the proof]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.  [default: where output is no terminal]")
@options.root_option
@options.device_option
@options.quiet_option
def command(bundle: Path, **chosen: Any) -> int:
    """Look through a bundle: checksums of every part, counts, offsets and ids, the graph, and the photos on the disk.

    Each finding has a code, and the command that mends it. Exits with 4 when there are errors; warnings and notes are
    no errors. With --repair, photos whose rows are damaged are dropped (index their folder again), damaged tokens,
    caches and calibrations too, and the graph is built; BUNDLE.backup-1 keeps the file as it was.

    With --fidelity, scores from cached tokens are compared with those from all tokens, which were kept when the cache
    was made. Needs the model and no photos. What is compared: logit differences of pairs of a photo with all of its
    tokens and a photo with what the cache keeps.

    \b
    Example:
        imgrank check db.h5
        imgrank check db.h5 --json | jq -r '.findings[].code'
        imgrank check db.h5 --repair
        imgrank check db.h5 --fidelity --cache small --json | jq .kendall_tau
    """
    from imgrank.cli.console import Console

    console = Console(chosen["quiet"])
    as_json = chosen["as_json"] or not sys.stdout.isatty()
    if chosen["fidelity"]:
        _check_fidelity(console, bundle, chosen, as_json)
        return 0
    return _check(console, bundle, chosen, as_json)


def _check(console: Any, bundle: Path, chosen: dict[str, Any], as_json: bool) -> int:
    from imgrank.steps.check import check
    from imgrank.steps.repair import repair

    if chosen["repair"] and chosen["fast"]:
        raise click.UsageError("--repair needs all of the checks; leave --fast out")
    report = check(bundle, fast=chosen["fast"], photos=not chosen["no_photos"], root=chosen["root"], reporter=console)
    _print(bundle, report, as_json and not chosen["repair"])
    if chosen["repair"]:
        done = repair(bundle, report, reporter=console)
        if done.backup is not None:
            gone = [("cache", name) for name in done.caches] + [("calibration", name) for name in done.calibrations]
            lost = "".join(f", {kind} {name!r} dropped" for kind, name in gone)
            console.note(f"repaired: {done.dropped} photos dropped{lost}; {done.backup} is the bundle as it was")
            report = done.after
        _print(bundle, report, as_json)
    if report.errors:
        console.note(f"{bundle}: {report.errors} errors")
        return DAMAGED
    then = f"imgrank index PHOTOS -o {bundle}" if chosen["repair"] else f"imgrank search {bundle} QUERY.jpg"
    console.done(f"{bundle}: {report.images} photos, no errors", then)
    return 0


def _print(bundle: Path, report: CheckReport, as_json: bool) -> None:
    if as_json:
        findings = [finding.record(str(bundle)) for finding in report.findings]
        click.echo(
            json.dumps({"bundle": str(bundle), "images": report.images, "errors": report.errors, "findings": findings})
        )
        return
    from imgrank.images.scan import printable

    for finding in report.findings:
        about = f" ({finding.count})" if finding.count > 1 else ""
        click.echo(f"{finding.severity} {finding.code} {printable(finding.part)}: {finding.meaning()}{about}")
        if finding.detail:
            click.echo(f"    {printable(finding.detail)}")
        if finding.rows:
            more = ", ..." if finding.count > len(finding.rows) else ""
            click.echo(f"    rows {', '.join(map(str, finding.rows))}{more}")
        click.echo(f"    mend: {finding.mend(str(bundle))}")


def _check_fidelity(console: Any, bundle: Path, chosen: dict[str, Any], as_json: bool) -> None:
    from imgrank.steps.fidelity import check_fidelity

    wanted = {name: chosen[name] for name in ("cache", "mllm", "device", "dtype")}
    found = check_fidelity(bundle, **wanted, reporter=console)
    scores = found.scores.record()
    if as_json:
        own = {"cache": found.cache, "model": found.model, "recipe": found.recipe, "dtype": found.dtype}
        click.echo(json.dumps({**own, "same_question": found.same_question, **scores}))
    else:
        click.echo(f"{found.cache}: {found.model}, {found.recipe}")
        for name, value in scores.items():
            click.echo(f"  {name.replace('_', ' '):20}{'not defined' if value is None else value}")
    if not found.same_question:
        console.note("the model is asked in another way, or in other numbers, than when the proof was made")
