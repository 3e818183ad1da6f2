"""`imgrank study`: a group of studies, each loaded on use."""

from __future__ import annotations

import click

from imgrank.cli.group import TableGroup

STUDIES = {  # name -> module with a click command `command`
    "robustness": "imgrank.cli.studies.robustness",
    "groups": "imgrank.cli.studies.groups",
    "time": "imgrank.cli.studies.times",
    "memory": "imgrank.cli.studies.memory",
    "qualitative": "imgrank.cli.studies.qualitative",
    "prompts": "imgrank.cli.studies.prompts",
    "lambda": "imgrank.cli.studies.lam",
}


@click.group(cls=TableGroup, commands_table=STUDIES, short_help="Run a study of the paper.")
def command() -> None:
    """Run a study of retrieval with one command: a table (CSV), all settings (JSON) and a plot or a page.

    The studies are those of arXiv:2604.13268, on any bundle with judgements, or on a published data set. An interrupted
    study goes on where it was; pairs that were scored once are not scored again.

    \b
    Example:
        imgrank study lambda db.h5 --qrels q.tsv -o studies
        imgrank study qualitative db.h5 --qrels q.tsv -o studies
        imgrank study groups db.h5 --qrels q.tsv -o studies --method none --method geometric
    """
