"""How a shortlist is re-ranked, as one line of text: `mllm cache=small lambda=0.3`.

The first word is a scorer, or `none` for the first stage alone; the rest are settings. What studies compare is a list
of such lines. A new scorer needs nothing here but its name.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from imgrank.config import BUILTIN, ProfileChoice, PromptLayout, RerankSettings, ScorerName, Task
from imgrank.errors import SettingsError
from imgrank.nearest import did_you_mean
from imgrank.rerank.fuse import check_lambda
from imgrank.steps.collection import Collection
from imgrank.steps.second_stage import Request

FIRST_STAGE = "none"
SCORERS = (FIRST_STAGE, *(name for name in get_args(ScorerName) if name != "auto"))
_SETTINGS = ("label", "cache", "mllm", "task", "answers", "prompt-file", "prompt-layout", "profile", "dtype", "lambda")
KEYS = (*_SETTINGS, "symmetric")
_CHOICES = {"task": get_args(Task), "prompt-layout": get_args(PromptLayout), "profile": get_args(ProfileChoice)}


@dataclass(frozen=True)
class Method:
    """One way to re-rank.

    Attributes:
        label: how it is called in tables and plots.
        text: the line it was read from.
        settings: of the second stage; None: the first stage alone.
        request: names beside the settings.
    """

    label: str
    text: str
    settings: RerankSettings | None
    request: Request

    def facts(self) -> dict[str, Any]:
        """Return what decides its results, as JSON."""
        if self.settings is None:
            return {"method": self.text}
        prompt = self.request.prompt_file
        words = None if prompt is None else prompt.read_text(encoding="utf-8", errors="replace")
        return {"method": self.text, "settings": self.settings.to_json(), "prompt": words}


def parse_method(text: str, *, top: int, request: Request) -> Method:
    """Read a method.

    Args:
        text: a scorer, then settings `key=value`; a value with spaces stands in quotes.
        top: candidates of each query.
        request: device, and what the line does not say.

    Raises:
        SettingsError: it is something else.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"method {text!r}: {error}") from error
    if not words or words[0] not in SCORERS:
        hint = did_you_mean(words[0], SCORERS, 1) if words else ""
        raise SettingsError(f"method {text!r}: begin with {', '.join(SCORERS)}{f'; {hint}' if hint else ''}")
    given: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key not in KEYS or not equals or not value:
            hint = did_you_mean(key, KEYS, 1)
            raise SettingsError(
                f"method {text!r}: {word!r} is no setting key=value with one of {', '.join(KEYS)}"
                f"{f'; {hint}' if hint else ''}"
            )
        if key in given:
            raise SettingsError(f"method {text!r}: {key} is given twice")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise SettingsError(f"method {text!r}: {key} is one of {', '.join(_CHOICES[key])}")
        given[key] = value
    label = given.get("label", text)
    if words[0] == FIRST_STAGE:
        if set(given) - {"label"}:
            raise SettingsError(f"method {text!r}: the first stage alone has nothing to set but its label")
        return Method(label, text, None, request)
    prompt = given.get("prompt-file")
    if prompt is not None and not Path(prompt).is_file():
        raise SettingsError(f"method {text!r}: there is no file {prompt}")
    chosen: dict[str, Any] = {
        "answers": given.get("answers"),
        "prompt_layout": given.get("prompt-layout"),
        **{key: given[key] for key in ("task", "profile", "dtype") if key in given},
    }
    settings = RerankSettings(
        top=top,
        lam=_weight(text, given.get("lambda")),
        scorer=words[0],  # type: ignore[arg-type]  # one of SCORERS
        symmetric=_yes(text, given.get("symmetric")),
        **chosen,
    )
    named = replace(
        request,
        cache=given.get("cache"),
        mllm=given.get("mllm"),
        prompt_file=None if prompt is None else Path(prompt),
    )
    return Method(label, text, settings, named)


def usual_methods(photos: Collection) -> list[str]:
    """Return what is compared where nobody says: the first stage, local features, and each model whose tokens are kept.

    Where there are none, the built-in model.
    """
    caches = [name for name, table in photos.parts[0].bundle.token_tables.items() if table.kind == "mllm"]
    seen = [f"mllm cache={shlex.quote(name)}" for name in caches] or [f"mllm mllm={BUILTIN}"]
    return [FIRST_STAGE, "geometric", *seen]


def check_labels(methods: Sequence[Method]) -> None:
    """Refuse methods that would be called the same.

    Raises:
        SettingsError: two of them are.
    """
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise SettingsError(f"two methods are called {label!r}; give one of them label=NAME")


def _weight(text: str, value: str | None) -> float:
    if value is None:
        return RerankSettings.lam
    try:
        weight = float(value)
    except ValueError as error:
        raise SettingsError(f"method {text!r}: lambda is a number between 0 and 1") from error
    check_lambda(weight)
    return weight


def _yes(text: str, value: str | None) -> bool:
    if value not in (None, "yes", "no"):
        raise SettingsError(f"method {text!r}: symmetric is yes or no")
    return value == "yes"
