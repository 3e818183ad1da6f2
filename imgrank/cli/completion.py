"""`imgrank completion`."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the script that makes a shell complete.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script for a shell, which then completes commands, options, bundles, models, caches and formats.

    \b
    For good:
      bash   imgrank completion bash > ~/.local/share/bash-completion/completions/imgrank
      zsh    imgrank completion zsh > ~/.zfunc/_imgrank       (a folder of $fpath)
      fish   imgrank completion fish > ~/.config/fish/completions/imgrank.fish

    \b
    Example:
        eval "$(imgrank completion bash)"
    """
    from imgrank.cli.complete import script

    click.echo(script(ctx.find_root().command, shell), nl=False)
