"""ONNX files: the contract's names, the newest operators that old runtimes know, and nothing written that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keras import layers

from export.network import Network
from export.onnx_graph import operators, write_onnx
from export.runners import open_onnx
from export.spec import Spec
from seqapp.cells import LSTMCell
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from tests.export.conftest import (
    CLASSES,
    TAGS,
    UNITS,
    VOCABULARY,
    Exported,
    filled,
    network_of,
    of_features,
    states_of,
    tokens_of,
)
from tests.export.onnx_files import RECURRENT, assert_same, axes, written


class Erring(LSTMCell):
    """A cell with an operation that ONNX does not know."""

    def recur(self, projected: Any, states: Any) -> Any:
        import tensorflow as tf

        h, states = super().recur(projected, states)
        return tf.math.digamma(2 + h), states


def test_names_axes_and_types_are_those_of_the_contract(tmp_path: Path) -> None:
    _, file = written(network_of("lstm", 1, "untied"), tmp_path)
    integers, floats = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    assert [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.input] == [
        ("tokens", integers, ["batch", "time"]),
        ("state_0_in", floats, ["batch", UNITS]),
        ("state_1_in", floats, ["batch", UNITS]),
    ]
    assert [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.output] == [
        ("logits", floats, ["batch", "time", VOCABULARY]),
        ("state_0_out", floats, ["batch", UNITS]),
        ("state_1_out", floats, ["batch", UNITS]),
    ]


def test_features_and_an_output_of_another_name(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.GRU(UNITS)), output="levels")
    path, file = written(network, tmp_path)
    assert [(t.name, axes(t)) for t in file.graph.input] == [
        ("features", ["batch", "time", 8]),
        ("state_0_in", ["batch", UNITS]),
    ]
    assert (file.graph.output[0].name, axes(file.graph.output[0])) == ("levels", ["batch", "time", UNITS])
    assert_same(path, network)


def test_runs_on_old_runtimes(tmp_path: Path) -> None:
    _, file = written(network_of("gru", 1, "tied"), tmp_path)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 17)]
    assert file.ir_version == 8


def test_an_operation_that_onnx_does_not_know(tmp_path: Path) -> None:
    network = Network.of(filled(SequenceModel(VOCABULARY, (LSTMCell(6), Erring(6)), 12)))
    with pytest.raises(UsageError, match=r"^ONNX has no operator for Digamma, which layer_2 uses: "):
        write_onnx(network, Spec.of(network), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_one_timestep_is_the_step(tmp_path: Path) -> None:
    network = network_of("gru", 2, "projected")
    path, _ = written(network, tmp_path)
    runner, states, tokens = open_onnx(path, Spec.of(network)), states_of(network, 3), tokens_of(3, 1)
    logits, after = runner.step(tokens[:, 0], states)
    whole, whole_after = runner.sequence(tokens, states)
    np.testing.assert_array_equal(logits, whole[:, 0])
    np.testing.assert_array_equal(after, whole_after)


def test_names_and_axes_of_a_file_that_reads_both_ways(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    integers, floats = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    for it, given, made in (
        (tagger_bundle, ("tokens", integers, ["batch", "time"]), ["batch", "time", TAGS]),
        (classifier_bundle, ("features", floats, ["batch", "time", 8]), ["batch", CLASSES]),
    ):
        file = onnx.load(it.folder / "model.onnx")
        inputs = [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.input]
        assert inputs == [given, ("lengths", integers, ["batch"])]
        assert [(t.name, t.type.tensor_type.elem_type, axes(t)) for t in file.graph.output] == [("logits", floats, made)]


@pytest.mark.parametrize(
    ("bundle", "wanted"),
    [
        ("tagger_bundle", {"LSTM": 1, "GRU": 1}),
        # Of the stacked cells, each direction by itself; in the end each is taken where it ends.
        ("classifier_bundle", {"LSTM": 1, "GRU": 2, "Scan": 2, "ReverseSequence": 3}),
    ],
)
def test_operators_of_a_file_that_reads_both_ways(bundle: str, wanted: dict[str, int], request: pytest.FixtureRequest) -> None:
    found = operators(request.getfixturevalue(bundle).folder / "model.onnx")
    assert {name: number for name, number in found.items() if name in (*RECURRENT, "ReverseSequence")} == wanted
