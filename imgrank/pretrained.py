"""Load a checkpoint with transformers: quietly, from safetensors only, and never with weights made up.

It knows no architecture: whoever calls it names the class. transformers is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imgrank.checkpoints import Checkpoint
from imgrank.devices import is_out_of_memory, torch_dtype
from imgrank.errors import MissingDeviceError, MissingModelError


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
        options: for `from_pretrained`.

    Raises:
        MissingModelError: a tensor is missing or has another shape, or a file is damaged.
        MissingDeviceError: the weights do not fit.
    """
    with reading(found, "its weights", device=device):
        model, report = model_class.from_pretrained(
            found.path,
            dtype=torch_dtype(dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        # transformers fills what a checkpoint lacks with random numbers and only warns.
        missing = sorted(key for key in map(str, report["missing_keys"]) if not key.endswith(optional))
        if missing:
            few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise MissingModelError(
                found.name, f"its weights lack {len(missing)} of the tensors that {model_class.__name__} needs: {few}"
            )
        return model.eval().requires_grad_(False).to(device)


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
    except _errors() as error:
        if is_out_of_memory(error):
            advice = "use a smaller model, --dtype bfloat16 or --device cpu"
            raise MissingDeviceError(
                device, f"the weights of {found.name!r} do not fit into its memory; {advice}"
            ) from error
        first_line = str(error).strip().split("\n")[0]
        raise MissingModelError(
            found.name, f"{what} cannot be loaded from {found.path} ({first_line}); download it again"
        ) from error


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


def _errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    plain = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, RuntimeError, MemoryError)
    return (*plain, StrictDataclassError, SafetensorError)
