"""A model as a chain of stages: it computes what Keras's own call of the model does, and nothing of the model is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from export.network import Network
from export.reference import Reference
from export.spec import Spec
from export.stages import Affine, Both, Lookup, Pointwise, Recurrent
from seqapp.cells import CELLS, PlainCell
from seqapp.classifier import Classifier
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper
from tests.export.conftest import (
    ENDS,
    MODELS,
    VOCABULARY,
    FadingCell,
    OwnCell,
    filled,
    model_of,
    network_of,
    of_features,
    states_of,
    tokens_of,
)
from tests.export.oracle import alone

F, T = 8, 12


def features(rows: int = 2) -> Array:
    return np.random.default_rng(3).normal(size=(rows, T, F)).astype(np.float32)


def given(network: Network, rows: int = 2) -> Array:
    return tokens_of(rows, T) if network.features is None else features(rows)


def stepwise(network: Network, x: Array) -> tuple[Array, list[Array]]:
    states, results = network.initial_states(len(x)), []
    for now in np.swapaxes(x, 0, 1):
        y, states = network.step(ops.convert_to_tensor(now), states)
        results.append(ops.convert_to_numpy(y))
    return np.stack(results, 1), [ops.convert_to_numpy(state) for state in states]


def assert_close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [*MODELS, ("own", 2, "tied")], ids=str)
def test_our_own_model(model: tuple[str, int, str]) -> None:
    network, tokens = network_of(*model), tokens_of(2, T)
    wanted, after = network.model(tokens)
    found, last = stepwise(network, tokens)
    assert_close(found, wanted)
    for a, b in zip(last, after, strict=True):
        assert_close(a, b)
    assert_close(network(ops.convert_to_tensor(tokens), network.initial_states(2))[0], wanted)


def tokens(*parts: Any) -> Any:
    return filled(keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(VOCABULARY, 6), *parts]))


def functional(make: Callable[[Any], Any], shape: tuple[int | None, ...] = (None, F)) -> Any:
    x = keras.Input(shape)
    return filled(keras.Model(x, make(x)))


def inner() -> Any:
    x = keras.Input((None, 6))
    return keras.Model(x, layers.Dense(5)(layers.GRU(7, return_sequences=True)(x)))


def used_elsewhere() -> Any:
    """The same layers as in another model, where they were called first."""
    lstm, dense = layers.LSTM(4, return_sequences=True), layers.Dense(3)
    _ = keras.Model(x := keras.Input((None, F)), dense(lstm(x)))
    return functional(lambda x: dense(lstm(layers.Dense(F)(x))))


def dirty() -> Any:
    """A stateful model that ran before: its files start from zeros all the same."""
    model = keras.Sequential([keras.Input(batch_shape=(4, None, F)), layers.LSTM(5, stateful=True, return_sequences=True)])
    filled(model)(np.ones((4, 9, F)))
    return model


def twice() -> Any:
    dense = layers.Dense(F)
    return functional(lambda x: dense(dense(layers.GRU(F, return_sequences=True)(x))))


def named(x: Array) -> Array:
    return ops.tanh(x) * x


class OwnLSTM(layers.LSTM):
    """A layer of a class that Keras does not know."""


def recurrent(**choices: Any) -> Any:
    return layers.LSTM(5, return_sequences=True, **choices)


MODELS_OF_KERAS: dict[str, tuple[Callable[[], Any], int]] = {
    "tokens": (lambda: tokens(layers.GRU(5, return_sequences=True), layers.Dense(VOCABULARY)), 3),
    "features": (lambda: of_features(recurrent(), layers.Dense(3, "tanh")), 2),
    "functional": (lambda: functional(lambda x: layers.Dense(3)(recurrent()(layers.Dense(4, "relu")(x)))), 3),
    "functional in sequential": (lambda: tokens(inner(), layers.Dense(3)), 4),
    "functional in functional": (lambda: functional(lambda x: layers.Dense(3)(inner()(layers.Dense(6)(x)))), 4),
    "sequential in functional": (lambda: functional(keras.Sequential([recurrent(), layers.Dense(3)])), 2),
    "layers of another model": (used_elsewhere, 3),
    "a layer called twice": (twice, 3),
    "stacked cells": (lambda: of_features(layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)], return_sequences=True)), 2),
    "two layers": (lambda: of_features(recurrent(), layers.SimpleRNN(6, return_sequences=True), layers.Dense(2)), 3),
    "cells of this project": (
        lambda: of_features(*(layers.RNN(make(5), return_sequences=True) for make in CELLS.values())),
        len(CELLS),
    ),
    "a cell of one's own": (lambda: of_features(layers.RNN(OwnCell(5), return_sequences=True), layers.Dense(3)), 2),
    "a layer of one's own": (lambda: of_features(OwnLSTM(5, return_sequences=True)), 1),
    "a function of one's own": (lambda: of_features(recurrent(), layers.Dense(3, named)), 2),
    "time distributed": (lambda: of_features(recurrent(), layers.TimeDistributed(layers.Dense(3, "relu"))), 2),
    "normalized": (
        lambda: of_features(layers.BatchNormalization(), recurrent(), layers.LayerNormalization(), layers.Dense(2)),
        4,
    ),
    "slopes for all timesteps": (lambda: of_features(recurrent(), layers.PReLU(shared_axes=[1])), 2),
    "dropout": (
        lambda: of_features(layers.Dropout(0.5), recurrent(dropout=0.5, recurrent_dropout=0.5), layers.GaussianNoise(1)),
        1,
    ),
    "returned states": (lambda: functional(lambda x: layers.Dense(3)(recurrent(return_state=True)(x)[0])), 2),
    "states as outputs": (lambda: functional(recurrent(return_state=True)), 1),
    "stateful": (dirty, 1),
    "a fixed length": (lambda: functional(lambda x: layers.Dense(3)(recurrent()(x)), (T, F)), 2),
    "last timestep": (lambda: of_features(recurrent(), layers.GRU(4), layers.Dense(3)), 3),
    "last timestep, unrolled": (lambda: functional(layers.GRU(4, unroll=True), (T, F)), 1),
}


@pytest.mark.parametrize("name", MODELS_OF_KERAS)
def test_a_model_of_keras(name: str) -> None:
    build, stages = MODELS_OF_KERAS[name]
    model = build()
    network = Network.of(model)
    assert len(network.stages) == stages
    x = given(network, model.input_shape[0] or 2)
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()
    wanted = model(x, training=False)
    wanted = wanted[0] if isinstance(wanted, (list, tuple)) else wanted
    found, _ = stepwise(network, x)
    assert network.last_only == name.startswith("last timestep")
    assert_close(found[:, -1] if network.last_only else found, wanted)
    assert_close(network(ops.convert_to_tensor(x), network.initial_states(len(x)))[0], found)
    assert (network.output_size, network.output) == (found.shape[-1], "outputs" if network.features else "logits")


def both(layer: Any, **choices: Any) -> Any:
    return layers.Bidirectional(layer, **choices)


def stateful_both_ways() -> Any:
    """It ran before: its files start from zeros all the same."""
    model = keras.Sequential([keras.Input(batch_shape=(2, None, F)), both(recurrent(stateful=True, dropout=0.5))])
    filled(model)(np.ones((2, 9, F)))
    return model


def twice_both_ways() -> Any:
    layer = both(layers.GRU(F // 2, return_sequences=True))
    return functional(lambda x: layers.Dense(3)(layer(layer(x))))


BOTH_WAYS: dict[str, tuple[Callable[[], Any], int, bool]] = {
    "both ways": (lambda: tokens(both(recurrent()), layers.Dense(3)), 3, False),
    "last timestep": (lambda: of_features(layers.Dense(6), both(layers.GRU(4)), layers.Dense(3, "relu")), 3, True),
    "sum": (lambda: of_features(both(recurrent(), merge_mode="sum")), 1, False),
    "stacked cells": (lambda: of_features(both(layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)]))), 1, True),
    "widths that differ": (
        lambda: of_features(both(recurrent(), backward_layer=layers.GRU(3, return_sequences=True, go_backwards=True))),
        1,
        False,
    ),
    "a cell of one's own": (
        lambda: of_features(both(layers.RNN(FadingCell(5), return_sequences=True)), layers.Dense(3)),
        2,
        False,
    ),
    "beside layers that read ahead": (
        lambda: of_features(recurrent(), both(recurrent()), layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)])),
        4,
        True,
    ),
    "dropout": (lambda: of_features(both(recurrent(dropout=0.5, recurrent_dropout=0.5)), layers.Dense(2)), 2, False),
    "returned states": (lambda: functional(lambda x: layers.Dense(3)(both(recurrent(return_state=True))(x)[0])), 2, False),
    "a layer called twice": (twice_both_ways, 3, False),
    "stateful": (stateful_both_ways, 1, False),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_model_that_reads_both_ways(name: str) -> None:
    build, stages, last_only = BOTH_WAYS[name]
    model = build()
    network = Network.of(model)
    assert (len(network.stages), network.last_only, network.both_ways) == (stages, last_only, True)
    assert (network.recurrent, network.state_sizes, network.initial_states(2)) == ([], [], [])
    x, lengths = given(network), [5, 3]
    found = ops.convert_to_numpy(network.finish(network.sequences(Recurrent.whole, ops.convert_to_tensor(x[:, :5]), lengths)))
    assert network.output_size == found.shape[-1]
    for row, length in enumerate(lengths):
        for layer in model.layers:
            if getattr(layer, "stateful", False):
                layer.reset_states()
        # A stateful model takes two rows at a time.
        (wanted, *_) = alone(lambda x: model(np.repeat(x, 2, 0), training=False), x[row : row + 1], [length])
        assert_close(found[row] if last_only else found[row, :length], wanted)


@pytest.mark.parametrize(
    "name",
    [
        "a layer of one's own",
        "a function of one's own",
        "dropout",
        "states as outputs",
        "a fixed length",
        "last timestep, unrolled",
    ],
)
def test_its_check_agrees(name: str) -> None:
    model = MODELS_OF_KERAS[name][0]()
    Reference(Network.of(model), features()[0]).check_chain()


def test_stages_are_the_layers_with_their_own_variables() -> None:
    model = tokens(layers.GRU(5, return_sequences=True), layers.Dense(4, "relu"), layers.LayerNormalization(), layers.Dense(3))
    lookup, gru, first, norm, last = Network.of(model).stages
    embedding, *rest = model.layers
    assert isinstance(lookup, Lookup) and lookup.table is embedding.embeddings
    assert isinstance(gru, Recurrent) and gru.cell is rest[0].cell
    assert isinstance(first, Affine) and first.kernel is rest[1].kernel and first.activation is rest[1].activation
    assert isinstance(norm, Pointwise) and norm.layer is rest[2]
    assert isinstance(last, Affine) and last.bias is rest[3].bias and last.activation is None


def test_both_ways_are_the_cells_of_each_direction() -> None:
    model = tokens(layers.Bidirectional(layers.RNN([layers.LSTMCell(4), layers.GRUCell(5)]), "mul"), layers.Dense(3))
    _, both_ways, _ = Network.of(model).stages
    layer = model.layers[1]
    assert isinstance(both_ways, Both) and both_ways.merge == "mul"
    for stages, part in ((both_ways.ahead, layer.forward_layer), (both_ways.back, layer.backward_layer)):
        assert all(stage.cell is cell for stage, cell in zip(stages, part.cell.cells, strict=True))


SOFTMAXES = {
    "in a Dense": lambda: [layers.Dense(4, "softmax")],
    "an Activation": lambda: [layers.Dense(4), layers.Activation("softmax")],
    "a Softmax": lambda: [layers.Dense(4), layers.Softmax()],
}


@pytest.mark.parametrize("end", SOFTMAXES)
def test_a_softmax_is_left_out_of_logits_and_kept_under_another_name(end: str) -> None:
    model, x = of_features(recurrent(), *SOFTMAXES[end]()), features()
    probabilities = ops.convert_to_numpy(model(x))
    network = Network.of(model)
    assert (network.output, network.softmax_left_out) == ("logits", True)
    logits, _ = stepwise(network, x)
    assert_close(ops.softmax(logits), probabilities)
    assert np.abs(logits.sum(-1) - 1).max() > 0.1
    kept = Network.of(model, "probabilities")
    assert (kept.output, kept.softmax_left_out) == ("probabilities", False)
    assert_close(stepwise(kept, x)[0], probabilities)
    of_classes = Network.of(model, "class_logits")
    assert (of_classes.output, of_classes.softmax_left_out) == ("class_logits", True)
    assert_close(of_classes.in_float64().finish(np.ones((1, 5))), network.finish(np.ones((1, 5), np.float32)))


def test_a_softmax_within_the_model_stays() -> None:
    model = of_features(layers.Dense(4, "softmax"), recurrent(), layers.Dense(3))
    network = Network.of(model)
    assert (network.output, network.softmax_left_out) == ("outputs", False)
    assert_close(stepwise(network, features())[0], model(features()))


def test_output_has_the_name_that_is_asked_for() -> None:
    assert Network.of(tokens(recurrent(), layers.Dense(3)), "pitch_logits").output == "pitch_logits"
    assert Network.of(of_features(recurrent()), "logits").output == "logits"


class Sub(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.layer = layers.LSTM(4)

    def call(self, x: Any) -> Any:
        return self.layer(x)


def subclassed() -> Any:
    model = Sub()
    model(features())
    return model


def of_two_inputs() -> Any:
    one, two = keras.Input((None, F)), keras.Input((None, F))
    return keras.Model([one, two], layers.LSTM(4)(layers.Add()([one, two])))


def of_two_heads() -> Any:
    def heads(x: Any) -> list[Any]:
        y = recurrent()(x)
        return [layers.Dense(3)(y), layers.Dense(4, name="other")(y)]

    return functional(heads)


def mixed() -> Any:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return of_features(recurrent(), layers.Dense(3))
    finally:
        keras.config.set_dtype_policy("float32")


class Timesteps(layers.Dropout):
    """What a model may put between layers that do not fit together: (B, U) -> (B, 1, U)."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return inputs[:, None]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], 1, input_shape[1])


