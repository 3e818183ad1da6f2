"""`models`: which models there are to choose from, and what a model of one's own would cost, as plain values.

Loads no weights and no torch: numbers come from the catalogues, from config.json, and from the codecs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from imgrank import hub_cache
from imgrank.checkpoints import ADAPTER_CONFIG, is_folder, locate, read_json
from imgrank.config import BUILTIN, PRESETS, TokenSettings
from imgrank.encode import catalogue as encoders
from imgrank.errors import MissingModelError, UnknownModelError
from imgrank.mllm import catalogue as mllms
from imgrank.mllm import geometry
from imgrank.mllm.profiles import profile_of
from imgrank.mllm.registry import ADAPTERS
from imgrank.tokens.budget import token_bytes
from imgrank.tokens.recipe import tokens_left

Kind = Literal["encoder", "mllm"]
Config = Mapping[str, Any]
Record = dict[str, Any]

SCHEMA_VERSION = 1
STORED = ("float16", "int8")  # whose sizes are listed
PHOTO = (3024, 4032)  # height and width of the photo that tokens are counted for


def list_models(kind: Kind | None = None) -> list[Record]:
    """Return one record for each known model that can be used here: encoders first, in the catalogues' order.

    Args:
        kind: only these.
    """
    found: list[Record] = []
    if kind != "mllm":
        found += [_encoder(one.name, one.family, one.dim, one.image_size) for one in encoders.KNOWN]
    if kind != "encoder":
        found += [_mllm(one.name, one.family, geometry.of_known(one)) for one in mllms.KNOWN if one.family in ADAPTERS]
    return found


def describe_model(name: str) -> list[Record]:
    """Return the record of any model, from its config.json: what it is, and whether it can be used here.

    Two records for "builtin", which is the name of an encoder and of a language model.

    An adapter (LoRA and the like) is described by its base model. A listed model that is not in the cache is described
    from the catalogue, any other hub id by downloading its config.json.

    Args:
        name: "builtin", a folder or a hub id.

    Raises:
        MissingModelError: there is no such model, or no network, or its configuration cannot be read.
        SettingsError: the configuration holds a number that is unusable.
    """
    if name == BUILTIN:
        return [record for record in list_models() if record["name"] == name]
    folder = _folder(name)
    if folder is not None and (folder / ADAPTER_CONFIG).is_file():
        return [_adapter(name, folder)]
    return [_whole_model(name, folder)]


def _folder(name: str) -> Path | None:
    """Return where the configuration of a model lies; None: nowhere here, and it is known without."""
    if is_folder(name):
        return Path(name).expanduser()
    cached = hub_cache.snapshot(name)
    if cached is not None and any((cached / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        return cached
    listed = mllms.known(name)
    if encoders.known(name) is not None or (listed is not None and listed.family in ADAPTERS):
        return None
    try:
        return locate(name)[0]
    except UnknownModelError as error:
        raise error.among([*(one.name for one in encoders.KNOWN), *(one.name for one in mllms.KNOWN)]) from error


def _adapter(name: str, folder: Path) -> Record:
    base = read_json(name, folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise MissingModelError(name, f"{folder / ADAPTER_CONFIG} does not say of which model it is an adapter; add it")
    local = folder / base  # also where it is an absolute path
    place = str(local) if local.is_dir() else base
    found = _whole_model(place, _folder(place))
    record = found | {"name": name, "adapter_of": base}
    if found["supported"]:
        weights = (folder / "adapter_model.safetensors").is_file()
        # What is known of the base model need not hold for what others made of it.
        record |= {
            "parameters": None,
            "download_bytes": None,
            "licence": None,
            "gated": None,
            "presets": [],
            "note": "",
        }
        record["offline"] = found["offline"] and weights
    if found["kind"] == "mllm":
        record["profile"] = _profile(name, found["family"])
    return record


def _whole_model(name: str, folder: Path | None) -> Record:
    if folder is not None:
        return _from_config(name, read_json(name, folder / "config.json"), folder)
    if (encoder := encoders.known(name)) is not None:
        return _encoder(name, encoder.family, encoder.dim, encoder.image_size)
    model = mllms.known(name)
    assert model is not None  # by `_folder`
    return _mllm(name, model.family, geometry.of_known(model))


def _from_config(name: str, config: Config, folder: Path) -> Record:
    family = config.get("model_type")
    if isinstance(family, str) and family in ADAPTERS:
        return _mllm(name, family, geometry.of_config(name, config, _image_processor(name, folder)), folder)
    if encoders.is_timm_config(config):
        return _encoder(name, encoders.TIMM, *encoders.dim_and_size(name, config), folder)
    if isinstance(family, str) and family in encoders.TITLES:
        return _encoder(name, family, *encoders.dim_and_size(name, config), folder)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": None,
        "name": name,
        "family": family,
        "supported": False,
        "reason": (
            f"architecture {family!r} is not supported; --mllm takes {', '.join(sorted(ADAPTERS))}; "
            f"--encoder takes {', '.join(encoders.TITLES)}"
        ),
    }


def _image_processor(name: str, folder: Path) -> Config | None:
    if (folder / "preprocessor_config.json").is_file():
        return read_json(name, folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        part = read_json(name, folder / "processor_config.json").get("image_processor")
        return part if isinstance(part, dict) else None
    return None


def _mllm(name: str, family: str, shape: geometry.Geometry, folder: Path | None = None) -> Record:
    profile = profile_of(name, {"model_type": family})
    settings = TokenSettings() if profile is None else profile.tokens
    height, width = PHOTO
    tokens = geometry.tokens_of(
        family, shape, height, width, longer_side=settings.longer_side, max_tokens=settings.max_tokens
    )
    kept = tokens_left(settings, tokens)
    per_token = {store: token_bytes(replace(settings, store=store), shape.levels, shape.hidden) for store in STORED}
    facts = mllms.known(name)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "mllm",
        "name": name,
        "family": family,
        "title": mllms.FAMILIES[family].title if family in mllms.FAMILIES else family,
        "supported": True,
        "profile": None if profile is None else profile.name,
        "hidden": shape.hidden,
        "levels": shape.levels,
        "token_side": shape.token_side or None,
        "tokens_per_photo": tokens,
        "tokens_kept": kept,
        "bytes_per_token": per_token,
        "bytes_per_photo": {dtype: kept * count for dtype, count in per_token.items()},
        **_facts("mllm", name, facts, folder, hub_cache.TOKENIZER),
    }


def _profile(name: str, family: str) -> str | None:
    profile = profile_of(name, {"model_type": family})
    return None if profile is None else profile.name


def _encoder(name: str, family: str, dim: int, image_size: int | None, folder: Path | None = None) -> Record:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "encoder",
        "name": name,
        "family": family,
        "title": encoders.TITLES.get(family, family),
        "supported": True,
        "dim": dim,
        "image_size": image_size,
        **_facts("encoder", name, encoders.known(name), folder),
    }


def _facts(
    kind: Kind,
    name: str,
    facts: mllms.KnownModel | encoders.KnownEncoder | None,
    folder: Path | None,
    *either: tuple[str, ...],
) -> Record:
    """Return what config.json does not say; None where nobody has said it."""
    if name == BUILTIN:
        offline = True
    elif folder is not None:
        offline = hub_cache.is_complete(folder, *either)
    else:
        offline = hub_cache.in_cache(name, *either)
    return {
        "parameters": None if facts is None else facts.parameters,
        "download_bytes": None if facts is None else facts.download_bytes,
        "licence": None if facts is None else facts.licence,
        "gated": None if facts is None else facts.gated,
        "offline": offline,
        "presets": [preset for preset, models in PRESETS.items() if name == getattr(models, kind)],
        "note": "" if facts is None else facts.note,
    }
