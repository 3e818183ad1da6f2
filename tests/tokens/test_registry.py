import dataclasses
import subprocess
import sys
import typing

import numpy as np
import pytest

from imgrank.config import Prune, TokenDtype, TokenSettings
from imgrank.errors import SettingsError
from imgrank.tokens.registry import codec, pruner


@pytest.mark.parametrize(("name", "count"), [("divprune", 5), ("grid", 6), ("none", 24)])
def test_pruners_by_name(name, count):
    tokens = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    positions = np.argwhere(np.ones((4, 6)))
    kept = pruner(TokenSettings(prune=name, keep=5)).keep(tokens, positions, (4, 6))
    assert len(kept) == count


def test_every_choice_of_the_settings_has_an_entry():
    for name in typing.get_args(Prune):
        pruner(TokenSettings(prune=name))
    for name in typing.get_args(TokenDtype):
        assert codec(TokenSettings(dtype=name)).name == name


def test_unknown_names_list_the_known_ones():
    with pytest.raises(SettingsError, match="known: divprune, grid, none"):
        pruner(dataclasses.replace(TokenSettings(), prune="best"))
    with pytest.raises(SettingsError, match="known: float16, int8"):
        codec(dataclasses.replace(TokenSettings(), dtype="int3"))


def test_importing_the_package_loads_no_model_library():
    code = (
        "import sys, imgrank.tokens.registry; print(*{'torch', 'transformers', 'h5py', 'hnswlib'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
