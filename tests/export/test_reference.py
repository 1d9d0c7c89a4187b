"""What files are compared with: the model on real inputs, and how far rounding alone carries it."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from export.network import Network
from export.parity import CHUNKS, differences
from export.reference import Reference
from seqapp.errors import UsageError
from seqapp.step import log_softmax
from tests.export.conftest import VOCABULARY, filled, network_of, of_features

pytestmark = pytest.mark.usefixtures("lengths_of_users")
STREAM = np.random.default_rng(3).integers(0, VOCABULARY, 1100)
FLOATS = np.random.default_rng(4).normal(size=(1100, 8))


@pytest.fixture(scope="module")
def lstm() -> Reference:
    return Reference(network_of("lstm", 1, "untied"), STREAM[:-1], STREAM[1:])


def test_a_short_stream_is_repeated() -> None:
    samples = Reference(network_of("gru", 1, "tied"), STREAM[:7]).samples
    assert samples.shape == (3, 1000)
    assert samples.dtype == np.int32
    np.testing.assert_array_equal(samples[0], np.resize(STREAM[:7], 1000))


@pytest.mark.parametrize("length", [7, 500, 1000, 1100])
def test_rows_differ(length: int) -> None:
    rows = Reference(network_of("gru", 1, "tied"), STREAM[:length]).samples
    assert len(np.unique(rows[:, :100], axis=0)) == 3


def test_features_are_rows_of_numbers() -> None:
    samples = Reference(Network.of(of_features(layers.GRU(4))), FLOATS).samples
    assert (samples.shape, samples.dtype) == ((3, 1000, 8), np.float32)


def test_whole_in_chunks_and_step_by_step_are_the_same(lstm: Reference) -> None:
    inputs = lstm.samples[:, :120]
    wanted = lstm.whole(lstm.keras, inputs, [120])
    for found in (lstm.whole(lstm.keras, inputs, CHUNKS), lstm.stepwise(lstm.keras, inputs)):
        assert max(differences(found, wanted)) < 1e-5
    assert max(differences(lstm.whole(lstm.keras, inputs[:, :119], [119]), wanted)) == math.inf


def test_values_are_log_probabilities_of_logits_alone(lstm: Reference) -> None:
    outputs = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_allclose(np.exp(lstm.values(outputs)).sum(-1), 1)
    of_outputs = Reference(Network.of(of_features(layers.GRU(5))), FLOATS)
    np.testing.assert_array_equal(of_outputs.values(outputs), outputs)


def test_scores_are_those_of_the_targets(lstm: Reference) -> None:
    logs, ranks = lstm.score(lstm.keras, 50)
    logits, _ = lstm.keras.sequence(STREAM[None, :50], lstm.keras.initial_states(1))
    wanted = log_softmax(logits[0].astype(np.float64))[np.arange(50), STREAM[1:51]]
    np.testing.assert_allclose(logs, wanted, rtol=1e-5)
    np.testing.assert_array_equal(ranks, (logits[0] > logits[0][np.arange(50), STREAM[1:51]][:, None]).sum(1))
    with pytest.raises(ValueError, match="no targets"):
        Reference(lstm.network, STREAM).score(lstm.keras, 50)


def rounding_of(rounding: tuple[float, float]) -> tuple[float, float]:
    reference = Reference(network_of("gru", 1, "tied"), STREAM)
    reference.__dict__["rounding"] = rounding
    return reference.tolerances


@pytest.mark.parametrize(("size", "factor"), [(0.01, 1.0), (1.0, 1.0), (40.0, 40.0), (math.nan, 1.0)])
def test_outputs_are_compared_in_proportion_to_their_size(size: float, factor: float) -> None:
    """Above 1, and only of what are no log-probabilities; what is no number makes nothing pass."""
    model = of_features(layers.GRU(4))
    for output, wanted in (("outputs", factor), ("key_logits", factor), ("class_logits", 1.0)):
        reference = Reference(Network.of(model, output), FLOATS)
        reference.__dict__.update(rounding=(0.0, 0.0), expected=(np.full((3, 1000, 4), size), []))
        assert reference.tolerances == pytest.approx((1e-5 * wanted, 1e-5))


def test_tolerance_follows_the_models_own_rounding() -> None:
    assert rounding_of((0.0, 2.5e-6)) == (1e-5, 1e-5)
    assert rounding_of((1e-5, 3e-6)) == pytest.approx((4e-5, 1.2e-5))


def test_rounding_is_the_distance_of_float32_from_float64(lstm: Reference) -> None:
    logs, states = lstm.rounding
    assert 0 < logs < 1e-5
    assert 0 < states < 1e-5


def test_differences_see_what_is_not_a_number() -> None:
    a, b = np.zeros((2, 3)), np.zeros((2, 3))
    state = [np.ones((2, 4))]
    b[1, 2] = 0.25
    assert differences((a, state), (b, state)) == (0.25, 0.0)
    for bad in (np.nan, np.inf, -np.inf):
        b[0, 0] = bad
        assert differences((a, state), (b, state)) == (math.inf, 0.0)
        assert differences((b, state), (b, state)) == (math.inf, 0.0)
        assert differences((a, state), (a, [np.full((2, 4), bad)])) == (0.0, math.inf)
        assert differences((a, [*state, b]), (a, [*state, b]))[1] == math.inf


def test_differences_of_other_shapes_are_infinite() -> None:
    assert differences((np.zeros((2, 3)), [np.zeros(1)]), (np.zeros((1, 3)), [np.zeros(1)])) == (math.inf, 0.0)


class Doubled(layers.Dense):
    """A layer that does more than its class."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return 2 * super().call(inputs)


