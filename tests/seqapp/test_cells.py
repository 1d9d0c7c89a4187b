"""Every cell against its equations in NumPy, finite differences, and Keras's own cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp import config
from seqapp.cell import INITIALIZATIONS, Cell
from seqapp.cells import CELLS
from seqapp.config import CELL_NAMES
from seqapp.linear_cells import LinearCell, LRUCell

Array = np.ndarray[Any, np.dtype[np.float64]]
Step = Callable[[Array, list[Array], list[Array], Array], list[Array]]
B, F, U = 5, 3, 4


def sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "linear": lambda x: x,
    "silu": lambda x: x * sigmoid(x),
    "softsign": lambda x: x / (1 + np.abs(x)),
}


def plain_step(activation: str) -> Step:
    def step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
        w, b = weights
        return [ACTIVATIONS[activation](np.concatenate([states[0] * mask, x], axis=1) @ w + b)]

    return step


def gate(number: int, x: Array, h: Array, w: Array, r: Array, b: Array) -> Array:
    """One gate's sum, from its columns of the kernels."""
    columns = slice(number * U, (number + 1) * U)
    return x @ w[:, columns] + h @ r[:, columns] + b[columns]


def lstm_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    h, c = states
    i, f, g, o = (gate(n, x, h * mask, *weights) for n in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def cifg_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    h, c = states
    i, g, o = (gate(n, x, h * mask, *weights) for n in range(3))
    c = (1 - sigmoid(i)) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    (h,), (w, r, (b, s)) = states, weights
    z = sigmoid(gate(0, x, h * mask, w, r, b + s))
    reset = sigmoid(gate(1, x, h * mask, w, r, b + s))
    last = slice(2 * U, 3 * U)
    g = np.tanh(x @ w[:, last] + b[last] + reset * ((h * mask) @ r[:, last] + s[last]))
    return [z * h + (1 - z) * g]


def mingru_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    z, g = np.split(x @ weights[0] + weights[1], 2, axis=1)
    return [(1 - sigmoid(z)) * states[0] + mask * sigmoid(z) * g]


def minlstm_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    f, i, g = np.split(x @ weights[0] + weights[1], 3, axis=1)
    f, i = sigmoid(f), sigmoid(i)
    return [(f * states[0] + mask * i * g) / (f + i)]


def lru_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    """In complex numbers; what it returns first is the output, which is no state."""
    kernel, bias, nu, theta, c = weights
    lam = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    real, imaginary, past = np.split(x @ kernel + bias, 3, axis=1)
    s = lam * (states[0] + 1j * states[1]) + mask * np.sqrt(1 - np.abs(lam) ** 2) * (real + 1j * imaginary)
    y = (s @ (c[:U] - 1j * c[U:])).real + past
    return [y * sigmoid(y), s.real, s.imag]


def attention_step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
    """What it returns first is the output, which is no state."""
    k, v, q = np.split(x @ weights[0] + weights[1], 3, axis=1)
    mean, level = states
    w = np.exp(8 * np.tanh(k))
    share = w / (np.exp(level) + w)
    mean = (1 - share) * mean + share * mask * v
    return [sigmoid(q) * mean, mean, np.log(np.exp(level) + w)]


def normed(product: Array, gain: Array) -> Array:
    return gain * (product - product.mean(1, keepdims=True)) / np.sqrt(product.var(1, keepdims=True) + 1e-3)


def remedied(name: str, zoneout: float) -> Step:
    """The step of a normalized cell, which zoneout may make slower."""

    def step(x: Array, states: list[Array], weights: list[Array], mask: Array) -> list[Array]:
        *own, of_x, of_h = weights
        w, r = (own[0][U:], own[0][:U]) if name == "plain" else own[:2]
        b, s = own[-1] if name == "gru" else (own[-1], 0)
        px, ph = normed(x @ w, of_x) + b, normed((states[0] * mask) @ r, of_h) + s
        if name == "plain":
            after = [np.tanh(px + ph)]
        elif name == "gru":
            (zx, rx, gx), (zh, rh, gh) = np.split(px, 3, axis=1), np.split(ph, 3, axis=1)
            z = sigmoid(zx + zh)
            after = [z * states[0] + (1 - z) * np.tanh(gx + sigmoid(rx + rh) * gh)]
        else:
            gates = np.split(px + ph, 4 if name == "lstm" else 3, axis=1)
            i, g, o = gates[0], gates[-2], gates[-1]
            keep = sigmoid(gates[1]) if name == "lstm" else 1 - sigmoid(i)
            c = keep * states[1] + sigmoid(i) * np.tanh(g)
            after = [sigmoid(o) * np.tanh(c), c]
        return [zoneout * old + (1 - zoneout) * new for old, new in zip(states, after, strict=True)]

    return step


MULTIPLYING = [name for name, kind in CELLS.items() if kind.multiplies]
STEPS: list[tuple[str, dict[str, Any], Step]] = [
    *(("plain", {"activation": name}, plain_step(name)) for name in ACTIVATIONS),
    ("lstm", {}, lstm_step),
    ("gru", {}, gru_step),
    ("cifg", {}, cifg_step),
    ("mingru", {}, mingru_step),
    ("minlstm", {}, minlstm_step),
    ("lru", {}, lru_step),
    ("attention", {}, attention_step),
    *((name, {"normalized": True, "zoneout": 0.2}, remedied(name, 0.2)) for name in MULTIPLYING),
]
NAMES = ["-".join([name, *map(str, options.values())]) for name, options, _ in STEPS]


def random_cell(name: str, seed: int = 0, **options: Any) -> Cell:
    cell = CELLS[name](U, dtype="float64", **options)
    cell.build((None, F))
    rng = np.random.default_rng(seed)
    cell.set_weights([rng.normal(size=weight.shape) for weight in cell.get_weights()])
    return cell


def arguments(cell: Cell, seed: int = 1) -> tuple[Array, list[Array]]:
    """Inputs and states far from 0, as they are in a trained model."""
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(B, F)), [3 * rng.normal(size=(B, size)) for size in cell.state_size]


