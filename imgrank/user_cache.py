"""Where imgrank keeps what it may lose: a folder of the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """Return the folder: below $XDG_CACHE_HOME, ~/Library/Caches on macOS, else ~/.cache; it need not be there."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if Path(chosen).is_absolute():  # the XDG specification has relative ones ignored
        return Path(chosen) / "imgrank"
    return home_folder() / (Path("Library", "Caches") if sys.platform == "darwin" else Path(".cache")) / "imgrank"


def home_folder() -> Path:
    """Return the home of the user."""
    try:
        return Path.home()
    except RuntimeError:  # a user that the system does not know, as in some containers: HOME is then "/" by custom
        return Path("/")
