"""How far back a loss reaches: against closed forms, finite differences and known sequences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqapp.cells import CELLS, PlainCell
from seqapp.classifier import Classifier
from seqapp.config import build
from seqapp.disturbance import Disturbance
from seqapp.gradient_flow import Flow, GradientFlow, by_lag, ends_of, idle_units, layers_of, spectral_radius
from seqapp.recurrence import Recurrence
from seqapp.tasks import task_of
from tests.conftest import refused

B, T, F, U = 4, 12, 3, 6


def study_of(model: Any, x: Any, y: Any, loss: Any = None, weight: Any = None) -> Any:
    """As much of a study as is asked for, of one batch."""
    batch = (x, y) if weight is None else (x, y, weight)
    return SimpleNamespace(
        model=model, loss=loss or keras.losses.MeanSquaredError(), batches=lambda epoch, start: iter([batch])
    )


def classifier(*cells: Any, **settings: Any) -> Classifier:
    return Classifier(1, cells, mean=[0.0] * F, variance=[1.0] * F, **settings)


def inputs() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(B, T, F)).astype(np.float32)
    return x, np.full(B, T, np.int32)


def flow_of(model: Any) -> dict[str, Flow]:
    return GradientFlow(study_of(model, inputs(), np.ones(B, np.float32))).measure()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
def test_a_linear_orthogonal_cell_multiplies_the_gradient_by_its_scale(scale: float) -> None:
    model = classifier(PlainCell(U, activation="linear"))
    kernel = model.ahead[0].cell.kernel
    kernel.assign(np.concatenate([scale * np.asarray(kernel)[:U], np.asarray(kernel)[U:]]))
    (flow,) = flow_of(model).values()
    np.testing.assert_allclose(flow.gradient[1:] / flow.gradient[:-1], scale, rtol=1e-4)
    assert len(flow.gradient) == T
    assert flow.radius == pytest.approx(scale, rel=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_is_that_of_finite_differences(cell: str) -> None:
    keras.utils.set_random_seed(3)
    model, (x, lengths), lag = classifier(CELLS[cell](U)), inputs(), 3
    (flow,) = flow_of(model).values()
    layer, size = model.ahead[0], U * len(model.ahead[0].state_size)

    @tf.function(autograph=False)
    def disturbed(added: Any) -> Any:
        layer.disturbance = Disturbance(added)
        try:
            return model([x, lengths])
        finally:
            layer.disturbance = None

    def errors(added: Any) -> Any:
        """Squared errors (B,), a Bth of which the loss has of each."""
        return (disturbed(tf.constant(added)).numpy().astype(np.float64)[:, 0] - 1) ** 2 / B

    squares, step = np.zeros(B), 1e-2
    for unit in range(size):
        added = np.zeros((B, T, size), np.float32)
        added[:, T - lag, unit] = step
        squares += ((errors(added) - errors(-added)) / (2 * step)) ** 2
    assert flow.gradient[lag - 1] == pytest.approx(np.sqrt(squares.mean()), rel=5e-3)


def test_each_layer_has_its_own_flow_and_its_name() -> None:
    both = classifier(*(CELLS["gru"](U) for _ in "12"), back_cells=[CELLS["gru"](U) for _ in "12"])
    found = flow_of(both)
    assert list(found) == list(layers_of(both)) == ["layer 1", "layer 2", "layer 1 back", "layer 2 back"]
    assert all(np.isfinite(flow.gradient).all() and (flow.gradient > 0).all() for flow in found.values())
    assert all(layer.disturbance is None for layer in layers_of(both).values())


def test_a_chain_of_keras_has_layers_too() -> None:
    model = task_of("forecast").study(build({"task": "forecast", "units": 3, "layers": 2, "bptt": 8, "horizon": 2})).model
    assert list(layers_of(model).values()) == [layer for layer in model.layers if layer.name.startswith("recurrence")]
    assert list(layers_of(model)) == ["layer 1", "layer 2"]


def test_of_several_lengths_each_sequence_is_told_from_its_end() -> None:
    norms = np.array([[1, 2, 3, 4, 0], [10, 5, 0, 0, 0]])
    ends = ends_of(norms)
    assert ends.tolist() == [4, 2]
    np.testing.assert_allclose(by_lag(norms, ends), [np.sqrt((16 + 25) / 2), np.sqrt((9 + 100) / 2), 2, 1])


def test_what_is_no_number_is_not_taken_for_padding() -> None:
    norms = np.array([[np.nan, np.nan, 1], [1, 1, 1]])
    assert ends_of(norms).tolist() == [3, 3]
    np.testing.assert_array_equal(by_lag(norms, ends_of(norms)), [1, np.nan, np.nan])


def test_padding_is_no_part_of_what_is_measured() -> None:
    x, lengths = inputs()
    x[:, 4:], lengths[:] = 1e3, 4
    model = classifier(biased("tanh", [0.0, 0.0]))
    padded = GradientFlow(study_of(model, (x, lengths), np.ones(B, np.float32))).measure()["layer 1"]
    alone = GradientFlow(study_of(model, (x[:, :4], lengths), np.ones(B, np.float32))).measure()["layer 1"]
    assert padded.radius == pytest.approx(alone.radius, rel=1e-5)
    assert (padded.saturated, padded.dead) == (alone.saturated, alone.dead) == (0, 0)


def test_a_model_without_layers_of_ours_is_refused() -> None:
    model = keras.Sequential([keras.Input((None, F)), keras.layers.GRU(U)])
    refused(lambda: GradientFlow(study_of(model, inputs()[0], np.ones(B, np.float32))), "no recurrent layer", "Recurrence")


def test_layers_under_names_of_ones_own() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.mine = keras.layers.Dense(1), Recurrence(CELLS["gru"](U))

    model = Own()
    assert layers_of(model) == {"layer 1": model.mine}


def test_what_stands_behind_a_sequence_is_not_counted() -> None:
    x, lengths = inputs()
    lengths[:] = T - 5
    model = classifier(CELLS["lstm"](U))
    short = GradientFlow(study_of(model, (x, lengths), np.ones(B, np.float32))).measure()["layer 1"]
    alone = GradientFlow(study_of(model, (x[:, : T - 5], lengths), np.ones(B, np.float32))).measure()["layer 1"]
    np.testing.assert_allclose(short.gradient, alone.gradient, rtol=1e-5)


def test_of_a_loss_for_each_timestep_the_last_that_counts() -> None:
    x, lengths = inputs()
    model = classifier(CELLS["gru"](U), each_timestep=True)
    y, weight = np.zeros((B, T, 1), np.float32), np.ones((B, T), np.float32)
    y[:, T - 4 :], weight[:, T - 4 :] = 1e6, 0
    some = GradientFlow(study_of(model, (x, lengths), y, weight=weight)).measure()["layer 1"]
    end = classifier(CELLS["gru"](U))
    end.set_weights(model.get_weights())
    same = GradientFlow(study_of(end, (x[:, : T - 4], lengths - 4), np.zeros(B, np.float32))).measure()["layer 1"]
    np.testing.assert_allclose(some.gradient, same.gradient, rtol=1e-4)


def test_kernels_that_begin_at_zero_hide_nothing() -> None:
    study = task_of("forecast").study(build({"task": "forecast", "units": 3, "bptt": 8, "horizon": 2}))
    before = study.model.get_weights()
    flow = GradientFlow(study).measure()["layer 1"]
    assert (flow.gradient > 0).all()
    for one, other in zip(before, study.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_measured_again_it_has_the_weights_of_the_moment() -> None:
    model = classifier(PlainCell(U, activation="linear"))
    flow = GradientFlow(study_of(model, inputs(), np.ones(B, np.float32)))
    kernel = model.ahead[0].cell.kernel
    radii = []
    for scale in (1.0, 0.25):
        kernel.assign(np.concatenate([scale * np.eye(U), np.ones((F, U))]))
        radii.append(flow.measure()["layer 1"].radius)
    assert radii == pytest.approx([1.0, 0.25])


def test_spectral_radius_of_a_rotation_that_shrinks() -> None:
    assert spectral_radius(0.8 * np.array([[0, -1], [1, 0]])) == pytest.approx(0.8)


def test_what_is_no_number_has_no_radius() -> None:
    assert spectral_radius(np.array([[np.nan, 0], [0, 1]])) == np.inf


def biased(activation: str, bias: list[float]) -> PlainCell:
    cell = PlainCell(len(bias), activation=activation)
    cell.build((None, F))
    cell.kernel.assign(np.r_[np.zeros((len(bias), len(bias))), np.full((F, len(bias)), 0.5)])
    cell.bias.assign(bias)
    return cell


@pytest.mark.parametrize(
    ("activation", "bias", "idle"),
    [
        ("relu", [-100, -100, 0, 5], (0.5, 0.0)),
        ("tanh", [0, 7, 0, -7], (0.0, 0.5)),
        ("sigmoid", [0, 0, 0, 9], (0.0, 0.25)),
        ("tanh", [0, 0, 0, 0], (0.0, 0.0)),
    ],
)
def test_idle_units(activation: str, bias: list[float], idle: tuple[float, float]) -> None:
    model = classifier(biased(activation, bias))
    flow = flow_of(model)["layer 1"]
    assert (flow.dead, flow.saturated) == idle


def test_a_unit_is_dead_that_never_changes_and_saturated_where_its_output_has_an_end() -> None:
    outputs = np.zeros((10, 3))
    outputs[..., 1] = np.linspace(0.991, 0.999, 10)
    outputs[..., 2] = np.linspace(-1, 1, 10)
    assert idle_units(CELLS["gru"](3), outputs) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert idle_units(CELLS["mingru"](3), outputs) == (pytest.approx(1 / 3), 0)


@pytest.mark.parametrize("added", [False, True])
def test_what_a_residual_cell_adds_says_nothing_of_its_units(added: bool) -> None:
    """Units that never change are dead, whatever is added to what they put out."""
    cell = PlainCell(F, residual=added)
    model = classifier(cell)
    cell.kernel.assign(0 * cell.kernel)
    flow = flow_of(model)["layer 1"]
    assert (flow.dead, flow.saturated) == (1, 0)
