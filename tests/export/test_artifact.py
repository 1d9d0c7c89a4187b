"""Which files are made, of all that there may be."""

from __future__ import annotations

import sys

import pytest

from export.artifact import ARTIFACTS, FORMATS, PRECISIONS, check_wanted, of_translator, wanted
from seqapp.errors import UsageError
from tests.conftest import refused


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


def test_the_files_of_an_encoder_decoder() -> None:
    """Of ONNX one for each signature; none of static ranges, and none for other profiles."""
    both, files = ("encode", "decode_step"), of_translator(wanted(list(FORMATS), list(PRECISIONS), []))
    assert [(file.path, file.format, file.precision, file.signatures) for file in files] == [
        ("saved_model", "saved_model", "float32", both),
        ("model.tflite", "tflite", "float32", both),
        ("model.dynamic.tflite", "tflite", "dynamic", both),
        ("model.float16.tflite", "tflite", "float16", both),
        ("encode.onnx", "onnx", "float32", ("encode",)),
        ("decode_step.onnx", "onnx", "float32", ("decode_step",)),
        ("encode.int8.onnx", "onnx", "int8", ("encode",)),
        ("decode_step.int8.onnx", "onnx", "int8", ("decode_step",)),
    ]
    assert all(file.tested == file.signatures and file.batches == (1, 3) for file in files)


@pytest.mark.parametrize(
    ("formats", "precisions", "profiles", "parts"),
    [
        (["onnx"], [], ["micro"], ("model.micro.tflite", "leave micro out.")),
        (["tflite"], [], ["trainable"], ("model.trainable.tflite", "leave trainable out.")),
        (["saved_model", "tflite"], ["int8"], [], ("model.int8.tflite", "leave int8 out, or add onnx.")),
    ],
)
def test_what_an_encoder_decoder_has_no_file_of(
    formats: list[str], precisions: list[str], profiles: list[str], parts: tuple[str, ...]
) -> None:
    refused(lambda: of_translator(wanted(formats, precisions, profiles)), "an encoder-decoder is none", *parts)
