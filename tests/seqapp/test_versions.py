"""What a run or a bundle was made with."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from seqapp import __version__, versions
from seqapp.errors import UsageError


def test_versions_by_name() -> None:
    assert versions.made_with(["numpy"]) == {"seqapp": __version__, "numpy": metadata.version("numpy")}


@pytest.mark.parametrize("content", [{}, {"format": 1}, {"format": versions.FORMAT, "versions": {"seqapp": "9"}}])
def test_what_this_version_reads(content: dict[str, Any]) -> None:
    versions.check("x", content)


def test_a_newer_format_is_refused_by_the_name_of_its_maker() -> None:
    with pytest.raises(
        UsageError, match=r"runs/x was made by seqapp 9\.1, in format 7, and this is seqapp .*: install seqapp 9\.1"
    ):
        versions.check("runs/x", {"format": 7, "versions": {"seqapp": "9.1"}})


@pytest.mark.parametrize("content", [{"format": "1"}, {"format": True}, {"format": None}, {"format": 1, "versions": [1]}])
def test_what_is_no_format(content: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="x should have a format that is a number"):
        versions.check("x", content)


def test_differences_for_people() -> None:
    here = metadata.version("numpy")
    then = {"numpy": "0.1", "keras": metadata.version("keras"), "never-there": "2", "python": "2.7"}
    numpy, never, python = versions.differences(then)
    assert numpy == f"numpy 0.1 (here {here})"
    assert never == "never-there 2 (here none)"
    assert python.startswith("python 2.7 (here 3.")
