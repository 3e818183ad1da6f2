"""Adapters of the peft library, such as LoRA: find one and its base model, and merge it into the base's weights.

An adapter is a folder with adapter_config.json and adapter_model.safetensors. Once merged it costs nothing, and no
other part of the package can tell it from a model that was fine-tuned whole. This module knows no architecture; peft
and torch are imported inside the functions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgrank.checkpoints import (
    ADAPTER_CONFIG,
    HUB_ID,
    Config,
    count_numbers,
    digest_of_files,
    fetch,
    is_folder,
    lacks,
    read_json,
)
from imgrank.devices import is_out_of_memory
from imgrank.errors import MissingDeviceError, MissingExtraError, MissingModelError
from imgrank.pretrained import few, in_a_line, loading_errors, quiet

_WEIGHTS = "adapter_model.safetensors"
_NAME = "imgrank_adapter"  # under which peft keeps the weights; no module of a model is called so
_PREFIX = "base_model.model."  # which peft puts before the name of every tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """A complete adapter on this machine; its base model may be elsewhere.

    Attributes:
        name: as the user gave it.
        path: the folder where the files lie.
        revision: the commit hash for a hub id; for a folder a digest like `imgrank.checkpoints.digest_of`.
        config: what adapter_config.json says.
        base: the base model, a folder or a hub id.
        base_revision: branch, tag or commit of a base on the hub.
    """

    name: str
    path: Path
    revision: str
    config: Config
    base: str
    base_revision: str | None

    def revision_on(self, base: str) -> str:
        """Digest the adapter's revision together with that of its base model."""
        both = hashlib.blake2b(f"{self.revision}\n{base}".encode(), digest_size=16)
        return f"blake2b-{both.hexdigest()}"


def open_adapter(name: str, folder: Path, commit: str | None, extra: Iterable[str] = ()) -> Adapter:
    """Complete the adapter that `imgrank.checkpoints.locate` found, and say what it is an adapter of.

    Args:
        name: as the user gave it, for messages.
        folder: which has an adapter_config.json.
        commit: for a hub id.
        extra: patterns of further files to download.

    Raises:
        MissingExtraError: peft is not installed.
        MissingModelError: a file is missing or unreadable, the folder holds a whole model too, or there is no telling
            where the base model is.
    """
    for package in ("peft", "accelerate"):  # the one imports the other
        if _lacks_package(package):
            raise MissingExtraError(package, "peft", f"{name!r} is an adapter ({ADAPTER_CONFIG}), which")
    config = read_json(name, folder / ADAPTER_CONFIG)
    if commit is not None:
        folder = fetch(name, commit, [ADAPTER_CONFIG, _WEIGHTS, *extra])
    elif (folder / "model.safetensors").exists() or (folder / "model.safetensors.index.json").exists():
        raise MissingModelError(
            name,
            f"{folder} holds both a whole model and an adapter ({ADAPTER_CONFIG}), and whether the one is part of the "
            "other cannot be told; move one of them elsewhere",
        )
    weights = folder / _WEIGHTS
    if not weights.is_file():
        if (folder / "adapter_model.bin").exists():
            reason = f"{folder} lacks {_WEIGHTS} (adapter_model.bin is not read: such files can run code)"
            raise MissingModelError(name, f"{reason}; take a revision that has it, or convert the weights")
        raise lacks(name, weights)
    count_numbers(name, weights)
    base, revision = _base_of(name, folder, config, on_hub=commit is not None)
    return Adapter(name, folder, commit or digest_of_files(folder / ADAPTER_CONFIG, [weights]), config, base, revision)


