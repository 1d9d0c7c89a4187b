"""The signatures as TensorFlow functions, before any conversion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from keras import layers

from export import graphs
from export.graphs import builtin_functions, plain_functions
from export.network import Network
from export.spec import PREFILL, SEQUENCE, STEP, Spec
from seqapp.cells import GRUCell
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper
from tests.export.conftest import VOCABULARY, FadingCell, OwnCell, filled, network_of, of_features, states_of, tokens_of
from tests.export.oracle import alone


def call(function: Any, x: Array, states: list[Array], spec: Spec) -> tuple[Array, list[Array]]:
    result = function(**{spec.input: x}, **{f"state_{i}_in": state for i, state in enumerate(states)})
    return result[spec.output].numpy(), [result[f"state_{i}_out"].numpy() for i in range(len(states))]


def assert_same(found: tuple[Array, list[Array]], wanted: tuple[Array, list[Array]]) -> None:
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def operations(function: Any) -> set[str]:
    """All operations of a concrete function, those of its loops included."""
    definition = function.graph.as_graph_def(add_shapes=False)
    inner = (node for body in definition.library.function for node in body.node_def)
    return {node.op for node in (*definition.node, *inner)}


@pytest.fixture(scope="module")
def mixed() -> Network:
    """A cell that is not split in two, with an output of another width than its states, under one that is."""
    return Network.of(filled(SequenceModel(VOCABULARY, (OwnCell(9), GRUCell(6)), 12)))


@pytest.fixture(scope="module")
def nested(mixed: Network) -> Any:
    """The built-in sequence of that model with blocks so short that few timesteps fill several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "BLOCKS", (6, 2))
        return builtin_functions(mixed, Spec.of(mixed))[SEQUENCE]


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 6, 7, 12, 13, 20])
def test_blocks_change_nothing(mixed: Network, nested: Any, timesteps: int) -> None:
    tokens, states = tokens_of(3, timesteps), states_of(mixed, 3)
    found = call(nested, tokens, states, Spec.of(mixed))
    assert found[0].shape == (3, timesteps, VOCABULARY)
    assert_same(found, KerasStepper(mixed).sequence(tokens, states))


@pytest.mark.parametrize("functions", [plain_functions, builtin_functions])
def test_functions_are_the_model(mixed: Network, functions: Any) -> None:
    spec, reference = Spec.of(mixed), KerasStepper(mixed)
    made = functions(mixed, spec)
    tokens, states = tokens_of(2, 40), states_of(mixed, 2)
    logits, after = reference.sequence(tokens, states)
    assert_same(call(made[SEQUENCE], tokens, states, spec), (logits, after))
    assert_same(call(made[PREFILL], tokens, states, spec), (logits[:, -1], after))
    assert_same(call(made[STEP], tokens[:, 0], states, spec), reference.step(tokens[:, 0], states))


@pytest.mark.parametrize("functions", [plain_functions, builtin_functions])
def test_features_go_through_blocks_too(functions: Any) -> None:
    network = Network.of(of_features(layers.LSTM(6, return_sequences=True), layers.Dense(4, "relu")))
    spec, made = Spec.of(network), functions(network, Spec.of(network))
    x, states = np.random.default_rng(2).normal(size=(2, 70, 8)).astype(np.float32), states_of(network, 2)
    wanted = KerasStepper(network, 8).sequence(x, states)
    assert_same(call(made[SEQUENCE], x, states, spec), wanted)
    assert_same(call(made[PREFILL], x, states, spec), (wanted[0][:, -1], wanted[1]))


@pytest.mark.parametrize("functions", [plain_functions, builtin_functions])
def test_shapes_and_names_are_those_of_the_spec(functions: Any) -> None:
    network = network_of("lstm", 1, "untied")
    made = functions(network, Spec.of(network))
    for name, given_axes, made_axes in ((STEP, 1, 1), (SEQUENCE, 2, 2), (PREFILL, 2, 1)):
        positional, named = made[name].structured_input_signature
        given = {t.name: (t.dtype.name, t.shape.as_list()) for t in (*positional, *named.values())}
        states = {f"state_{i}": ("float32", [None, 16]) for i in range(2)}
        assert given == {"tokens": ("int32", [None] * given_axes), **{f"{key}_in": value for key, value in states.items()}}
        assert {key: (t.dtype.name, t.shape.as_list()) for key, t in made[name].structured_outputs.items()} == {
            "logits": ("float32", [*[None] * made_axes, VOCABULARY]),
            **{f"{key}_out": value for key, value in states.items()},
        }


