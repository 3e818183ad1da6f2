"""Shell completion, by the shells themselves where they are installed, and by the protocol that they speak."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgrank.cli.completion import SHELLS


@pytest.fixture
def shell(collection: Path, tmp_path: Path):
    """Runs a script in a shell that has the command `imgrank`, in a folder with a bundle."""
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "imgrank"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imgrank "$@"\n')
    command.chmod(0o755)
    shutil.copy(collection / "db.h5", collection / "a bundle.h5")
    (collection / "notes.txt").write_text("x")
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}

    def run(program: list[str], script: str) -> list[str]:
        if shutil.which(program[0]) is None:
            pytest.skip(f"{program[0]} is not installed")
        done = subprocess.run(
            [*program, script], cwd=collection, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    return run


def in_bash(shell, *words: str) -> list[str]:
    typed = " ".join(f"'{word}'" for word in words)
    return shell(
        ["bash", "--norc", "-c"],
        f"""
        eval "$(imgrank completion bash)"
        compopt() {{ local IFS=' '; echo "compopt $*"; }}  # outside of a completion it only complains
        COMP_WORDS=(imgrank {typed}); COMP_CWORD={len(words)}
        _imgrank_completion imgrank
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """,
    )


def test_bash_completes_commands_bundles_caches_and_choices(shell) -> None:
    assert in_bash(shell, "tune") == ["tune-tokens"]
    offered = in_bash(shell, "search", "")
    assert offered == ["compopt -o filenames -o plusdirs", "a bundle.h5", "db.h5"]  # and folders, which bash adds
    assert in_bash(shell, "search", "db.h5", "--cache", "") == ["local"]
    assert in_bash(shell, "export", "tokens", "db.h5", "--cache", "lo") == ["local"]
    assert in_bash(shell, "search", "db.h5", "--format", "t") == ["table", "tsv", "trec"]
    assert in_bash(shell, "search", "db.h5", "--top-o") == ["--top-only"]


def test_bash_completes_models(shell) -> None:
    assert in_bash(shell, "index", "--encoder", "openai/")[1:] == ["openai/clip-vit-large-patch14"]
    assert in_bash(shell, "cache-tokens", "db.h5", "--mllm", "Qwen/Qwen3-VL-8B") == [
        "compopt -o filenames -o plusdirs",
        "Qwen/Qwen3-VL-8B-Instruct",
    ]


def test_zsh_completes(shell) -> None:
    script = """
    functions[compdef]=:; functions[compadd]='print -l -- "${(@P)@[-1]}"'; functions[_path_files]='print folders'
    eval "$(imgrank completion zsh)"
    words=(imgrank search ''); CURRENT=3; _imgrank_completion
    words=(imgrank search db.h5 --cache ''); CURRENT=5; _imgrank_completion
    """
    assert shell(["zsh", "-f", "-c"], script) == ["folders", "a bundle.h5", "db.h5", "local"]


def test_fish_completes(shell) -> None:
    script = """
    imgrank completion fish | source
    complete -C 'imgrank search '
    complete -C 'imgrank search db.h5 --cache '
    """
    offered = [line.split("\t")[0] for line in shell(["fish", "--no-config", "-c"], script)]
    assert offered == ["a bundle.h5", "db.h5", "photos/", "queries/", "local"]


def complete(*words: str, cwd: Path, loaded: str = "") -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, imgrank.cli as c\ntry:\n    c.cli.main([])\nexcept SystemExit as end:\n    code = end.code\n"
        "print('loaded', *{'torch', 'transformers', 'numpy', 'h5py'} & set(sys.modules)); sys.exit(code)"
    )
    environment = {"COMP_WORDS": "\n".join(["imgrank", *words]), "COMP_CWORD": str(len(words))}
    environment["_IMGRANK_COMPLETE"] = "bash_complete"
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd=cwd, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(
    "words", [("search", ""), ("sea",), ("embed", "--encoder", "b"), ("search", "x.h5", "--mllm", "Q"), ("split", "--")]
)
def test_completion_loads_no_library(collection: Path, words: tuple[str, ...]) -> None:
    done = complete(*words, cwd=collection)
    assert done.stdout.splitlines()[-1] == "loaded"
    assert len(done.stdout.splitlines()) > 1
    assert done.stderr == ""


@pytest.mark.parametrize("bundle", ["nothere.h5", "photos", "notes.h5", "\udcff"])
def test_completion_fails_in_silence(collection: Path, bundle: str) -> None:
    (collection / "notes.h5").write_text("no HDF5")
    (collection / "imgrank.toml").write_text("broken")
    done = complete("search", bundle, "--cache", "", cwd=collection)
    assert done.stderr == ""
    assert not done.stdout.splitlines()[0].startswith("plain")


def test_folders_that_are_typed_are_looked_into(collection: Path) -> None:
    (collection / "photos" / "inner.h5").touch()
    (collection / "photos" / ".hidden.h5").touch()
    assert complete("info", "photos/", cwd=collection).stdout.splitlines()[:-1] == [
        "plain,photos/inner.h5",
        "dir,photos/",
    ]
    assert "plain,photos/.hidden.h5" in complete("info", "photos/.", cwd=collection).stdout
    assert complete("info", "nowhere/", cwd=collection).stdout.splitlines()[:-1] == ["dir,nowhere/"]


def test_a_script_exists_for_each_shell_and_for_no_other(imgrank) -> None:
    for name in SHELLS:
        done = imgrank("completion", name)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"_IMGRANK_COMPLETE" in done.stdout
    refused = imgrank("completion", "bsh")
    assert refused.returncode == 2
    assert b"Did you mean bash?" in refused.stderr
