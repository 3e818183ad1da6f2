import subprocess
import sys

import pytest

from imgrank.config import EncoderSettings
from imgrank.encode import registry
from imgrank.encode.base import same_space
from imgrank.errors import MissingModelError, SettingsError


def refusal(name):
    with pytest.raises(SettingsError) as error:
        registry.load_encoder(EncoderSettings(model=name))
    return str(error.value)


def test_the_registry_loads_no_torch():
    code = (
        "import imgrank.encode.registry, sys; print(*{'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bultin", "builtin"),
        ("Builtin", "builtin"),
        ("dinov2", "facebook/dinov2-base"),
        ("dinov2-base", "facebook/dinov2-base"),
        ("siglip2-base-patch16-386", "google/siglip2-base-patch16-384"),
        ("clip", "openai/clip-vit-large-patch14"),
    ],
)
def test_a_mistyped_name_is_answered_with_close_ones(typed, meant):
    assert meant in refusal(typed).partition("; close: ")[2].partition("; possible: ")[0]


@pytest.mark.parametrize("name", ["", "xyzzy", "a b", "org/name with spaces"])
def test_an_unknown_name_is_answered_with_what_is_possible(name):
    message = refusal(name)
    assert "close" not in message
    assert "possible: builtin, a Hugging Face id such as" in message


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "models/of/mine", "~/nowhere"])
def test_a_path_without_a_folder_is_a_missing_model(name):
    with pytest.raises(MissingModelError, match="no such folder"):
        registry.load_encoder(EncoderSettings(model=name))


@pytest.mark.parametrize(
    ("key", "value"), [("pooling", "gem"), ("image_size", 224), ("revision", "main"), ("dtype", "float16")]
)
def test_the_builtin_encoder_refuses_what_it_would_not_follow(key, value):
    with pytest.raises(SettingsError, match="builtin"):
        registry.load_encoder(EncoderSettings(**{key: value}))


def test_the_table_decides_which_class_is_loaded(monkeypatch):
    # Any class will do: it shows that the place is imported when, and only when, the name is asked for.
    monkeypatch.setattr(registry, "ENCODERS", {"builtin": "collections:OrderedDict"})
    assert type(registry.load_encoder(EncoderSettings())).__name__ == "OrderedDict"


def test_only_the_number_type_may_differ_between_two_indexes():
    settings = {"family": "CLIP", "pooling": "cls", "dtype": "float32"}
    assert same_space(settings, {**settings, "dtype": "bfloat16"})
    assert not same_space(settings, {**settings, "pooling": "gem"})
    assert not same_space(settings, {**settings, "more": 1})
