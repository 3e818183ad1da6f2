"""Errors imgrank raises on purpose; the type decides the exit code of the command line.

ImgrankError                     something failed                                        exit 1
├── SettingsError                an option or setting has an unusable value              exit 2
├── MissingError                 something this machine would need is not there          exit 3
│   ├── MissingExtraError        an optional package is not installed (.extra)
│   ├── MissingModelError        a model is not found or its folder lacks files (.model)
│   │   └── UnknownModelError    the name is neither a folder here nor an id that can be fetched
│   └── MissingDeviceError       the device asked for does not exist, or is too small (.device)
├── BundleError                  the bundle cannot answer (.path)                        exit 4
│   ├── NotABundleError          not HDF5, or HDF5 without the imgrank format attribute
│   ├── FormatVersionError       written by a newer imgrank (.found, .supported)
│   ├── OutdatedBundleError      of an older format, which is read and not written (.found, .current)
│   ├── DamagedBundleError       a part fails its checks (.part)
│   ├── MissingGroupError        a step has not run yet (.group); the message names the command
│   ├── StaleGroupError          built from inputs that have changed since (.group)
│   ├── MismatchError            made with another model or other settings than the ones asked for
│   └── BundleLockedError        another process is writing (.holder)
└── InputError                   the caller gave something unusable                      exit 5
    ├── ImageError               one photo cannot be used (.path, .code)
    └── RecordError              one line of a run or of JSON lines cannot be read (.line)

Every message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import ClassVar

from imgrank.nearest import did_you_mean


class ImgrankError(Exception):
    """Base of every error that imgrank raises on purpose."""

    exit_code: ClassVar[int] = 1


class SettingsError(ImgrankError):
    """An option or setting has a value that cannot be used."""

    exit_code = 2


class MissingError(ImgrankError):
    """Something this machine would need for the request is not there."""

    exit_code = 3


class MissingExtraError(MissingError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed; run: pip install 'imgrank[{extra}]'")
        self.package, self.extra = package, extra


class MissingModelError(MissingError):
    """A model is not on this machine and cannot be fetched, or its folder lacks files."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r}: {reason}")
        self.model = model


class UnknownModelError(MissingModelError):
    """The name of a model is neither a folder on this machine nor an id that can be fetched; it may be misspelt."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.reason = reason

    def among(self, names: Iterable[str]) -> UnknownModelError:
        """Return the same error with the names that may have been meant."""
        hint = did_you_mean(self.model, names)
        return UnknownModelError(self.model, f"{self.reason}; {hint}") if hint else self


class MissingDeviceError(MissingError):
    """The device asked for does not exist here, or has too little memory."""

    def __init__(self, device: str, reason: str) -> None:
        super().__init__(f"device {device!r}: {reason}")
        self.device = device


class BundleError(ImgrankError):
    """The bundle cannot answer."""

    exit_code = 4

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)


class NotABundleError(BundleError):
    """The file is not HDF5, or is HDF5 without the imgrank format attribute."""


class FormatVersionError(BundleError):
    """The bundle, or one group of it, was written by a newer imgrank."""

    def __init__(self, path: str | os.PathLike[str], what: str, found: int, supported: int) -> None:
        super().__init__(
            path,
            f"{what} has version {found}, this imgrank reads up to {supported}; "
            "upgrade with: pip install --upgrade imgrank",
        )
        self.found, self.supported = found, supported


class OutdatedBundleError(BundleError):
    """The bundle is of an older format version: it can be read, and not written."""

    def __init__(self, path: str | os.PathLike[str], found: int, current: int) -> None:
        super().__init__(
            path, f"is of format version {found}, and version {current} is written; run `imgrank migrate {path}` first"
        )
        self.found, self.current = found, current


class DamagedBundleError(BundleError):
    """A part of the bundle fails its checks: shape, type, range or checksum."""

    def __init__(self, path: str | os.PathLike[str], part: str, reason: str) -> None:
        super().__init__(path, f"{part}: {reason}")
        self.part = part


class MissingGroupError(BundleError):
    """A step has not run yet."""

    def __init__(self, path: str | os.PathLike[str], group: str, made_by: str, there: str = "") -> None:
        super().__init__(path, f"no {group!r} group yet{there and f' (there is: {there})'}; run `{made_by}` first")
        self.group, self.made_by = group, made_by


class StaleGroupError(BundleError):
    """A group was built from inputs that have changed since."""

    def __init__(self, path: str | os.PathLike[str], group: str, made_by: str) -> None:
        super().__init__(path, f"{group!r} is older than what it was made from; run `{made_by}` again")
        self.group, self.made_by = group, made_by


class MismatchError(BundleError):
    """The bundle was made with another model, or other settings, than the ones asked for."""


class BundleLockedError(BundleError):
    """Another process is writing this bundle."""

    def __init__(self, path: str | os.PathLike[str], holder: str) -> None:
        super().__init__(path, f"{holder} is writing this bundle; wait for it to end, or stop it")
        self.holder = holder


class InputError(ImgrankError):
    """The caller gave something unusable."""

    exit_code = 5


class ImageError(InputError):
    """One photo cannot be used; `code` is one of the status names of `docs/format.md`."""

    def __init__(self, path: str | os.PathLike[str], code: str, reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path, self.code, self.reason = os.fspath(path), code, reason


class RecordError(InputError):
    """One line of a run file or of JSON lines cannot be read."""

    def __init__(self, source: str, line: int, reason: str) -> None:
        super().__init__(f"{source}, line {line}: {reason}")
        self.source, self.line = source, line
