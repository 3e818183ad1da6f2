from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_mllms import FAMILIES, save_tiny_mllm


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders = {family: save_tiny_mllm(tmp_path_factory.mktemp("models") / family, family) for family in FAMILIES}
    return folders.__getitem__