class Reversed(layers.LSTM):
    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        return super().call(ops.flip(sequences, 1), initial_state, mask, training)


def of_its_other_state() -> Any:
    x = keras.Input((None, 8))
    return filled(keras.Model(x, layers.LSTM(5, return_state=True)(x)[2]))


LYING = {
    "a layer that does more": lambda: of_features(layers.GRU(5, return_sequences=True), Doubled(3)),
    "a recurrent layer that does more": lambda: of_features(Reversed(5, return_sequences=True)),
    "another state than the output": of_its_other_state,
}


@pytest.mark.parametrize("name", LYING)
def test_a_model_that_is_no_chain_of_its_layers(name: str) -> None:
    with pytest.raises(
        UsageError, match=r"^The model computes something else than its layers do one after the other \(difference"
    ):
        Reference(Network.of(LYING[name]()), FLOATS[:150]).check_chain()


@pytest.mark.parametrize(
    "tail",
    [
        [layers.GRU(5, return_sequences=True), layers.Dense(4)],
        [layers.GRU(5, return_sequences=True), layers.Dense(4, "softmax")],
        [layers.GRU(5), layers.Dense(4), layers.Softmax()],
    ],
    ids=["outputs", "softmax", "softmax of the last timestep"],
)
@pytest.mark.parametrize("output", [None, "logits", "probabilities"])
def test_a_chain_is_let_through(tail: list[Any], output: str | None) -> None:
    copies = [type(layer).from_config(layer.get_config()) for layer in tail]
    Reference(Network.of(of_features(*copies), output), FLOATS[:150]).check_chain()


def both_ways(*tail: Any, **choices: Any) -> Reference:
    layer = layers.Bidirectional(layers.GRU(5, **choices))
    return Reference(Network.of(of_features(layer, *tail)), FLOATS[:150])


def test_a_chain_that_reads_both_ways_is_let_through() -> None:
    both_ways(layers.Dense(4, "softmax")).check_chain()


@keras.saving.register_keras_serializable(package="tests")
class Turned(layers.LSTM):
    """A layer that does more than its class: what it reads is turned around once more."""

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        return super().call(ops.flip(sequences, 1), initial_state, mask, training)


def test_what_reads_both_ways_in_another_way() -> None:
    model = of_features(layers.Bidirectional(Turned(5, return_sequences=True)))
    with pytest.raises(UsageError, match=r"^The model computes something else than its layers do one after the other"):
        Reference(Network.of(model), FLOATS[:150]).check_chain()


@pytest.mark.parametrize(("each", "shape"), [(False, (3, 10)), (True, (3, 1000, 10))], ids=["last", "each"])
def test_what_is_expected_of_both_ways(each: bool, shape: tuple[int, ...]) -> None:
    reference = both_ways(return_sequences=each)
    values, states = reference.expected
    assert (values.shape, states, reference.keras.initial_states(3)) == (shape, [], [])
    assert 0 < reference.rounding[0] < 1e-5
    assert reference.tolerances == (1e-5, 1e-5)
    with pytest.raises(TypeError, match="has no step"):
        reference.keras.step(reference.samples[:, 0], [])
