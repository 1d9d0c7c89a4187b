"""The declaration that converters, validation, manifest and runtime share, as the contract words it."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from export.network import Network
from export.spec import Signature, Spec, State, TensorSpec, TranslationSpec


def spec_of(*layers: list[list[float]], features: int | None = None, output: str = "logits") -> Spec:
    """The spec of a network whose layers have states of these first values."""
    stages = [
        SimpleNamespace(initial_states=lambda rows, states=states: [np.tile(np.array(s), (rows, 1)) for s in states])
        for states in layers
    ]
    network = {"output_size": 37, "recurrent": stages, "features": features, "output": output}
    return Spec.of(SimpleNamespace(**network, both_ways=False, of_sequences=False, parts=()))


def test_states_are_numbered_through_all_layers() -> None:
    assert spec_of([[0, 0], [1, 2]], [[0, 0, 0]]).states == (
        State(0, 0, "h", (0.0, 0.0)),
        State(1, 0, "c", (1.0, 2.0)),
        State(2, 1, "h", (0.0, 0.0, 0.0)),
    )


def test_a_third_state_has_a_role_of_its_own() -> None:
    assert [state.role for state in spec_of([[0], [0], [0]]).states] == ["h", "c", "state_2"]


def test_names_and_size_of_a_state() -> None:
    state = State(3, 1, "c", (0.5, 0.0))
    assert (state.input, state.output, state.size) == ("state_3_in", "state_3_out", 2)


def test_outputs_side_by_side_are_told_apart_and_put_together_again() -> None:
    spec = Spec(6, (), 3, "both", parts=(("a_logits", 1), ("b_logits", 3), ("c_logits", 2)))
    outputs = np.arange(24.0).reshape(2, 2, 6)
    named = spec.named(outputs)
    assert [(name, part.shape) for name, part in named.items()] == [
        ("a_logits", (2, 2, 1)),
        ("b_logits", (2, 2, 3)),
        ("c_logits", (2, 2, 2)),
    ]
    np.testing.assert_array_equal(named["b_logits"][0, 1], [7, 8, 9])
    np.testing.assert_array_equal(spec.joined({"c_logits": named["c_logits"], **named}), outputs)
    assert [(t.name, t.shape) for t in spec.signatures["step"].outputs] == [
        ("a_logits", ("batch", 1)),
        ("b_logits", ("batch", 3)),
        ("c_logits", ("batch", 2)),
    ]
    assert spec.categorical and not Spec(6, (), parts=(("a_logits", 3), ("level", 3))).categorical
    one = Spec(6, ())
    assert one.named(outputs)["logits"] is outputs is one.joined({"logits": outputs})


def test_first_states_are_those_of_the_layers_in_every_row() -> None:
    first = spec_of([[0.25, -1]], [[3, 4, 5]]).initial_states(2)
    assert [state.dtype for state in first] == [np.float32] * 2
    np.testing.assert_array_equal(first[0], [[0.25, -1]] * 2)
    np.testing.assert_array_equal(first[1], [[3, 4, 5]] * 2)


@pytest.mark.parametrize(
    ("features", "given", "width", "output"),
    [(None, ("tokens", "int32"), (), "logits"), (5, ("features", "float32"), (5,), "outputs")],
)
def test_signatures_are_those_of_the_contract(
    features: int | None, given: tuple[str, str], width: tuple[int, ...], output: str
) -> None:
    states_in = (TensorSpec("state_0_in", "float32", ("batch", 1)), TensorSpec("state_1_in", "float32", ("batch", 2)))
    states_out = (TensorSpec("state_0_out", "float32", ("batch", 1)), TensorSpec("state_1_out", "float32", ("batch", 2)))

    def signature(inner: tuple[str, ...], outer: tuple[str, ...]) -> Signature:
        return Signature(
            inputs=(TensorSpec(*given, (*inner, *width)), *states_in),
            outputs=(TensorSpec(output, "float32", (*outer, 37)), *states_out),
        )

    spec = spec_of([[0], [0, 0]], features=features, output=output)
    assert (spec.input, spec.input_dtype) == given
    assert spec.signatures == {
        "step": signature(("batch",), ("batch",)),
        "sequence": signature(("batch", "time"), ("batch", "time")),
        "prefill": signature(("batch", "time"), ("batch",)),
    }


@pytest.mark.parametrize("last_only", [False, True])
def test_what_reads_both_ways_takes_lengths_and_has_no_states(last_only: bool) -> None:
    network = {"output_size": 37, "recurrent": [], "features": 5, "output": "tags", "both_ways": True}
    spec = Spec.of(SimpleNamespace(**network, of_sequences=last_only, parts=()))
    assert (spec.states, spec.initial_states(2), spec.both_ways, spec.last_only) == ((), [], True, last_only)
    given = (TensorSpec("features", "float32", ("batch", "time", 5)), TensorSpec("lengths", "int32", ("batch",)))
    made = TensorSpec("tags", "float32", ("batch", 37) if last_only else ("batch", "time", 37))
    assert spec.signatures == {"sequence": Signature(given, (made,))}


def test_what_reads_ahead_gives_each_timestep_though_its_model_gives_the_last() -> None:
    network = Network.of(keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4)]))
    spec = Spec.of(network)
    assert network.last_only and not spec.last_only
    assert spec.signatures["sequence"].outputs[0].shape == ("batch", "time", 4)


def test_an_encoder_decoder_has_two_signatures_that_share_the_states_of_the_decoder() -> None:
    layers = [[[0, 0], [0, 0]], [[0, 0, 0]]]
    stages = [
        SimpleNamespace(initial_states=lambda rows, states=states: [np.tile(np.array(s), (rows, 1)) for s in states])
        for states in layers
    ]
    spec = TranslationSpec.of(SimpleNamespace(model=SimpleNamespace(target_size=37, memory_size=9), decoder=stages))
    assert [(state.layer, state.role, state.size) for state in spec.states] == [(0, "h", 2), (0, "c", 2), (1, "h", 3)]
    before, after = (
        tuple(TensorSpec(f"state_{i}_{end}", "float32", ("batch", size)) for i, size in enumerate((2, 2, 3)))
        for end in ("in", "out")
    )
    tokens, lengths = TensorSpec("tokens", "int32", ("batch", "time")), TensorSpec("lengths", "int32", ("batch",))
    memory = TensorSpec("memory", "float32", ("batch", "time", 9))
    logits, attention = TensorSpec("logits", "float32", ("batch", 37)), TensorSpec("attention", "float32", ("batch", "time"))
    assert spec.signatures == {
        "encode": Signature((tokens, lengths), (memory, *after)),
        "decode_step": Signature(
            (TensorSpec("tokens", "int32", ("batch",)), memory, lengths, *before), (logits, attention, *after)
        ),
    }
    assert spec.named_states([1, 2, 3]) == {"state_0_out": 1, "state_1_out": 2, "state_2_out": 3}
    with pytest.raises(ValueError, match="zip"):
        spec.named_states([1, 2])
    assert spec.categorical
