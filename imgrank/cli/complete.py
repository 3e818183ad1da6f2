"""What a shell may complete: bundles, models, token caches. Loads no model library.

The protocol and the scripts are click's, but for bash's, where click offers either names or folders, never both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgrank.cli.group import COMPLETE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SUFFIXES = (".h5", ".hdf5")  # of bundles


def bundles(incomplete: str) -> list[CompletionItem[str]]:
    """Offer the HDF5 files of the folder that is being typed, and folders."""
    from click.shell_completion import CompletionItem

    folder, start = os.path.split(incomplete)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))  # noqa: PTH111, PTH208  # as typed, with its slash
    except OSError:
        names = []
    fitting = [name for name in names if name.startswith(start) and (start[:1] == "." or name[:1] != ".")]
    found = [CompletionItem(os.path.join(folder, name)) for name in fitting if name.endswith(SUFFIXES)]  # noqa: PTH118
    return [*found, _folders(incomplete)]


def models(names: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    """Offer known models, and folders."""
    from click.shell_completion import CompletionItem

    fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*fitting, _folders(incomplete)]


def caches(bundle: str | Path | None, incomplete: str) -> list[CompletionItem[str]]:
    """Offer the token caches of the bundle that was typed."""
    from click.shell_completion import CompletionItem

    from imgrank.steps.cache_choice import cache_names

    names = [] if bundle is None else cache_names(Path(bundle))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _folders(incomplete: str) -> CompletionItem[str]:
    """Return what asks the shell for folders; it must be the last item, for click's zsh script loses empty texts."""
    from click.shell_completion import CompletionItem

    return CompletionItem(incomplete, type="dir")


def script(cli: click.Command, shell: str) -> str:
    """Return the script that makes a shell ask imgrank for completions."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # the shells of the command are those of click
    completion = found(cli, {}, "imgrank", COMPLETE)
    if shell == "bash":
        return _BASH % completion.source_vars()
    return completion.source()


# Names and folders together, and a slash instead of a space behind a folder.
_BASH = r"""%(complete_func)s() {
    local IFS=$'\n' completion type value
    COMPREPLY=()
    for completion in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
            %(complete_var)s=bash_complete "$1" 2>/dev/null); do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o filenames -o plusdirs ;;
            file) compopt -o filenames -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