def _lacks_package(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def _base_of(name: str, folder: Path, config: Config, *, on_hub: bool) -> tuple[str, str | None]:
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    where = f"base_model_name_or_path in {folder / ADAPTER_CONFIG}"
    if not isinstance(base, str) or not base:
        raise MissingModelError(name, f"{where} does not say which model it is an adapter of; add it")
    if not on_hub and (folder / base).is_dir():  # also where base is an absolute path
        return str(folder / base), None
    if is_folder(base):
        return base, None
    if not HUB_ID.fullmatch(base):
        raise MissingModelError(name, f"its base model {base!r} is not on this machine; put {where} right")
    return base, revision if isinstance(revision, str) and revision else None


def merge_adapter(network: Any, adapter: Adapter, *, device: str) -> Any:
    """Return a transformers model with an adapter merged into its weights; the model itself is used up.

    The merged weights are W + scale x B x A of LoRA (arXiv:2106.09685), or what another kind of adapter makes of W,
    computed in float32 and rounded to the number type of the model.

    Args:
        network: the base model.
        adapter: for it.
        device: where the model is, for messages.

    Raises:
        MissingModelError: the adapter does not fit the model to the last tensor, or cannot be merged.
        MissingDeviceError: out of memory.
    """
    with _fitting(adapter, device):
        import peft
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer
        from safetensors.torch import load_file

        types = {name: weights.dtype for name, weights in network.named_parameters()}
        settings = _settings(adapter)
        tensors = _renamed(settings, load_file(adapter.path / _WEIGHTS), {name for name, _ in network.named_modules()})
        with torch.random.fork_rng(devices=[]):  # peft starts from random numbers, which the file replaces
            wrapped = peft.PeftModel(network, settings, adapter_name=_NAME)
        _untie(wrapped)
        _load(adapter, wrapped, settings, tensors)
        _check_patterns(adapter, wrapped, settings)
        # Safely: into a new tensor, looking for NaN. So a mapped file is left alone.
        merged = wrapped.merge_and_unload(safe_merge=True)
        if any(isinstance(module, BaseTunerLayer) for module in merged.modules()):
            raise _unfit(adapter, f"peft cannot merge an adapter of type {adapter.config['peft_type']}")
        for name, weights in merged.named_parameters():
            weights.data = weights.data.to(types.get(name, weights.dtype))
        return merged.eval().requires_grad_(False)


def _settings(adapter: Adapter) -> Any:
    """Return peft's settings, having refused what it would pass over and what cannot be merged."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = adapter.config.get("peft_type")
    if kind not in [known.value for known in PEFT_TYPE_TO_CONFIG_MAPPING]:
        raise _unfit(adapter, f"peft {peft.__version__} knows no adapter of type {kind!r}; upgrade peft")
    settings = peft.PeftConfig.from_pretrained(str(adapter.path))
    if settings.is_prompt_learning or settings.is_adaption_prompt:
        raise _unfit(adapter, f"an adapter of type {kind} adds to the input of layers, so it cannot be merged")
    known = {field.name for field in dataclasses.fields(settings)}
    # What a newer peft wrote is dropped with a warning. A number may be the default of something that is off; but a
    # switch that is on, or a list, changes what the adapter computes.
    unknown = sorted(
        key
        for key, value in adapter.config.items()
        if key not in known | {"auto_mapping", "runtime_config"} and value and isinstance(value, bool | list | dict)
    )
    if unknown:
        raise _unfit(adapter, f"peft {peft.__version__} does not know its settings {few(unknown)}; upgrade peft")
    for key in ("layer_replication", "megatron_config"):  # another number of layers; another library's modules
        if adapter.config.get(key):
            raise _unfit(adapter, f"adapters with {key} are not supported")
    settings.inference_mode = True
    return settings


def _renamed(settings: Any, tensors: Mapping[str, Any], modules: set[str]) -> dict[str, Any]:
    """Return the tensors under the names that this transformers gives the modules; an older one had others.

    A module is known again by the parts of its old name: one module only has all of them, and ends alike. Where none
    or several do, the name stays, and the tensor will be one too many.
    """
    key_parts = re.compile(rf"{re.escape(_PREFIX)}(.+?)((?:\.base_layer)*\.{_tuner_prefix(settings)}.+|\.[^.]+)")
    new: dict[str, str] = {}
    renamed, targets = {}, set()
    for key, tensor in tensors.items():
        parts = key_parts.fullmatch(key)
        if parts is not None:
            path, rest = parts.groups()
            new[path] = new.get(path) or _module_like(path, modules)
            key = f"{_PREFIX}{new[path]}{rest}"
            if f".{_tuner_prefix(settings)}" in rest:
                targets.add(new[path])
        renamed[key] = tensor
    if all(old == path for old, path in new.items()):
        return renamed
    # Patterns and whole names are for the older names as well.
    if isinstance(settings.target_modules, str):
        settings.target_modules = targets
    elif settings.target_modules:
        settings.target_modules = {new.get(name, name) for name in settings.target_modules}
    for table in ("rank_pattern", "alpha_pattern"):
        values = getattr(settings, table, None) or {}
        setattr(settings, table, {new.get(name, name): value for name, value in values.items()})
    return renamed


def _module_like(old: str, modules: set[str]) -> str:
    parts = old.split(".")
    if old in modules:
        return old
    found = [name for name in modules if name.split(".")[-2:] == parts[-2:] and set(parts) <= set(name.split("."))]
    return found[0] if len(found) == 1 else old


def _untie(wrapped: Any) -> None:
    """Give a layer that the adapter changes a weight of its own where it shares it with one that it leaves alone."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    users = Counter(id(weights) for module in wrapped.modules() for weights in module._parameters.values())
    for module in wrapped.modules():
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            weights = getattr(layer, "weight", None)
            if isinstance(weights, torch.nn.Parameter) and users[id(weights)] > 1:
                layer.weight = torch.nn.Parameter(weights.detach().clone(), requires_grad=False)


def _load(adapter: Adapter, wrapped: Any, settings: Any, tensors: dict[str, Any]) -> None:
    from peft import set_peft_model_state_dict

    report = set_peft_model_state_dict(wrapped, tensors, adapter_name=_NAME)
    surplus = sorted(key.removeprefix(_PREFIX) for key in report.unexpected_keys)
    if surplus:
        raise _unfit(adapter, f"the base model has no place for {len(surplus)} of its tensors: {few(surplus)}")
    prefix = _tuner_prefix(settings)
    lacking = sorted(key for key in report.missing_keys if _NAME in key.split(".") and prefix in key)
    if lacking:
        names = [key.removeprefix(_PREFIX).replace(f".{_NAME}", "") for key in lacking]
        raise _unfit(adapter, f"{ADAPTER_CONFIG} asks for {len(names)} tensors that {_WEIGHTS} lacks: {few(names)}")


def _check_patterns(adapter: Adapter, wrapped: Any, settings: Any) -> None:
    """Refuse a rank or scale that is meant for modules the adapter has not: it would be another's by default."""
    for table in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(settings, table, None) or {}:
            targets = wrapped.base_model.targeted_module_names
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in targets):
                raise _unfit(adapter, f"{pattern!r} in {table} of {ADAPTER_CONFIG} is none of its modules")


def _tuner_prefix(settings: Any) -> str:
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return str(PEFT_TYPE_TO_PREFIX_MAPPING[settings.peft_type])


def _unfit(adapter: Adapter, reason: str) -> MissingModelError:
    return MissingModelError(adapter.name, f"its adapter cannot be used: {reason}")


@contextmanager
def _fitting(adapter: Adapter, device: str) -> Iterator[None]:
    """Make one error of what peft lets through, and keep it quiet."""
    errors: tuple[type[Exception], ...] = (re.error, *loading_errors())
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except errors as error:
        if is_out_of_memory(error):
            advice = "use a smaller model, --dtype bfloat16 or --device cpu"
            raise MissingDeviceError(
                device, f"the adapter {adapter.name!r} does not fit into its memory; {advice}"
            ) from error
        raise _unfit(
            adapter, f"{adapter.path} does not fit the base model {adapter.base!r} ({in_a_line(error)})"
        ) from error
