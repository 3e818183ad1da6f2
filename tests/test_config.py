"""Settings survive JSON, and refuse what they do not know."""

import pytest

from imgrank.config import EncoderSettings, GraphSettings, RerankSettings, TokenSettings
from imgrank.errors import SettingsError


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings(),
        EncoderSettings("org/name", "abc", "gem", 448, "collection", "bfloat16"),
        GraphSettings(m=32),
        TokenSettings(reduce="grid:2", store="int8"),
        RerankSettings(lam=1, task="artwork"),
    ],
)
def test_settings_survive_json(settings) -> None:
    text = settings.to_json()
    assert type(settings).from_json(text) == settings
    assert type(settings).from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"m": 16, "size": 3}', "unknown key 'size'; known: augment, augment_alpha, ef_construction, m, seed"),
        ('{"m": "16"}', "m cannot be '16'"),
        ('{"m": true}', "m cannot be True"),
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        GraphSettings.from_json(text)


def test_types_are_checked() -> None:
    with pytest.raises(SettingsError, match="reduce cannot be 3"):
        TokenSettings.from_json('{"reduce": 3}')
