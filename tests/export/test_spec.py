"""The declaration that converters, validation and manifest share, as the contract words it."""

from __future__ import annotations

from types import SimpleNamespace

from export.spec import Signature, Spec, State, TensorSpec


def spec_of(*state_sizes: list[int], vocabulary_size: int = 37) -> Spec:
    layers = [SimpleNamespace(state_size=sizes) for sizes in state_sizes]
    return Spec.of(SimpleNamespace(vocabulary_size=vocabulary_size, recurrent=layers))


def test_states_are_numbered_through_all_layers() -> None:
    assert spec_of([16, 16], [24, 24]).states == (
        State(0, 16, 0, "h"),
        State(1, 16, 0, "c"),
        State(2, 24, 1, "h"),
        State(3, 24, 1, "c"),
    )


def test_a_third_state_has_a_role_of_its_own() -> None:
    assert [state.role for state in spec_of([4, 5, 6]).states] == ["h", "c", "state_2"]


def test_names_of_a_state() -> None:
    state = State(3, 24, 1, "c")
    assert (state.input, state.output) == ("state_3_in", "state_3_out")


def test_signatures_are_those_of_the_contract() -> None:
    states_in = (TensorSpec("state_0_in", "float32", ("batch", 8)), TensorSpec("state_1_in", "float32", ("batch", 5)))
    states_out = (TensorSpec("state_0_out", "float32", ("batch", 8)), TensorSpec("state_1_out", "float32", ("batch", 5)))
    assert spec_of([8, 5]).signatures == {
        "step": Signature(
            inputs=(TensorSpec("tokens", "int32", ("batch",)), *states_in),
            outputs=(TensorSpec("logits", "float32", ("batch", 37)), *states_out),
        ),
        "sequence": Signature(
            inputs=(TensorSpec("tokens", "int32", ("batch", "time")), *states_in),
            outputs=(TensorSpec("logits", "float32", ("batch", "time", 37)), *states_out),
        ),
    }
