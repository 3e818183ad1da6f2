"""`imgrank dataset`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Look at a published data set.")
@click.argument("name", required=False)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", help="Where it lies.")
@click.option("--distractors", metavar="NAME", help="With these distractors.")
@click.option(
    "--list",
    "listed",
    type=click.Choice(["photos", "queries", "missing", "qrels"]),
    help="Print paths of ranked photos, of queries, or of what is not on the disk; or judgements.",
)
@click.option("--task", metavar="TASK", help="Of which --list qrels prints the judgements, where there are several.")
@click.option("-0", "--null", is_flag=True, help="End paths with a zero byte instead of a newline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, listed: str | None, **chosen: Any) -> None:
    """Look at a published data set: what it holds, which photos to index, what is missing on this disk.

    Without NAME, list the data sets that `imgrank eval --dataset` knows, and the files that each needs. Nothing is
    downloaded: get a data set from its authors, and give its folder.

    \b
    Example:
        imgrank dataset
        imgrank dataset roxford5k --data ./roxford5k
        imgrank dataset roxford5k --data ./roxford5k --list photos -0 | imgrank index - -0 -o ox.h5
    """
    from imgrank.evaluation.datasets.registry import DATASETS, read_dataset
    from imgrank.steps import list_dataset

    if name is None:
        _print_known(DATASETS, as_json=chosen["as_json"])
        return
    if chosen["data"] is None:
        raise click.UsageError("give --data FOLDER: where the data set lies")
    dataset = read_dataset(name, chosen["data"], chosen["distractors"])
    if listed == "qrels":
        tasks = [task.name for task in dataset.tasks]
        task = chosen["task"] if chosen["task"] is not None or len(tasks) > 1 else tasks[0]
        if task not in tasks:
            raise click.UsageError(f"--task: {dataset.title} has {', '.join(filter(None, tasks)) or 'one task only'}")
        _print_lines(list_dataset.qrels_lines(dataset, task), b"\n")
    elif listed is not None:
        found = {
            "photos": list_dataset.photo_files,
            "queries": list_dataset.query_names,
            "missing": list_dataset.missing_files,
        }[listed](dataset)
        _print_lines(found, b"\0" if chosen["null"] else b"\n")
    else:
        _print_counts(dataset, as_json=chosen["as_json"])


def _print_known(names: Iterable[str], *, as_json: bool) -> None:
    from imgrank.evaluation.datasets.registry import reader

    for name in names:
        one = reader(name)
        if as_json:
            record = {
                "name": name,
                "title": one.title,
                "source": one.source,
                "layout": one.layout,
                "distractors": one.distractors,
            }
            click.echo(json.dumps(record))
            continue
        click.echo(f"{name}: {one.title}")
        for line in one.layout:
            click.echo(f"    {line}")
        if one.distractors:
            click.echo(f"    --distractors {'|'.join(one.distractors)}")


def _print_counts(dataset: Any, *, as_json: bool) -> None:
    from dataclasses import asdict

    from imgrank.steps.list_dataset import count_tasks, missing_files

    tasks = count_tasks(dataset)
    missing = sum(1 for _ in missing_files(dataset))
    photos = None if dataset.database is None else len(dataset.database)
    if as_json:
        record = {
            "schema_version": 1,
            "dataset": dataset.title,
            "protocol": dataset.protocol,
            "photos": photos,
            "queries": len(dataset.queries),
            "missing": missing,
            "tasks": [asdict(task) for task in tasks],
        }
        click.echo(json.dumps(record))
        return
    click.echo(f"{dataset.title}: measured as {dataset.protocol}")
    click.echo(f"photos   {'all of the bundles' if photos is None else photos}")
    click.echo(f"missing  {missing} of the photos and queries are not on this disk")
    for task in tasks:
        click.echo(
            f"{task.name or 'queries'}: {task.queries} queries, {task.with_positives} of them with relevant photos; "
            f"{task.positives} relevant, {task.wrong} wrong, {task.junk} junk"
        )


def _print_lines(lines: Iterable[bytes], end: bytes) -> None:
    out = sys.stdout.buffer
    for line in lines:
        out.write(line + end)
    out.flush()
