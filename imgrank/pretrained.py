"""Load a checkpoint with transformers: quietly, from safetensors only, and never with weights made up.

It knows no architecture: whoever calls it names the class. transformers is imported inside the functions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imgrank.checkpoints import Checkpoint
from imgrank.devices import is_out_of_memory, torch_dtype
from imgrank.errors import MissingDeviceError, MissingModelError

_LONGEST = 300  # characters of a library's message that are passed on


def load_model(
    model_class: Any, found: Checkpoint, *, device: str, dtype: str, optional: tuple[str, ...] = (), **options: Any
) -> Any:
    """Load all weights of a checkpoint into a transformers model in evaluation mode.

    Args:
        model_class: of transformers.
        found: the checkpoint.
        device: as `imgrank.devices.pick_device` returns it.
        dtype: "float32", "float16" or "bfloat16".
        optional: how the names of tensors end that may be missing.
        options: for `from_pretrained`; `config` where it is not to be read from the checkpoint.

    Raises:
        MissingModelError: a tensor is missing or has another shape, or a file is damaged.
        MissingDeviceError: the weights do not fit.
    """
    with reading(found, "its config.json"):
        config = options.pop("config", None) or model_class.config_class.from_pretrained(
            found.path, local_files_only=True
        )
        _check_size(model_class, found, config)
    with reading(found, "its weights", device=device):
        model, report = model_class.from_pretrained(
            found.path,
            config=config,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to say below which they are
            **_straight_onto(device),
            **options,
        )
        # transformers fills what a checkpoint lacks with random numbers and only warns.
        missing = sorted(key for key in map(str, report["missing_keys"]) if not key.endswith(optional))
        if missing:
            raise MissingModelError(
                found.name,
                f"its weights lack {len(missing)} of the tensors that {model_class.__name__} needs: {few(missing)}",
            )
        others = sorted((str(key), tuple(has), tuple(wanted)) for key, has, wanted in report["mismatched_keys"])
        if others:
            shapes = [f"{key} {has} instead of {wanted}" for key, has, wanted in others]
            raise MissingModelError(
                found.name, f"the shapes of {len(others)} tensors do not fit its config.json: {few(shapes)}"
            )
        return model.eval().requires_grad_(False).to(device)


def _straight_onto(device: str) -> dict[str, Any]:
    """Return the options that read weights onto an accelerator without a copy of all of them in the host's memory.

    transformers asks for accelerate there, though it leaves the work to itself. Without it, the weights are mapped
    files as long as they stay in the number type they are stored in, and go to the device one by one; only in
    another type do they take the host's memory on their way.
    """
    from transformers.utils import is_accelerate_available

    return {"device_map": {"": device}} if device != "cpu" and is_accelerate_available() else {}


def _check_size(model_class: Any, found: Checkpoint, config: Any) -> None:
    """Refuse a configuration that asks for far more weights than there are, before memory is taken for them."""
    import torch

    if "quantization_config" in found.config:
        return  # several numbers may be packed into one
    with torch.device("meta"):
        wanted = sum(weights.numel() for weights in model_class(copy.deepcopy(config)).parameters())
    # Not exact: tied matrices are stored once and counted twice here.
    if wanted > 2 * found.numbers:
        raise MissingModelError(
            found.name,
            f"config.json asks for {wanted} weights, and there are only {found.numbers}; one of the files belongs to "
            "another model or is missing, download it again",
        )


def few(names: Sequence[str]) -> str:
    """Join the first three names, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@contextmanager
def reading(found: Checkpoint, what: str, *, device: str = "cpu") -> Iterator[None]:
    """Keep transformers quiet, and make a model's errors of what it lets through when files do not fit each other.

    Args:
        found: the checkpoint that is read.
        what: is read of it, for messages.
        device: onto which it is read.

    Raises:
        MissingModelError: it cannot be read.
        MissingDeviceError: it does not fit.
    """
    try:
        with quiet():
            yield
    except loading_errors() as error:
        if is_out_of_memory(error):
            advice = "use a smaller model, --dtype bfloat16 or --device cpu"
            raise MissingDeviceError(
                device, f"the weights of {found.name!r} do not fit into its memory; {advice}"
            ) from error
        # Only weights that are stored in a special way ask for a package of their own.
        wants_package = isinstance(error, ImportError)
        advice = "install that, or take weights that are not quantized" if wants_package else "download it again"
        raise MissingModelError(
            found.name, f"{what} cannot be loaded from {found.path} ({in_a_line(error)}); {advice}"
        ) from error


def in_a_line(error: BaseException) -> str:
    """Return the start of an error's message, with its type where that is all that says what it means."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    # A first line that ends in a colon announces the next.
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError) or not text else text


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and its reports of weights off standard error, and then set both back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def loading_errors() -> tuple[type[Exception], ...]:
    """Return what the model libraries raise when files do not fit each other."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    plain = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, RuntimeError, MemoryError)
    return (*plain, ImportError, StrictDataclassError, SafetensorError)
