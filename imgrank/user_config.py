"""Where a user's own settings are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from imgrank.user_cache import home_folder


def user_config() -> Path:
    """Return the folder: below $XDG_CONFIG_HOME, ~/Library/Application Support on macOS, else ~/.config; it need not be
    there.
    """
    chosen = os.environ.get("XDG_CONFIG_HOME", "")
    if Path(chosen).is_absolute():  # the XDG specification has relative ones ignored
        return Path(chosen) / "imgrank"
    usual = Path("Library", "Application Support") if sys.platform == "darwin" else Path(".config")
    return home_folder() / usual / "imgrank"
