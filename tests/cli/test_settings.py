"""Settings from files and the environment: which value counts, where it came from, and what is refused."""

import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from imgrank.cli import cli
from imgrank.cli.prepare import NOT_FROM_FOLDER, SETTABLE, SHARED, commands, option_name, settable
from imgrank.user_config import user_config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in an empty folder, whose user has a folder of settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "imgrank").mkdir(parents=True)

    def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), env=env)

    return invoke


def folder_file(text: str) -> None:
    Path("imgrank.toml").write_text(text)


def user_file(text: str) -> None:
    (user_config() / "imgrank.toml").write_text(text)


def settings(result: Result) -> dict[str, tuple[object, str]]:
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {one["setting"]: (one["value"], one["source"]) for one in found}


def test_environment_goes_before_folder_before_user_before_built_in(run) -> None:
    user_file("workers = 2\n[search]\ntop-k = 10\nrerank = 10\nef = 10\n")
    folder_file("[search]\ntop-k = 20\nrerank = 20\n")
    found = settings(run("config", "--json", env={"IMGRANK_SEARCH_TOP_K": "30"}))
    user = user_config() / "imgrank.toml"
    assert found == {
        "search.top-k": ("30", "environment variable IMGRANK_SEARCH_TOP_K"),
        "search.rerank": (20, "imgrank.toml: [search] rerank"),
        "search.ef": (10, f"{user}: [search] ef"),
        "workers": (2, f"{user}: workers"),
    }


def test_a_command_goes_before_what_commands_share_in_each_place(run) -> None:
    folder_file('device = "cpu"\n[search]\ndevice = "cuda"\n')
    user_file('[rerank]\ndevice = "mps"\n')
    found = settings(run("config", "--json"))
    assert found["search.device"] == ("cuda", "imgrank.toml: [search] device")
    assert found["rerank.device"][0] == "cpu"  # the folder's file goes before the user's, whatever table
    assert found["embed.device"] == ("cpu", "imgrank.toml: device")
    by_name = {"IMGRANK_DEVICE": "cuda:1", "IMGRANK_EMBED_DEVICE": "cuda:2"}
    found = settings(run("config", "--json", env=by_name))
    assert (found["embed.device"][0], found["search.device"][0]) == ("cuda:2", "cuda:1")


def test_every_setting_can_be_shown_and_has_a_variable(run) -> None:
    found = [json.loads(line) for line in run("config", "--all", "--json").stdout.splitlines()]
    by_name = {one["setting"]: one for one in found}
    assert {one["source"] for one in found} == {"built-in"}
    assert by_name["search.top-k"]["value"] == 100
    assert by_name["cache-tokens.keep"]["variable"] == "IMGRANK_CACHE_TOKENS_KEEP"
    assert by_name["export.tokens.dtype"]["variable"] == "IMGRANK_EXPORT_TOKENS_DTYPE"
    assert by_name["device"] == {
        "setting": "device", "command": None, "name": "device", "value": "auto", "source": "built-in",
        "variable": "IMGRANK_DEVICE",
    }  # fmt: skip


def test_nothing_set_prints_nothing(run) -> None:
    result = run("config")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "built in" in result.stderr