def test_the_names_of_the_cells() -> None:
    assert list(CELLS) == list(CELL_NAMES)


@pytest.mark.parametrize(("name", "options", "step"), STEPS, ids=NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_step_equals_numpy(name: str, options: dict[str, Any], step: Step, masked: bool) -> None:
    cell = random_cell(name, **options)
    x, states = arguments(cell)
    mask = np.random.default_rng(2).choice([0.0, 2.0], (B, U)) if masked else np.ones((B, U))
    cell.recurrent_mask = mask if masked else None
    output, after = cell(x, states)
    expected = step(x, states, cell.get_weights(), mask)
    assert len(after) == len(cell.state_size)
    np.testing.assert_allclose(output, expected[0], rtol=1e-12, atol=1e-14)
    for state, wanted in zip(after, expected[-len(after) :], strict=True):
        np.testing.assert_allclose(state, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options, _ in STEPS], ids=NAMES)
def test_gradients_equal_finite_differences(name: str, options: dict[str, Any]) -> None:
    cell = random_cell(name, **options)
    x, states = arguments(cell)
    rng = np.random.default_rng(3)
    # Different random factors for the output and every state: no error of one can hide in another.
    factors = [rng.normal(size=(B, size)) for size in (cell.output_size, *cell.state_size)]
    given = [x, *states]

    @tf.function(autograph=False)
    def loss(values: list[Any]) -> Any:
        output, after = cell(values[0], values[1:])
        return sum(tf.reduce_sum(part * factor) for part, factor in zip((output, *after), factors, strict=True))

    inputs = [tf.Variable(value) for value in given]
    variables = [weight.value for weight in cell.trainable_weights]
    with tf.GradientTape() as tape:
        result = loss([tf.identity(v) for v in inputs])
    gradients = tape.gradient(result, [*variables, *inputs])
    for variable, gradient in zip([*variables, *inputs], gradients, strict=True):
        before, small = variable.numpy(), 1e-6
        numeric = np.zeros_like(before)
        for place in np.ndindex(before.shape):
            ends = []
            for sign in (1, -1):
                moved = before.copy()
                moved[place] += sign * small
                variable.assign(moved)
                ends.append(float(loss([tf.identity(v) for v in inputs])))
            numeric[place] = (ends[0] - ends[1]) / (2 * small)
        variable.assign(before)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CELLS)
