"""`imgrank eval`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import judged_options, options, scorer_options
from imgrank.config import DecodeSettings

if TYPE_CHECKING:
    from imgrank.errors import ImageError
    from imgrank.evaluation.datasets.base import Dataset
    from imgrank.results import Ranking
    from imgrank.steps.evaluate import Evaluation


@click.command(name="eval", short_help="Measure rankings by judgements.")
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path), metavar="[BUNDLE]...")
@click.option("--run", "run", type=click.File("rb"), metavar="FILE", help="Hits to measure, JSON lines or a TREC run.")
@judged_options.judgement_options
@judged_options.measure_options
@judged_options.searched_options
@click.option("--rerank", "top", type=click.IntRange(min=1), metavar="K", help="Re-rank the K best.")
@click.option("--save-run", type=click.Path(dir_okay=False, path_type=Path), help="Write the hits as JSON lines.")
@scorer_options.scorer_options
@click.option("--encoder", metavar="MODEL", help="Where the encoder of the bundle lies here, if it moved.")
@options.device_option
@options.decode_options
@options.roots_option
@click.option("--per-query", is_flag=True, help="Print the measures of each query, as TSV.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.quiet_option
def command(bundles: tuple[Path, ...], run: Any, **chosen: Any) -> int:
    """Measure how good rankings are, by judgements of which photos are right for which query.

    Either of bundles, which are searched for every judged query, or of a --run that is there. Judged queries without a
    ranking count as 0; photos without judgement count as wrong; junk, and the query itself, is taken out first.

    \b
    Example:
        imgrank eval db.h5 --qrels q.tsv --rerank 50
        imgrank eval --run run.jsonl --qrels q.tsv --measure AP@100 --measure P@1
        imgrank search db.h5 photos -k 100 | imgrank eval --run - --qrels q.tsv --per-query
        imgrank eval ox.h5 1m.h5 --dataset roxford5k --data ./roxford5k --distractors 1m --rerank 100
    """
    from imgrank.cli.console import Console
    from imgrank.results import read_rankings
    from imgrank.steps.evaluate import evaluate_tasks
    from imgrank.steps.judged_photos import names_of_run

    if bool(bundles) == (run is not None):
        raise click.UsageError("give a bundle to search, or --run FILE with hits; one of them")
    console = Console(chosen["quiet"])
    dataset = judged_options.dataset_of(chosen)
    measures = judged_options.measures_of(chosen, dataset)
    skipped: list[ImageError] = []
    if run is not None:
        (name,) = options.run_names(run)
        rankings = read_rankings(run, source=name)
        if chosen["dataset"] is not None:
            rankings = names_of_run(rankings, dataset)
    else:
        rankings = _searched(console, bundles, dataset, chosen, skipped)
    results = evaluate_tasks(rankings, dataset, measures)
    for task, result in results.items():
        tell_left_out(console, task, result)
    if chosen["as_json"]:
        click.echo(json.dumps(_report(results, dataset, per_query=chosen["per_query"])))
    elif chosen["per_query"]:
        _print_queries(results)
    else:
        _print_summary(results)
    return options.IMAGES_SKIPPED if skipped else 0


def _searched(
    console: Any, bundles: tuple[Path, ...], dataset: Dataset, chosen: dict[str, Any], skipped: list[ImageError]
) -> Iterator[Ranking]:
    """Yield the rankings of judged queries as they are found; queries that cannot be read are told and listed."""
    from imgrank.errors import ImageError
    from imgrank.steps.collection import open_collection
    from imgrank.steps.evaluate import check_missing, saved_run, searched
    from imgrank.steps.judged_photos import JudgedPhotos
    from imgrank.steps.outputs import check_output
    from imgrank.steps.rerank import Reranker

    if chosen["save_run"] is not None:
        check_output(chosen["save_run"], ".jsonl", force=True)
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection(bundles, limits, chosen["roots"])
    judged = JudgedPhotos(photos, dataset, chosen["queries"])
    check_missing(judged, allow=chosen["allow_missing"], reporter=console)
    if judged.left_out:
        hint = "" if dataset.database is None else "; --distractors rest takes them for distractors"
        console.note(f"{judged.left_out} photos of the bundles are not of {dataset.title} and are not ranked{hint}")
    reranker = None
    if chosen["top"] is not None:
        settings, request, score_cache = scorer_options.second_stage(chosen["top"], chosen)
        reranker = Reranker(judged.photos, settings, request, score_cache=score_cache, reporter=console)
    wanted = {name: chosen[name] for name in ("exact", "encoder", "device")}
    depth = judged_options.depth_of(chosen, judged)

    def found() -> Iterator[Ranking]:
        with console.bar(len(judged.queries()), "eval", "query") as advance:
            for answer in searched(judged, depth=depth, reranker=reranker, **wanted):
                advance(1)
                if isinstance(answer, ImageError):
                    skipped.append(answer)
                    console.skipped(answer)
                else:
                    yield answer

    path = chosen["save_run"]
    yield from found() if path is None else saved_run(path, found())


def tell_left_out(console: Any, task: str, result: Evaluation) -> None:
    """Say what was counted in a way that one might not expect."""
    where = f"{task}: " if task else ""
    if result.by_last_name:
        console.note(f"{where}no whole name of a query is judged; names are compared by what follows the last /")
    if result.missing:
        missing = result.missing
        console.note(f"{where}{len(missing)} judged queries have no ranking and count as 0: {_some(missing)}")
    if result.without_positives:
        left = result.without_positives
        console.note(f"{where}{len(left)} judged queries have no relevant photo and are left out: {_some(left)}")
    if result.unjudged:
        left = result.unjudged
        console.note(f"{where}{len(left)} queries are not judged and are left out: {_some(left)}")


def _some(names: list[bytes]) -> str:
    from imgrank.images.scan import display

    return ", ".join(map(display, names[:3])) + (", ..." if len(names) > 3 else "")


def _print_summary(results: dict[str, Evaluation]) -> None:
    for task, result in results.items():
        if task:
            click.echo(task)
        width = max(map(len, result.measures))
        for name, row in result.summary().items():
            click.echo(f"{name:{width}}  {row['mean']:.4f}  [{row['low']:.4f}, {row['high']:.4f}]")
        click.echo(f"{'queries':{width}}  {len(result.values)}")


def _print_queries(results: dict[str, Evaluation]) -> None:
    from imgrank.results import tsv_field

    out = sys.stdout.buffer
    named = any(results)
    for place, (task, result) in enumerate(results.items()):
        before = [task.encode()] if named else []
        if place == 0:
            out.write("\t".join([*(["task"] if named else []), "query", *result.measures]).encode() + b"\n")
        for query, values in result.values.items():
            numbers = [str(value).encode() for value in values]
            out.write(b"\t".join([*before, tsv_field(query), *numbers]) + b"\n")
    out.flush()


def _report(results: dict[str, Evaluation], dataset: Dataset, *, per_query: bool) -> dict[str, Any]:
    head = {"schema_version": 1}
    if not any(results):
        return head | _task_report(results[""], per_query=per_query)
    tasks = {task: _task_report(result, per_query=per_query) for task, result in results.items()}
    return head | {"dataset": dataset.title, "tasks": tasks}


def _task_report(result: Evaluation, *, per_query: bool) -> dict[str, Any]:
    import os

    def names(queries: list[bytes]) -> list[str]:
        return [os.fsdecode(query) for query in queries]

    report: dict[str, Any] = {
        "queries": len(result.values),
        "measures": result.summary(),
        "missing": names(result.missing),
        "without_positives": names(result.without_positives),
        "unjudged": names(result.unjudged),
    }
    if per_query:
        report["per_query"] = {
            os.fsdecode(query): dict(zip(result.measures, values, strict=True))
            for query, values in result.values.items()
        }
    return report
