"""The two signatures as TensorFlow functions, before any conversion."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from export import graphs
from export.graphs import builtin_functions, plain_functions
from export.spec import SEQUENCE, STEP, Spec
from seqapp.cells import GRUCell, LSTMCell
from seqapp.model import SequenceModel
from seqapp.step import Array, KerasStepper

VOCABULARY = 37


@keras.saving.register_keras_serializable(package="test_graphs")
class Leaky(keras.layers.Layer):
    """A cell that is not split in two, with an output of another width than its states."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 3], 7

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.mix = self.add_weight(shape=(input_shape[-1] + self.units + 3, self.units), name="mix")
        self.trace = self.add_weight(shape=(self.units, 3), name="trace")
        self.out = self.add_weight(shape=(self.units + 3, 7), name="out")

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h = ops.tanh(ops.matmul(ops.concatenate([inputs, *states], -1), self.mix))
        t = 0.9 * states[1] + ops.matmul(h, self.trace)
        return ops.matmul(ops.concatenate([h, t], -1), self.out), [h, t]


def model_of(*cells: keras.layers.Layer, tied: bool = True) -> SequenceModel:
    """A model with large weights, no two alike."""
    model = SequenceModel(VOCABULARY, cells, 12, tied)
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.4, weight.shape) for weight in model.get_weights()])
    return model


def arrays(model: SequenceModel, batch: int, timesteps: int) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(7)
    states = [rng.normal(0, 2, (batch, size)).astype(np.float32) for size in model.state_sizes]
    return rng.integers(0, VOCABULARY, (batch, timesteps)).astype(np.int32), states


def call(function: Any, tokens: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    result = function(tokens=tokens, **{f"state_{i}_in": state for i, state in enumerate(states)})
    return result["logits"].numpy(), [result[f"state_{i}_out"].numpy() for i in range(len(states))]


def assert_same(found: tuple[Array, list[Array]], wanted: tuple[Array, list[Array]]) -> None:
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def operations(function: Any) -> set[str]:
    """All operations of a concrete function, those of its loops included."""
    definition = function.graph.as_graph_def(add_shapes=False)
    inner = (node for body in definition.library.function for node in body.node_def)
    return {node.op for node in (*definition.node, *inner)}


@pytest.fixture(scope="module")
def mixed() -> SequenceModel:
    return model_of(Leaky(9), GRUCell(6))


@pytest.fixture(scope="module")
def nested(mixed: SequenceModel) -> Any:
    """The built-in sequence of that model with blocks so short that few timesteps fill several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "BLOCKS", (6, 2))
        return builtin_functions(mixed, Spec.of(mixed))[SEQUENCE]


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 6, 7, 12, 13, 20])
def test_blocks_change_nothing(mixed: SequenceModel, nested: Any, timesteps: int) -> None:
    tokens, states = arrays(mixed, 3, timesteps)
    found = call(nested, tokens, states)
    assert found[0].shape == (3, timesteps, VOCABULARY)
    assert_same(found, KerasStepper(mixed).sequence(tokens, states))


@pytest.mark.parametrize("functions", [plain_functions, builtin_functions])
def test_functions_are_the_model(mixed: SequenceModel, functions: Any) -> None:
    made, reference = functions(mixed, Spec.of(mixed)), KerasStepper(mixed)
    tokens, states = arrays(mixed, 2, 40)
    assert_same(call(made[SEQUENCE], tokens, states), reference.sequence(tokens, states))
    assert_same(call(made[STEP], tokens[:, 0], states), reference.step(tokens[:, 0], states))


@pytest.mark.parametrize("functions", [plain_functions, builtin_functions])
def test_shapes_and_names_are_those_of_the_spec(functions: Any) -> None:
    model = model_of(LSTMCell(6))
    for name, axes in ((STEP, [None]), (SEQUENCE, [None, None])):
        function = functions(model, Spec.of(model))[name]
        positional, named = function.structured_input_signature
        given = {t.name: (t.dtype.name, t.shape.as_list()) for t in (*positional, *named.values())}
        assert given == {
            "tokens": ("int32", axes),
            "state_0_in": ("float32", [None, 6]),
            "state_1_in": ("float32", [None, 6]),
        }
        made = {key: (t.dtype.name, t.shape.as_list()) for key, t in function.structured_outputs.items()}
        assert made == {
            "logits": ("float32", [*axes, VOCABULARY]),
            "state_0_out": ("float32", [None, 6]),
            "state_1_out": ("float32", [None, 6]),
        }


def test_built_in_functions_have_no_tensor_lists_and_the_step_no_loop(mixed: SequenceModel) -> None:
    made = builtin_functions(mixed, Spec.of(mixed))
    assert not [name for function in made.values() for name in operations(function) if name.startswith("TensorList")]
    assert not [name for name in operations(made[STEP]) if "While" in name]
    assert [name for name in operations(made[SEQUENCE]) if "While" in name]


def test_input_half_of_the_product_is_outside_the_innermost_loop() -> None:
    model = model_of(LSTMCell(6))
    definition = builtin_functions(model, Spec.of(model))[SEQUENCE].graph.as_graph_def()
    bodies = [body for body in definition.library.function if any(node.op == "XlaDynamicUpdateSlice" for node in body.node_def)]
    innermost = [body for body in bodies if not any("While" in node.op for node in body.node_def)]
    products = [node for body in innermost for node in body.node_def if "MatMul" in node.op]
    assert len(innermost) == 1
    assert len(products) == 1
