"""What is timed is what was exported: nothing else is opened, whatever a manifest names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import benchmark
from export.benchmark import checked, command
from export.manifest import digest
from export.reading import File
from tests.conftest import refused
from tests.readers import manifest


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose manifest is right, and a file and a folder outside; opening any file of it fails the test."""

    def opened(*_: object) -> None:
        pytest.fail("a file was opened before it was looked at")

    monkeypatch.setattr(benchmark, "_work", opened)
    folder = tmp_path / "bundle"
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"graph")
    manifest(folder / "manifest.json")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return folder


def named(bundle: Path, path: str, format: str, of: Path) -> None:
    """Makes the one file of a manifest another one, with the size and the checksum that are right."""
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text("utf-8"))
    content["files"][0].update(path=path, format=format, bytes=of.stat().st_size, sha256=digest(of))
    (bundle / "manifest.json").write_text(json.dumps(content), "utf-8")


def above(bundle: Path) -> None:
    named(bundle, "../outside/secret", "onnx", bundle.parent / "outside" / "secret")


def absolute(bundle: Path) -> None:
    secret = bundle.parent / "outside" / "secret"
    named(bundle, str(secret), "tflite", secret)


def folder_above(bundle: Path) -> None:
    named(bundle, "../outside", "saved_model", bundle.parent / "outside")


def link_to_a_folder(bundle: Path) -> None:
    (bundle / "link").symlink_to(bundle.parent / "outside")
    named(bundle, "link", "saved_model", bundle.parent / "outside")


def link_in_a_folder(bundle: Path) -> None:
    (bundle / "saved_model" / "variables").symlink_to(bundle.parent / "outside")
    named(bundle, "saved_model", "saved_model", bundle / "saved_model")


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (above, "'../outside/secret', which is not in the bundle"),
        (absolute, "which is not in the bundle"),
        (folder_above, "leads to what is not in the bundle"),
        (link_to_a_folder, "leads to what is not in the bundle"),
        (link_in_a_folder, "leads to what is not in the bundle"),
    ],
)
def test_nothing_outside_is_opened(attack: Callable[[Path], None], words: str, bundle: Path) -> None:
    attack(bundle)
    refused(lambda: command(bundle, 1, None, None), words)


def test_a_saved_model_is_the_one_that_was_exported(bundle: Path) -> None:
    folder = bundle / "saved_model"
    file = File("saved_model", 5, digest(folder), "saved_model")
    assert checked(bundle, file) == folder
    (folder / "saved_model.pb").write_bytes(b"other")
    refused(lambda: checked(bundle, file), "saved_model was changed", "copy it again")
    refused(lambda: checked(bundle, File("none", 5, "", "saved_model")), "There is no file", "none")