def after_both_ends() -> Any:
    return of_features(layers.Bidirectional(layers.LSTM(4)), Timesteps(0.1), layers.Bidirectional(recurrent()))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "two inputs": (of_two_inputs, "'add.*' does more than to follow the layer before it: .*from one input to one output"),
    "two heads": (of_two_heads, "'other' does more than to follow the layer before it"),
    "skip connection": (
        lambda: functional(lambda x: layers.Dense(3)(layers.Concatenate(name="skip")([x, recurrent()(x)]))),
        "'skip' does more than to follow the layer before it",
    ),
    "a state used": (
        lambda: functional(lambda x: layers.Dense(3, name="of_c")(layers.LSTM(4, return_state=True)(x)[2])),
        "'of_c' does more than to follow the layer before it",
    ),
    "an operation": (
        lambda: functional(lambda x: layers.Dense(3)(recurrent()(x) * 2)),
        r"\(Multiply\) is none that looks at one",
    ),
    "go_backwards": (lambda: of_features(recurrent(go_backwards=True, name="back")), "'back' goes backwards"),
    "mask_zero": (
        lambda: keras.Sequential([keras.Input((None,)), layers.Embedding(9, 4, mask_zero=True), recurrent()]),
        "masks token 0: a stream has no padding, and .* told the lengths of its sequences. Set mask_zero=False",
    ),
    "Masking": (lambda: of_features(layers.Masking(), recurrent()), r"\(Masking\) is none that looks at one timestep alone"),
    "two outputs of Bidirectional": (
        lambda: of_features(layers.Bidirectional(recurrent(), merge_mode=None, name="both")),
        "'both' must wrap recurrent layers, with a merge_mode of concat, sum, ave, mul. Received: LSTM and LSTM.*None",
    ),
    "back before ahead": (
        lambda: of_features(
            both(recurrent(go_backwards=True), backward_layer=layers.LSTM(4, return_sequences=True), name="both")
        ),
        "'both' must wrap a layer that goes forward, then one with go_backwards=True",
    ),
    "one step that goes backwards": (
        lambda: of_features(layers.RNN(layers.GRUCell(3), go_backwards=True, name="back")),
        "'back' goes backwards and leaves its outputs in that order: use keras.layers.Bidirectional",
    ),
    "a layer after both ends": (after_both_ends, "A recurrent layer follows one without return_sequences: set return_seq"),
    "a layer after both ends and something else": (
        lambda: of_features(layers.Bidirectional(layers.LSTM(4)), layers.RepeatVector(3, name="again"), recurrent()),
        r"'again' \(RepeatVector\) is none that looks at one timestep alone",
    ),
    "Bidirectional in float64": (
        lambda: of_features(layers.Bidirectional(recurrent(dtype="float64"))),
        "computes in float64: only models in float32 are exported",
    ),
    "Conv1D": (lambda: of_features(layers.Conv1D(4, 3, padding="causal"), recurrent()), r"\(Conv1D\) is none that looks"),
    "Flatten": (lambda: functional(lambda x: layers.Flatten()(recurrent()(x)), (T, F)), r"\(Flatten\) is none that looks"),
    "normalized over time": (
        lambda: functional(lambda x: recurrent()(layers.LayerNormalization(axis=(1, 2))(x)), (T, F)),
        r"\(LayerNormalization\) is none that looks",
    ),
    "softmax over time": (lambda: of_features(recurrent(), layers.Softmax(axis=1)), r"\(Softmax\) is none that looks"),
    "slopes for each timestep": (
        lambda: functional(lambda x: recurrent()(layers.PReLU()(x)), (T, F)),
        r"\(PReLU\) is none that",
    ),
    "ConvLSTM": (
        lambda: keras.Sequential([keras.Input((None, 6, 2)), layers.ConvLSTM1D(3, 3, return_sequences=True)]),
        r"must take tokens \(batch, time\).*or features.*Received: \(None, None, 6, 2\)",
    ),
    "a layer after the last timestep": (
        lambda: of_features(layers.LSTM(4), layers.RepeatVector(3), recurrent()),
        r"\(RepeatVector\) is none that looks",
    ),
    "subclassed": (subclassed, "Only a keras.Sequential or a functional model can be taken apart.*Received: Sub"),
    "no model": (lambda: 42, "Only a keras.Sequential or a functional model.*Received: int"),
    "not built": (
        lambda: keras.Sequential([layers.Embedding(9, 4), recurrent()]),
        "has no weights yet: begin it with a keras.Input",
    ),
    "no recurrent layer": (lambda: of_features(layers.Dense(3)), "has no recurrent layer"),
    "mixed precision": (mixed, "computes in float16: only models in float32 are exported"),
    "a layer in mixed precision": (
        lambda: of_features(recurrent(dtype="mixed_float16", name="half")),
        "'half' computes in float16",
    ),
    "a layer in float64": (
        lambda: of_features(recurrent(), layers.Dense(3, dtype="float64", name="double")),
        "'double' computes in",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    build, words = REFUSED[name]
    model = build()
    with pytest.raises(UsageError, match=words) as found:
        Network.of(model)
    assert "\n" not in str(found.value)


@keras.saving.register_keras_serializable(package="tests")
class StubbornCell(FadingCell):
    """As many write it: a size that is a tensor of a graph is neither true nor false."""

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return super().get_initial_state(batch_size or 1)


def test_first_states_are_asked_for_by_number() -> None:
    model = of_features(both(layers.RNN(StubbornCell(5), return_sequences=True)), layers.Dense(3))
    network = Network.of(model)
    traced = tf.function(
        lambda x, ends: network.finish(network.sequences(Recurrent.whole, x, ends)),
        input_signature=[tf.TensorSpec((None, None, F)), tf.TensorSpec((None,), tf.int32)],
        autograph=False,
    )
    x = features()
    assert_close(traced(x, [x.shape[1]] * len(x)), model(x))


def test_first_states_are_those_of_the_cells() -> None:
    class Learned(PlainCell):
        def get_initial_state(self, batch_size: Any = None) -> list[Any]:
            return [ops.tile(ops.reshape(ops.arange(self.units, dtype="float32"), (1, -1)), (batch_size or 1, 1))]

    network = Network.of(of_features(layers.RNN(Learned(3), return_sequences=True), layers.GRU(2)))
    first, second = network.initial_states(2)
    np.testing.assert_array_equal(first, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(second, np.zeros((2, 2)))
    assert [state.initial for state in Spec.of(network).states] == [(0.0, 1.0, 2.0), (0.0, 0.0)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: model_of(cell="lstm", layers=2, **ENDS["projected"]),
        lambda: filled(SequenceModel(VOCABULARY, [OwnCell(9)], **ENDS["tied"])),
        lambda: of_features(layers.BatchNormalization(), OwnLSTM(5), layers.Dense(3, named)),
        lambda: tokens(inner(), layers.Dense(3, "softmax")),
        lambda: functional(lambda x: layers.Dense(3)(inner()(layers.Dense(6)(x)))),
    ],
    ids=["our own", "own cell", "sequential", "nested", "nested functional"],
)
def test_float64_has_the_same_weights_and_less_rounding(build: Callable[[], Any]) -> None:
    network = Network.of(build())
    exact = network.in_float64()
    for a, b in zip(exact.model.get_weights(), network.model.get_weights(), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)
    x, states = given(network), states_of(network, 2)
    found, after = KerasStepper(network, network.features).sequence(x, states)
    wanted, last = KerasStepper(exact, network.features).sequence(x, [state.astype(np.float64) for state in states])
    assert {array.dtype for array in (wanted, *last)} == {np.dtype(np.float64)}
    assert not np.array_equal(wanted, wanted.astype(np.float32)), "nothing between was float32"
    assert not np.array_equal(last[0], last[0].astype(np.float32))
    assert 0 < np.abs(found - wanted).max() < 1e-5
    assert 0 < max(np.abs(a - b).max() for a, b in zip(after, last, strict=True)) < 1e-5
    assert {weight.dtype for weight in network.model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("name", ["both ways", "a cell of one's own"])
def test_float64_reads_both_ways_too(name: str) -> None:
    network = Network.of(BOTH_WAYS[name][0]())
    exact = network.in_float64()
    assert (exact.both_ways, exact.last_only) == (True, network.last_only)
    x, lengths = given(network), [T, 5]
    found, wanted = (
        ops.convert_to_numpy(it.finish(it.sequences(Recurrent.whole, ops.convert_to_tensor(inputs), lengths)))
        for it, inputs in ((network, x), (exact, x if network.features is None else x.astype(np.float64)))
    )
    assert (found.dtype, wanted.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(found - wanted).max() < 1e-5
    assert {weight.dtype for weight in network.model.weights} == {"float32"}


def snapshot(model: Any) -> Any:
    """All that a user could notice of a model."""
    return (
        [(variable.path, variable.trainable, variable.numpy().tobytes()) for variable in model.variables],
        [state.numpy().tobytes() for layer in model.layers for state in (getattr(layer, "states", None) or [])],
        model.get_config(),
        [(id(layer), layer.trainable) for layer in model.layers],
        [snapshot(layer) for layer in model.layers if isinstance(layer, keras.Model)],
    )


@pytest.mark.parametrize(
    "name", ["features", "normalized", "dropout", "stateful", "functional in functional", "layers of another model"]
)
def test_the_model_is_left_as_it_was(name: str) -> None:
    assert_left_as_it_was(MODELS_OF_KERAS[name][0]())


def test_a_model_that_reads_both_ways_is_left_as_it_was() -> None:
    assert_left_as_it_was(stateful_both_ways())


def assert_left_as_it_was(model: Any) -> None:
    model.layers[-1].trainable = False
    before = snapshot(model)
    reference = Reference(Network.of(model), np.random.default_rng(1).normal(size=(200, F)))
    reference.check_chain()
    _ = reference.tolerances
    assert snapshot(model) == before


def test_a_classifier_may_give_a_value() -> None:
    model = Classifier(1, [PlainCell(3)], mean=[0.5, 0.0], variance=[2.0, 1.0])
    network = Network.of(model, "value")
    assert (network.output, network.in_float64().output, Network.of(model).output) == ("value", "value", "class_logits")
