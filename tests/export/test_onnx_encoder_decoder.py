"""An encoder-decoder in ONNX: the numbers of Keras, by native operators where there are some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export import onnx_encoder_decoder
from export.encoder_decoder import EncoderDecoder
from export.onnx_graph import int8_tensors
from export.runners import TransducerRunner, declared, onnx_functions
from export.spec import DECODE_STEP, ENCODE, TranslationSpec
from seqapp.beam_search import KerasTransducer
from seqapp.cells import GRUCell
from seqapp.translator import Translator
from tests.export.onnx_files import axes, recurrent
from tests.export.test_encoder_decoder import MODELS, assert_same, model_and_answers, told
from tests.seqapp.test_model import randomized
from tests.seqapp.test_translator import translator


def written(model: Translator, folder: Path, precision: str = "float32") -> dict[str, Path]:
    network, paths = EncoderDecoder(model), {name: folder / f"{name}.{precision}.onnx" for name in (ENCODE, DECODE_STEP)}
    for name, path in paths.items():
        onnx_encoder_decoder.write(network, TranslationSpec.of(network), name, path, precision)
        onnx.checker.check_model(path, full_check=True)
    return paths


def opened(model: Translator, paths: dict[str, Path]) -> TransducerRunner:
    functions = {name: onnx_functions(path, [name])[name] for name, path in paths.items()}
    return TransducerRunner(TranslationSpec.of(EncoderDecoder(model)), functions)


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_the_model(kind: str, tmp_path: Path) -> None:
    model, wanted = model_and_answers(kind)
    assert_same(told(opened(model, written(model, tmp_path))), wanted)


@pytest.mark.parametrize(
    ("kind", "layers", "wanted"),
    [
        ("plain", 1, ({"RNN": 1}, {"RNN": 1})),
        ("gru", 1, ({"GRU": 1}, {"GRU": 1})),
        ("lstm", 2, ({"LSTM": 2}, {"LSTM": 2})),
        ("cifg", 1, ({"LSTM": 1}, {"LSTM": 1})),
        ("own", 1, ({"Scan": 2}, {"Scan": 1})),
    ],
)
def test_operators_are_native_where_there_are_some(kind: str, layers: int, wanted: Any, tmp_path: Path) -> None:
    # As many units each way: one operator then reads both.
    model = translator(kind, layers)
    if kind != "own":
        cells = [[type(model.decoder[0].cell)(4) for _ in range(layers)] for _ in range(3)]
        model = randomized(Translator(11, 7, *cells, 5), scale=0.5)
    paths = written(model, tmp_path)
    assert tuple(recurrent(onnx.load(paths[name])) for name in (ENCODE, DECODE_STEP)) == wanted
    assert_same(told(opened(model, paths)), told(KerasTransducer(model)))


def test_names_and_axes(tmp_path: Path) -> None:
    paths = written(translator("gru"), tmp_path)
    encode, step = (onnx.load(paths[name]).graph for name in (ENCODE, DECODE_STEP))
    assert (encode.name, step.name) == (ENCODE, DECODE_STEP)
    shapes = {value.name: axes(value) for value in (*encode.input, *encode.output)}
    assert shapes == {
        "tokens": ["batch", "time"],
        "lengths": ["batch"],
        "memory": ["batch", "time", 7],
        "state_0_out": ["batch", 6],
    }
    assert {value.name: axes(value) for value in step.input} == {
        "tokens": ["batch"],
        "memory": ["batch", "time", 7],
        "lengths": ["batch"],
        "state_0_in": ["batch", 6],
    }
    assert {value.name: axes(value) for value in step.output} == {
        "logits": ["batch", 7],
        "attention": ["batch", "time"],
        "state_0_out": ["batch", 6],
    }
    for name, path in paths.items():
        assert list(onnx_functions(path, [ENCODE, DECODE_STEP])) == [name]
        found = declared("onnx", path)[name]
        dtypes = {tensor["name"]: tensor["dtype"] for side in ("inputs", "outputs") for tensor in found[side]}
        integers = {"tokens", "lengths"}
        assert dtypes == {key: "int32" if key in integers else "float32" for key in dtypes}


def test_int8_keeps_large_weights_small_and_says_nearly_the_same(tmp_path: Path) -> None:
    cells = [[GRUCell(32)] for _ in range(3)]
    model = randomized(Translator(60, 50, *cells, 32), scale=0.2)
    exact, small = (written(model, tmp_path, precision) for precision in ("float32", "int8"))
    assert [int8_tensors(exact[name]) for name in exact] == [0, 0]
    assert all(int8_tensors(path) >= 3 for path in small.values())
    assert small[DECODE_STEP].stat().st_size < 0.5 * exact[DECODE_STEP].stat().st_size
    one, other = (told(opened(model, paths)) for paths in (exact, small))
    difference = max(np.abs(one[name] - other[name]).max() for name in one)
    assert 1e-5 < difference < 0.2
