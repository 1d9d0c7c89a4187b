"""What a run or a bundle was made with, and whether this version reads it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from seqapp import __version__
from seqapp.errors import UsageError

FORMAT = 1  # of runs and bundles: one more with each change that an older version would read wrongly


def made_with(packages: Iterable[str]) -> dict[str, str]:
    """The versions of this package, and of some others."""
    return {"seqapp": __version__, **{name: metadata.version(name) for name in packages}}


def check(path: object, content: Mapping[str, Any]) -> None:
    """Refuses what a newer version made that this one cannot read: `content` has its `format`, and `versions`.

    Raises:
        UsageError: it says so, or says it wrongly. The first versions said nothing.
    """
    known, versions = content.get("format", FORMAT), content.get("versions", {})
    if type(known) is not int or not isinstance(versions, dict):
        raise UsageError(
            f"{path} should have a format that is a number, and versions by name. Received: {known!r}, {versions!r}"
        )
    if known > FORMAT:
        maker = f"seqapp {versions.get('seqapp', 'of another version')}"
        raise UsageError(
            f"{path} was made by {maker}, in format {known}, and this is seqapp {__version__}, which reads formats up to "
            f"{FORMAT}: install {maker} or newer."
        )


def differences(versions: Mapping[str, str]) -> list[str]:
    """For people: what something was made with that is here in another version, or not at all."""
    found = []
    for name, then in versions.items():
        try:
            now = platform.python_version() if name == "python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            now = "none"
        if now != then:
            found.append(f"{name} {then} (here {now})")
    return found
