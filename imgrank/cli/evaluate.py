"""`imgrank eval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli import options, scorer_options
from imgrank.config import DecodeSettings

if TYPE_CHECKING:
    from imgrank.steps.evaluate import Evaluation

PROTOCOL_NAMES = ("trec", "revisited", "gldv2", "top100", "ilias")

measure_options = options.together(
    click.option(
        "--qrels",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Judgements: TREC qrels, or lines `query photo`; below 0 is junk.",
    ),
    click.option(
        "--protocol",
        default="trec",
        show_default=True,
        type=click.Choice(PROTOCOL_NAMES),
        help="Which measures, computed as that benchmark's evaluator does.",
    ),
    click.option(
        "--measure",
        "measures",
        multiple=True,
        metavar="NAME",
        help="AP, AP@100, P@1, R@100, RR, nDCG@10, oracle-AP, ...; several; instead of the protocol's.",
    ),
)


@click.command(name="eval", short_help="Measure rankings by judgements.")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--run", "run", type=click.File("rb"), metavar="FILE", help="Hits to measure, JSON lines or a TREC run.")
@measure_options
@click.option(
    "--queries",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the query photos; without it they are photos of the bundle, left out of their own ranking.",
)
@click.option("-k", "--depth", default=1000, show_default=True, type=click.IntRange(min=1), help="Hits of each query.")
@click.option("--rerank", "top", type=click.IntRange(min=1), metavar="K", help="Re-rank the K best.")
@click.option("--exact", is_flag=True, help="Compare with every photo instead of following the graph.")
@click.option("--save-run", type=click.Path(dir_okay=False, path_type=Path), help="Write the hits as JSON lines.")
@scorer_options.scorer_options
@click.option("--encoder", metavar="MODEL", help="Where the encoder of the bundle lies here, if it moved.")
@options.device_option
@options.decode_options
@options.roots_option
@click.option("--per-query", is_flag=True, help="Print the measures of each query, as TSV.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.quiet_option
def command(bundle: Path | None, run: Any, **chosen: Any) -> int:
    """Measure how good rankings are, by judgements of which photos are right for which query.

    Either of a bundle, which is searched for every judged query, or of a --run that is there. Judged queries without a
    ranking count as 0; photos without judgement count as wrong; junk, and the query itself, is taken out first.

    \b
    Example:
        imgrank eval db.h5 --qrels q.tsv --rerank 50
        imgrank eval --run run.jsonl --qrels q.tsv --measure AP@100 --measure P@1
        imgrank search db.h5 photos -k 100 | imgrank eval --run - --qrels q.tsv --per-query
    """
    from imgrank.cli.console import Console
    from imgrank.evaluation.measures import PROTOCOLS, measure
    from imgrank.evaluation.qrels import read_qrels
    from imgrank.results import read_rankings
    from imgrank.steps.evaluate import evaluate

    if (bundle is None) == (run is None):
        raise click.UsageError("give a bundle to search, or --run FILE with hits; one of them")
    console = Console(chosen["quiet"])
    measures = chosen["measures"] or PROTOCOLS[chosen["protocol"]].measures
    for name in measures:
        measure(name)  # before the work
    qrels = read_qrels(chosen["qrels"])
    skipped = 0
    if run is not None:
        (name,) = options.run_names(run)
        rankings = list(read_rankings(run, source=name))
    else:
        assert bundle is not None
        rankings, skipped = _searched(console, bundle, qrels, chosen)
    result = evaluate(rankings, qrels, measures)
    tell_left_out(console, result)
    if chosen["as_json"]:
        click.echo(json.dumps(_report(result, per_query=chosen["per_query"])))
    elif chosen["per_query"]:
        _print_queries(result)
    else:
        _print_summary(result)
    return options.IMAGES_SKIPPED if skipped else 0


def _searched(console: Any, bundle: Path, qrels: Any, chosen: dict[str, Any]) -> tuple[list[Any], int]:
    from imgrank.errors import ImageError
    from imgrank.steps.collection import open_collection
    from imgrank.steps.evaluate import save_run, searched
    from imgrank.steps.outputs import check_output
    from imgrank.steps.rerank import Reranker

    if chosen["save_run"] is not None:
        check_output(chosen["save_run"], ".jsonl", force=True)
    limits = DecodeSettings(chosen["max_megapixels"], chosen["workers"])
    photos = open_collection([bundle], limits, chosen["roots"])
    reranker = None
    if chosen["top"] is not None:
        settings, request, score_cache = scorer_options.second_stage(chosen["top"], chosen)
        reranker = Reranker(photos, settings, request, score_cache=score_cache, reporter=console)
    wanted = {name: chosen[name] for name in ("queries", "depth", "exact", "encoder", "device")}
    rankings, skipped = [], 0
    with console.bar(len(qrels), "eval", "query") as advance:
        for answer in searched(photos, qrels, reranker=reranker, **wanted):
            advance(1)
            if isinstance(answer, ImageError):
                skipped += 1
                console.skipped(answer)
            else:
                rankings.append(answer)
    if chosen["save_run"] is not None:
        save_run(chosen["save_run"], rankings)
    return rankings, skipped


def tell_left_out(console: Any, result: Evaluation) -> None:
    """Say what was counted in a way that one might not expect."""
    if result.by_last_name:
        console.note("no whole name of a query is judged; names are compared by what follows the last /")
    if result.missing:
        console.note(f"{len(result.missing)} judged queries have no ranking and count as 0: {_some(result.missing)}")
    if result.without_positives:
        left = result.without_positives
        console.note(f"{len(left)} judged queries have no relevant photo and are left out: {_some(left)}")
    if result.unjudged:
        console.note(f"{len(result.unjudged)} queries are not judged and are left out: {_some(result.unjudged)}")


def _some(names: list[bytes]) -> str:
    from imgrank.images.scan import display

    return ", ".join(map(display, names[:3])) + (", ..." if len(names) > 3 else "")


def _print_summary(result: Evaluation) -> None:
    width = max(map(len, result.measures))
    for name, row in result.summary().items():
        click.echo(f"{name:{width}}  {row['mean']:.4f}  [{row['low']:.4f}, {row['high']:.4f}]")
    click.echo(f"{'queries':{width}}  {len(result.values)}")


def _print_queries(result: Evaluation) -> None:
    from imgrank.results import tsv_field

    out = sys.stdout.buffer
    out.write("\t".join(["query", *result.measures]).encode() + b"\n")
    for query, values in result.values.items():
        numbers = [str(value).encode() for value in values]
        out.write(b"\t".join([tsv_field(query), *numbers]) + b"\n")
    out.flush()


def _report(result: Evaluation, *, per_query: bool) -> dict[str, Any]:
    import os

    def names(queries: list[bytes]) -> list[str]:
        return [os.fsdecode(query) for query in queries]

    report: dict[str, Any] = {
        "schema_version": 1,
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