def test_built_in_functions_have_no_tensor_lists_and_the_step_no_loop(mixed: Network) -> None:
    made = builtin_functions(mixed, Spec.of(mixed))
    assert not [name for function in made.values() for name in operations(function) if name.startswith("TensorList")]
    assert not [name for name in operations(made[STEP]) if "While" in name]
    assert [name for name in operations(made[SEQUENCE]) if "While" in name]


def test_nothing_is_random_where_training_dropped() -> None:
    network = Network.of(of_features(layers.LSTM(6, dropout=0.3, recurrent_dropout=0.3), layers.Dropout(0.3), layers.Dense(4)))
    for functions in (plain_functions, builtin_functions):
        for function in functions(network, Spec.of(network)).values():
            assert not [name for name in operations(function) if "Random" in name or "Assign" in name]


def test_input_half_of_the_product_is_outside_the_innermost_loop() -> None:
    network = network_of("lstm", 1, "untied")
    definition = builtin_functions(network, Spec.of(network))[SEQUENCE].graph.as_graph_def()
    bodies = [body for body in definition.library.function if any(node.op == "XlaDynamicUpdateSlice" for node in body.node_def)]
    innermost = [body for body in bodies if not any("While" in node.op for node in body.node_def)]
    products = [node for body in innermost for node in body.node_def if "MatMul" in node.op]
    assert len(innermost) == 1
    assert len(products) == 1


@pytest.fixture(scope="module")
def both_ways() -> Network:
    """Cells that are split in two and cells that are not, ahead and back, and a layer that reads ahead."""
    stacked = layers.RNN([layers.LSTMCell(6), FadingCell(5)], return_sequences=True)
    both = layers.Bidirectional(stacked, "ave")
    return Network.of(of_features(both, layers.RNN(GRUCell(4), return_sequences=True), layers.Dense(3, "relu")))


@pytest.fixture(scope="module", params=[plain_functions, builtin_functions])
def whole(request: pytest.FixtureRequest, both_ways: Network) -> Any:
    """The only function of that network, with blocks so short that few timesteps fill several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "BLOCKS", (6, 2))
        functions = request.param(both_ways, Spec.of(both_ways))
    assert list(functions) == [SEQUENCE]
    return functions[SEQUENCE]


@pytest.mark.parametrize("lengths", [[1, 1], [7, 2], [12, 13]], ids=str)
def test_sequences_are_those_of_the_model(lengths: list[int], both_ways: Network, whole: Any) -> None:
    x = np.random.default_rng(2).normal(size=(2, max(lengths), 8)).astype(np.float32)
    found = whole(features=x, lengths=np.array(lengths, np.int32))["outputs"].numpy()
    assert found.shape == (2, max(lengths), 3)
    for row, wanted in zip(found, alone(both_ways.model, x, lengths), strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-4, atol=2e-5)


def test_what_reads_both_ways_declares_lengths_and_nothing_random(whole: Any) -> None:
    positional, named = whole.structured_input_signature
    assert {t.name: (t.dtype.name, t.shape.as_list()) for t in (*positional, *named.values())} == {
        "features": ("float32", [None, None, 8]),
        "lengths": ("int32", [None]),
    }
    assert {key: (t.dtype.name, t.shape.as_list()) for key, t in whole.structured_outputs.items()} == {
        "outputs": ("float32", [None, None, 3])
    }
    assert not [name for name in operations(whole) if "Random" in name or "Assign" in name]


def test_sequences_by_built_in_functions_have_no_tensor_lists(both_ways: Network) -> None:
    names = operations(builtin_functions(both_ways, Spec.of(both_ways))[SEQUENCE])
    assert not [name for name in names if name.startswith("TensorList")]
    assert "ReverseSequence" in names