def test_the_files_looked_at_are_printed_even_if_they_are_broken(run) -> None:
    folder_file("= nonsense")
    lines = run("config", "--path").stdout.splitlines()
    assert lines == ["imgrank.toml", f"{user_config() / 'imgrank.toml'}  (not there)"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("= 1", ["not TOML", "line 1"]),
        ("[serch]\ntop-k = 1", ["serch", "did you mean search?"]),
        ("[search]\ntopk = 1", ["[search] topk", "did you mean top-k?"]),
        ("devise = 'cpu'", ["devise", "did you mean device?"]),
        ("top-k = 1", ["top-k", "no setting that commands share"]),
        ("search = 1", ["search", "give a table"]),
        ("[search]\ntop-k = '20'", ["[search] top-k = '20'", "expected a whole number"]),
        ("[search]\ntop-k = true", ["expected a whole number"]),
        ("[search]\nexact = 1", ["expected true or false"]),
        ("[search]\nlambda = '0.5'", ["expected a number"]),
        ("[search]\nscorer = 2024-01-01", ["expected a text in quotes"]),
        ("[search]\nwith = 'b.h5'", ["expected a list"]),
        ("workers = '2'", ["workers", "expected a whole number"]),
        ("[index]\nrebuild = true", ["[index] rebuild", "is no setting"]),
        ("[cache-tokens]\noverwrite = true", ["is no setting"]),
        ("[check]\nrepair = true", ["is no setting"]),
        ("[embed]\noutput = 'a.h5'", ["is no setting"]),
        ("[export.tokens]\nforce = true", ["[export.tokens] force", "is no setting"]),
        ("log-file = 'x'", ["names a file that is written"]),
        ("[search]\nscore-cache = 'x'", ["names a file that is written"]),
        ("a = " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said(run, text: str, said: list[str]) -> None:
    folder_file(text)
    for arguments in (["config"], ["info", "db.h5"]):  # whichever command runs
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert all(part in result.stderr for part in ["imgrank.toml", *said]), result.stderr
        assert not isinstance(result.exception, RecursionError)


def test_a_value_is_checked_as_if_it_was_typed_and_its_place_named(run) -> None:
    folder_file("[search]\ntop-k = 0\n")
    for arguments in (["config"], ["search", "db.h5", "q.jpg"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "0 is not in the range x>=1" in result.stderr
        assert "(from imgrank.toml: [search] top-k)" in result.stderr
    typed = run("search", "nothere.h5", "-k", "3")
    assert "range" not in typed.stderr  # what is typed goes before it
    assert run("info", "nothere.h5").exit_code == 4  # and other commands do not mind
    result = run("search", "db.h5", "q.jpg", "-k", "3", env={"IMGRANK_SEARCH_FORMAT": "jsnl"})
    assert "Did you mean jsonl? (from environment variable IMGRANK_SEARCH_FORMAT)" in result.stderr


def test_help_does_not_mind_a_broken_file_and_shows_no_values_of_it(run) -> None:
    folder_file("[search]\ntopk = 1\n")
    for arguments in (["search", "--help"], ["search", "db.h5", "-h"], ["--help"], ["export", "tokens", "--help"]):
        assert run(*arguments).exit_code == 0
    assert run("search", "db.h5", "--", "--help").exit_code == 2  # there it is a photo


def test_a_file_can_be_chosen_and_files_can_be_left_out(run) -> None:
    folder_file("broken")
    Path("other.toml").write_text("workers = 7")
    assert settings(run("--config", "other.toml", "config", "--json")) == {"workers": (7, "other.toml: workers")}
    assert settings(run("--config", "none", "config", "--json")) == {}
    assert settings(run("config", "--json", env={"IMGRANK_CONFIG": "none"})) == {}
    missing = run("--config", "nothere.toml", "info", "db.h5")
    assert missing.exit_code == 2
    assert "nothere.toml: there is no such file" in missing.stderr


def test_files_that_are_no_files_of_settings(run, tmp_path: Path) -> None:
    Path("imgrank.toml").mkdir()
    assert "is not a file" in run("config").stderr
    Path("imgrank.toml").rmdir()
    Path("imgrank.toml").write_bytes(b"a = '\xff'")
    assert "not UTF-8" in run("config").stderr
    Path("imgrank.toml").write_bytes(b"#" * (2**20 + 1))
    assert "larger than" in run("config").stderr


def test_a_variable_that_sets_nothing_is_named(run) -> None:
    result = run("config", env={"IMGRANK_SEARCH_TOPK": "3"})
    assert result.exit_code == 0
    assert "IMGRANK_SEARCH_TOPK sets nothing; did you mean IMGRANK_SEARCH_TOP_K" in result.stderr


def test_a_search_takes_its_settings(imgrank, collection: Path) -> None:
    (collection / "imgrank.toml").write_text("quiet = true\n[search]\ntop-k = 2\nrerank = 3\ntime-budget = '9s'\n")
    done = imgrank("search", "db.h5", "queries/query-00.jpg", cwd=collection)
    assert (done.returncode, done.stderr) == (0, b"")
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [hit["scorer"] for hit in hits] == ["geometric"] * 2
    # A budget for re-ranking in a file does not ask for re-ranking; one that is typed without --rerank is a mistake.
    (collection / "imgrank.toml").write_text("[search]\ntop-k = 2\ntime-budget = '9s'\n")
    assert imgrank("search", "db.h5", "queries/query-00.jpg", cwd=collection).returncode == 0
    assert imgrank("search", "db.h5", "queries/query-00.jpg", "--time-budget", "9s", cwd=collection).returncode == 2


def test_what_may_be_set_is_what_exists_and_is_described() -> None:
    options = [one for _, command in commands(cli, ()) for one in command.params if isinstance(one, click.Option)]
    assert {option_name(one) for one in options} >= SETTABLE
    assert set(NOT_FROM_FOLDER) <= set(SHARED) <= SETTABLE
    page = (DOCS / "configuration.md").read_text()
    assert all(f"`{name}`" in page for name in SETTABLE)


@pytest.mark.parametrize(
    "name",
    ["force", "overwrite", "repair", "rebuild", "missing", "dry-run", "output", "plot", "to", "files-from", "ids-from"],
)
def test_what_destroys_writes_or_is_of_one_run_cannot_be_set(name: str) -> None:
    for _, command in commands(cli, ()):
        for option in command.params:
            if isinstance(option, click.Option) and option_name(option) == name:
                assert option.envvar is None
                assert name not in settable(command)


@pytest.mark.parametrize(("platform", "below"), [("linux", ".config"), ("darwin", "Library/Application Support")])
def test_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, platform: str, below: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # ignored, as its specification says
    assert user_config() == Path("/home/somebody", below, "imgrank")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/mine")
    assert user_config() == Path("/etc/mine/imgrank")
