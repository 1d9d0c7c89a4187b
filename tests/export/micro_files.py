"""Files for microcontrollers that tests share."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from keras import layers, ops

from export import converter, flatbuffer, micro, tflite
from export.graphs import builtin_functions
from export.network import Network
from export.runners import Runner
from export.saved_model import save
from export.spec import SEQUENCE, STEP, Spec
from tests.export.conftest import of_features
from tests.export.members import FEATURES, TOKENS, Member

# Every cell, one layer and two, tokens and features, a table that is tied and one that is not.
MEMBERS = (
    Member("plain tanh", 1, TOKENS),
    Member("lstm", 2, FEATURES),
    Member("gru", 1, FEATURES),
    Member("cifg", 2, TOKENS),
    Member("own", 2, FEATURES),
)
PLAIN, LSTM = MEMBERS[:2]
PRECISIONS = ("float32", "int8")


class OddCell(layers.Layer):
    """A cell that asks of a file what others do not: it works on its batch's size, and has states that are other tensors.

        H_t = tanh(group([X_t without its last, 1]·K + H_{t-1}·R + B_{t-1})),  group(A) = A less the mean of its half
        B_t = H_{t-1},  S_t = X_t

    Call: inputs X_t (B, F), states [H (B, U), learned at first; B (B, U); S (B, F), ones at first] -> H_t (B, U), states.
    """

    def __init__(self, units: int, features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, units, features], units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")
        self.first = self.add_weight(shape=(self.units,), name="first")

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        rows, (_, before, seen) = batch_size or 1, self.state_size
        return [ops.broadcast_to(self.first, (rows, self.units)), ops.zeros((rows, before)), ops.ones((rows, seen))]

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h, before, seen = states
        rows = ops.shape(inputs)[0]
        x = ops.concatenate([inputs[:, :-1], ops.ones((rows, 1))], -1)
        a = ops.matmul(x, self.kernel) + ops.matmul(h, self.recurrent_kernel) + before + ops.mean(seen, -1, keepdims=True)
        a = ops.reshape(a, (rows, 2, self.units // 2))
        new = ops.tanh(ops.reshape(a - ops.mean(a, -1, keepdims=True), (rows, self.units)))
        return new, [new, h, inputs]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "features": self.state_size[-1]}


@cache
def odd_network() -> Network:
    """Without a layer behind the cell: the output is a state too."""
    return Network.of(of_features(layers.RNN(OddCell(6, 8), return_sequences=True)))


@cache
def odd_step() -> bytes:
    return converted(odd_network())


@cache
def odd_micro() -> bytes:
    return micro.micro(odd_step(), Spec.of(odd_network()))


@cache
def network_of(member: Member) -> Network:
    return Network.of(member.build())


@cache
def step_of(member: Member, precision: str) -> bytes:
    """The file that `micro` is given: the step, of any batch size."""
    if precision == "float32":
        return converted(network_of(member))
    return tflite.quantized(step_of(member, "float32"), precision, Spec.of(network_of(member)), member.samples(3, 300))


@cache
def micro_of(member: Member, precision: str) -> bytes:
    return micro.micro(step_of(member, precision), Spec.of(network_of(member)))


@cache
def sequence_of(member: Member) -> bytes:
    """A file of whole sequences, which loops."""
    return converted(network_of(member), SEQUENCE)


@cache
def tflm_of(member: Member, precision: str) -> Runner:
    return opened(micro_of(member, precision), network_of(member))


def opened(content: bytes, network: Network) -> Runner:
    """A file in TFLM."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.micro.tflite"
        path.write_bytes(content)
        return micro.open_micro(path, Spec.of(network))


def converted(network: Network, signature: str = STEP) -> bytes:
    """A TFLite file of one signature: all three take several times as long."""
    with tempfile.TemporaryDirectory() as folder:
        save(network, {signature: builtin_functions(network, Spec.of(network))[signature]}, Path(folder))
        return flatbuffer.write(flatbuffer.read(converter.convert(Path(folder), [signature])))