def test_projecting_first_is_the_same_step(name: str) -> None:
    cell = random_cell(name)
    x, states = arguments(cell)
    output, after = cell.recur(cell.project(x), states)
    whole, whole_after = cell(x, states)
    np.testing.assert_array_equal(output, whole)
    np.testing.assert_array_equal(after, whole_after)


@pytest.mark.parametrize("name", CELLS)
def test_projecting_a_whole_sequence_projects_each_timestep(name: str) -> None:
    cell = random_cell(name)
    x = np.random.default_rng(0).normal(size=(B, 7, F))
    whole = cell.project(x)
    for t in range(7):
        np.testing.assert_allclose(whole[:, t], cell.project(x[:, t]), rtol=1e-12)


def test_the_first_rows_of_the_plain_kernel_act_on_the_state() -> None:
    cell = random_cell("plain", activation="linear")
    kernel, bias = cell.get_weights()
    assert kernel.shape == (U + F, U)
    x, (h,) = arguments(cell)
    np.testing.assert_allclose(cell(x, [0 * h])[0], x @ kernel[U:] + bias)
    np.testing.assert_allclose(cell(0 * x, [h])[0], h @ kernel[:U] + bias)


def test_the_plain_kernel_starts_orthogonal_over_the_state() -> None:
    cell = CELLS["plain"](6)
    cell.build((None, 3))
    recurrent, inputs = np.split(np.asarray(cell.kernel), [6])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
    assert inputs.std() > 0
    assert np.abs(inputs).max() <= np.sqrt(6 / (3 + 6)) + 1e-6


KERAS_CELLS: list[tuple[str, type[Any], type[Any], dict[str, Any]]] = [
    ("lstm", keras.layers.LSTMCell, keras.layers.LSTM, {}),
    ("gru", keras.layers.GRUCell, keras.layers.GRU, {"reset_after": True}),
]


@pytest.mark.parametrize(("name", "theirs", "layer", "options"), KERAS_CELLS, ids=["lstm", "gru"])
def test_step_equals_that_of_keras(name: str, theirs: type[Any], layer: type[Any], options: dict[str, Any]) -> None:
    cell = random_cell(name)
    other = theirs(U, dtype="float64", **options)
    other.build((None, F))
    other.set_weights(cell.get_weights())
    x, states = arguments(cell)
    (output, after), (wanted, wanted_after) = cell(x, states), other(x, states)
    np.testing.assert_allclose(output, wanted, rtol=1e-12)
    np.testing.assert_allclose(after, wanted_after, rtol=1e-12)


@pytest.mark.parametrize(("name", "theirs", "layer", "options"), KERAS_CELLS, ids=["lstm", "gru"])
def test_layer_equals_that_of_keras(name: str, theirs: type[Any], layer: type[Any], options: dict[str, Any]) -> None:
    cell = random_cell(name)
    ours = keras.layers.RNN(cell, return_sequences=True, return_state=True, dtype="float64")
    other = layer(U, return_sequences=True, return_state=True, dtype="float64", **options)
    other.build((None, None, F))
    other.set_weights(cell.get_weights())
    x = np.random.default_rng(4).normal(size=(B, 9, F))
    _, states = arguments(cell)
    for part, wanted in zip(ours(x, initial_state=states), other(x, initial_state=states), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=1e-10)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options, _ in STEPS], ids=NAMES)
def test_config_round_trip(name: str, options: dict[str, str]) -> None:
    cell = random_cell(name, **options)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(cell))
    assert type(copy) is type(cell)
    assert copy.get_config() == cell.get_config()
    copy.set_weights(cell.get_weights())
    x, states = arguments(cell)
    np.testing.assert_array_equal(copy(x, states)[0], cell(x, states)[0])


