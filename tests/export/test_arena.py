"""The arena of a microcontroller's file: the smallest that TFLM itself is content with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from keras import layers, ops

from export import arena, flatbuffer, micro
from export.network import Network
from export.spec import Spec
from seqapp.errors import UsageError
from tests.export.conftest import of_features
from tests.export.members import Member
from tests.export.micro_files import LSTM, PLAIN, converted, micro_of, sequence_of

# Nothing of this project: TFLM runs the file once in an arena of so many bytes, or dies.
RUN = """
import sys
import numpy as np
from tflite_micro import runtime
path, size, inputs = sys.argv[1:]
interpreter = runtime.Interpreter.from_file(path, arena_size=int(size))
for number in range(int(inputs)):
    details = interpreter.get_input_details(number)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), number)
interpreter.invoke()
"""


def works(path: Path, size: int) -> bool:
    (graph,) = flatbuffer.read(path.read_bytes()).subgraphs
    command = [sys.executable, "-c", RUN, str(path), str(size), str(len(graph.inputs))]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("member", "precision"), [(PLAIN, "float32"), (LSTM, "int8")], ids=["small", "large"])
def test_is_the_smallest(member: Member, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder the user is in."""
    monkeypatch.chdir(tmp_path)
    content, path = micro_of(member, precision), tmp_path / "model.tflite"
    size = arena.arena_size(content)
    assert not list(tmp_path.iterdir())
    path.write_bytes(content)
    assert size % 16 == 0
    assert works(path, size)
    assert not works(path, size - 16)


def refusal(content: bytes) -> str:
    with pytest.raises(RuntimeError) as found:
        arena.arena_size(content)
    words = str(found.value)
    assert words and "\n" not in words
    return words


def test_a_file_that_tflm_refuses() -> None:
    assert "Node FILL" in (words := refusal(sequence_of(PLAIN)))
    assert "failed to prepare" in words


def test_an_operator_that_tflm_lacks() -> None:
    model = flatbuffer.read(micro_of(PLAIN, "float32"))
    for code in model.operatorCodes:
        code.builtinCode, code.deprecatedBuiltinCode = 150, 127
    words = refusal(flatbuffer.write(model))
    assert words.startswith("Didn't find op for builtin opcode 'GELU'")
    assert words.endswith("TFLM failed to allocate tensors")


@pytest.mark.parametrize("content", [b"", b"no model" * 100, bytes(5000), "half"], ids=["empty", "text", "zeros", "half"])
def test_what_is_no_file(content: Any) -> None:
    whole = micro_of(PLAIN, "float32")
    refusal(whole[: len(whole) // 2] if content == "half" else content)


def test_the_reason_is_told() -> None:
    assert "Traceback" not in refusal(b"no model" * 100)


class OuterCell(layers.Layer):
    """A cell with more memory than weights: M_t = 0.9 M_{t-1} + h·hᵀ,  h = tanh(X_t·K),  Y_t = M_t·h."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, units * units, units

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h = ops.expand_dims(ops.tanh(ops.matmul(inputs, self.kernel)), 2)
        memory = 0.9 * ops.reshape(states[0], (-1, self.units, self.units)) + h * ops.transpose(h, (0, 2, 1))
        return ops.squeeze(ops.matmul(memory, h), 2), [ops.reshape(memory, (-1, self.units**2))]


def test_a_model_of_more_memory_than_weights(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.RNN(OuterCell(128), return_sequences=True)))
    content, path = micro.micro(converted(network), Spec.of(network)), tmp_path / "model.tflite"
    path.write_bytes(content)
    size = arena.arena_size(content)
    assert size > 2 * 4 * 128**2
    assert works(path, size)
    assert not works(path, size - 16)


def test_without_tflm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(UsageError) as found:
        arena.arena_size(b"of no matter")
    assert str(found.value) == "tflite_micro is not installed: it comes with pip install 'seqapp[micro]'."
    with pytest.raises(UsageError, match="tflite_micro is not installed"):
        arena.interpreter(b"of no matter", 1 << 16)
