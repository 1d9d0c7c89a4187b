"""Which files are made, of all that there may be."""

from __future__ import annotations

import sys

import pytest

from export.artifact import ARTIFACTS, check_wanted, wanted
from seqapp.errors import UsageError


def names(formats: list[str], precisions: list[str], profiles: list[str]) -> list[str]:
    check_wanted(formats, precisions, profiles)
    return [artifact.path for artifact in wanted(formats, precisions, profiles)]


def test_a_profile_needs_no_format_and_no_format_a_profile() -> None:
    assert names(["tflite"], [], []) == ["model.tflite"]
    assert names(["onnx"], [], ["micro"]) == ["model.onnx", "model.micro.tflite"]
    assert names(["onnx"], [], ["micro", "trainable"]) == ["model.onnx", "model.micro.tflite", "model.trainable.tflite"]


def test_a_profile_has_precisions_of_its_own() -> None:
    assert names(["saved_model"], ["int8"], ["micro"]) == ["saved_model", "model.micro.tflite", "model.micro.int8.tflite"]
    assert names(["tflite"], ["dynamic"], ["micro"]) == ["model.tflite", "model.dynamic.tflite", "model.micro.tflite"]


@pytest.mark.parametrize("precision", ["dynamic", "float16"])
def test_a_precision_that_no_file_has(precision: str) -> None:
    """Not even with files for microcontrollers."""
    with pytest.raises(UsageError, match=f"The precision {precision} is for tflite: add it to the formats. Received: onnx"):
        check_wanted(["onnx"], [precision], ["micro"])


def test_files_for_microcontrollers_are_proved_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    check_wanted(["tflite"], ["int8"], ["trainable"])
    with pytest.raises(UsageError, match=r"tflite_micro is not installed.*seqapp\[micro\]"):
        check_wanted(["tflite"], [], ["micro"])


def test_files_for_microcontrollers_run_one_step_of_one_stream() -> None:
    for artifact in ARTIFACTS:
        micro = artifact.profile == "micro"
        assert artifact.batches == ((1,) if micro else (1, 3))
        assert not micro or (artifact.signatures, artifact.tested) == (("step",), ("step",))