@pytest.mark.parametrize("name", CELLS)
def test_initial_state_is_zero(name: str) -> None:
    cell = CELLS[name](U)
    states = cell.get_initial_state(batch_size=2)
    assert [tuple(state.shape) for state in states] == [(2, size) for size in cell.state_size]
    assert not any(np.asarray(state).any() for state in states)


@pytest.mark.parametrize("name", CELLS)
def test_a_learned_start_begins_at_zero_and_is_what_it_has_learned(name: str) -> None:
    cell = CELLS[name](U, learned_start=True)
    cell.build((None, F))
    assert not any(np.asarray(state).any() for state in cell.get_initial_state(batch_size=2))
    weights = [weight for weight in cell.trainable_weights if weight.name.startswith("start")]
    assert [tuple(weight.shape) for weight in weights] == [(size,) for size in cell.state_size]
    for number, weight in enumerate(weights):
        weight.assign(np.arange(U) + 10 * number)
    for number, state in enumerate(cell.get_initial_state(batch_size=2)):
        np.testing.assert_array_equal(state, [np.arange(U) + 10 * number] * 2)


@pytest.mark.parametrize("name", CELLS)
def test_a_residual_cell_adds_its_input_to_its_output_alone(name: str) -> None:
    cells = [CELLS[name](U, dtype="float64", residual=residual) for residual in (False, True)]
    for cell in cells:
        cell.build((None, U))
    cells[1].set_weights(cells[0].get_weights())
    x = np.random.default_rng(1).normal(size=(B, U))
    states = [np.full((B, U), 0.5) for _ in cells[0].state_size]
    (y, after), (added, same) = (cell(x, states) for cell in cells)
    np.testing.assert_allclose(added, x + y, rtol=1e-12)
    np.testing.assert_array_equal(same, after)


def test_a_residual_cell_needs_as_many_features_as_units() -> None:
    with pytest.raises(ValueError, match=r"A residual cell of 4 units needs as many features\. Received: 3"):
        CELLS["gru"](U, residual=True).build((None, F))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("units", [0, -1])
def test_a_cell_without_units_is_refused(name: str, units: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 unit. Received: units={units}"):
        CELLS[name](units)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="tahn"):
        CELLS["plain"](3, activation="tahn")


def test_a_cell_must_define_blend_or_recur() -> None:
    zeros = np.zeros((1, 3))
    with pytest.raises(NotImplementedError, match=r"Cell must define blend\(x, h, states, axis\), or recur"):
        Cell(3).blend(zeros, zeros, [zeros], -1)


def test_a_linear_cell_must_define_coefficients() -> None:
    with pytest.raises(NotImplementedError, match=r"LinearCell must define coefficients\(projected\)"):
        LinearCell(3).coefficients(np.zeros((1, 3)))


@pytest.mark.parametrize("radii", [(0.5, 1.0), (0.9, 0.8), (-0.1, 0.5)])
def test_radii_outside_of_the_unit_circle_are_refused(radii: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="radii must be two numbers from 0 to below 1"):
        LRUCell(3, radii=radii)


def test_the_eigenvalues_begin_between_the_radii() -> None:
    cell = LRUCell(2000, radii=(0.6, 0.9))
    cell.build((None, F))
    square = np.exp(-2 * np.exp(np.asarray(cell.nu)))
    assert square.min() >= 0.36 - 1e-5
    assert square.max() <= 0.81 + 1e-5
    np.testing.assert_allclose(square.mean(), (0.36 + 0.81) / 2, atol=0.02)


@pytest.mark.parametrize("name", ["mingru", "minlstm", "lru"])
def test_shut_gates_keep_the_state(name: str) -> None:
    """A memory that is never written to is as it was after many timesteps, and no number is lost when both gates are shut."""
    cell = random_cell(name)
    u = U
    if name == "lru":
        cell.nu.assign(np.full(u, -40.0))
        cell.theta.assign(np.full(u, -40.0))
        cell.kernel.assign(np.zeros_like(cell.kernel))
        cell.bias.assign(np.zeros_like(cell.bias))
    else:
        cell.kernel.assign(np.zeros_like(cell.kernel))
        bias = {"mingru": [-800.0] * u + [1.0] * u, "minlstm": [30.0] * u + [-800.0] * u + [1.0] * u}[name]
        cell.bias.assign(bias)
    x, states = arguments(cell)
    after = states
    for _ in range(100):
        _, after = cell(x, after)
    np.testing.assert_allclose(after, states, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", [0, 0]),
        ("lstm", [0, 0, 1, 1, 0, 0, 0, 0]),
        ("gru", [[0] * 6, [0] * 6]),
        ("cifg", [-1, -1, 0, 0, 0, 0]),
        ("mingru", [0] * 4),
        ("minlstm", [0] * 6),
        ("lru", [0] * 6),
        ("attention", [0] * 6),
    ],
)
def test_first_biases(name: str, expected: list[Any]) -> None:
    cell = CELLS[name](2)
    cell.build((None, F))
    np.testing.assert_array_equal(cell.bias, expected)


def test_the_first_biases_keep_as_much_of_the_state() -> None:
    """The coupled gate begins where the forget gate does."""
    lstm, cifg = (CELLS[name](U) for name in ("lstm", "cifg"))
    for cell in (lstm, cifg):
        cell.build((None, F))
    forget, write = np.asarray(lstm.bias)[U : 2 * U], np.asarray(cifg.bias)[:U]
    np.testing.assert_allclose(sigmoid(forget), 1 - sigmoid(write), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name, kind in CELLS.items() if kind.remembers])
def test_with_a_memory_a_cell_begins_to_keep_its_state_for_so_long(name: str) -> None:
    """Of a state, and inputs of zero: the slowest units keep most of it for a fifth of the memory, the others for less."""
    cell = CELLS[name](400, memory=1000)
    cell.build((None, F))
    x, h = np.zeros((1, F), np.float32), np.ones((1, 400), np.float32)
    states = [h * 0.9 for _ in cell.state_size]
    if name in ("gru", "cifg", "lstm"):
        cell.recurrent_kernel.assign(np.zeros_like(cell.recurrent_kernel))
    for _ in range(200):
        _, states = cell(x, states)
    kept = np.hypot(*states) if name == "lru" else np.abs(np.asarray(states[-1]))
    assert kept.max() > 0.6
    assert kept.min() < 0.1
    assert 0.2 < (kept > 0.5).mean() < 0.9


def test_recurrent_kernels_begin_as_they_are_told_to() -> None:
    for name, gates in (("plain", 1), ("gru", 3)):
        kernels = {}
        for initialization in INITIALIZATIONS:
            cell = CELLS[name](5, initialization=initialization)
            cell.build((None, F))
            kernels[initialization] = np.asarray(cell.recurrent_part.kernel)
            assert cell.get_config()["initialization"] == initialization
        np.testing.assert_array_equal(kernels["identity"], np.tile(np.eye(5), gates))
        np.testing.assert_allclose(kernels["orthogonal"] @ kernels["orthogonal"].T, np.eye(5), atol=1e-5)
        assert np.abs(kernels["glorot"]).max() <= np.sqrt(6 / (5 + 5 * gates))


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("plain", {"memory": 100}, "memory must be None: it has no gate for it. Received: memory=100"),
        ("gru", {"memory": 2}, "memory must be a number of timesteps of at least 3. Received: memory=2"),
        ("lru", {"initialization": "identity"}, "initialization must be orthogonal: it has no recurrent kernel"),
        ("lstm", {"initialization": "zeros"}, "initialization must be one of orthogonal, identity, glorot. Received"),
        ("lru", {"normalized": True}, "normalized must be False: it has no recurrent kernel. Received: normalized=True"),
        ("mingru", {"zoneout": 0.1}, "zoneout must be 0.0: it has no recurrent kernel. Received: zoneout=0.1"),
        ("gru", {"zoneout": 1.0}, "zoneout must be at least 0 and below 1. Received: zoneout=1.0"),
    ],
)
def test_options_that_a_cell_does_not_have_are_refused(name: str, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CELLS[name](3, **choices)


def test_the_names_of_the_initializations() -> None:
    assert list(INITIALIZATIONS) == list(config.INITIALIZATIONS)
