"""Exported files behind the one step contract (`seqapp.step.Stepper`), so that the same code decodes and scores all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export import onnx_file
from export.spec import DECODE_STEP, ENCODE, MEMORY, PREFILL, SEQUENCE, SEQUENCE_LENGTHS, STEP, TOKENS, Spec, TranslationSpec
from seqapp.errors import need
from seqapp.step import Array

Feed = dict[str, Array]
Functions = dict[str, Callable[[Feed], Feed]]


class Runner:
    """A file's signatures as functions from named arrays to named arrays: tokens, or features with one more axis, come in.

    A file of `step` alone does the rest step by step. One that reads both ways has no states, and takes each call of `sequence`
    for whole sequences; one with an output for each sequence gives (B, V) there.
    """

    def __init__(self, spec: Spec, functions: Functions, largest_batch: int = 64) -> None:
        self.spec, self.functions, self.largest_batch = spec, functions, largest_batch

    def initial_states(self, batch_size: int) -> list[Array]:
        return list(self.spec.initial_states(batch_size))

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        return self._run(STEP, tokens, states)

    def sequence(self, tokens: Array, states: Sequence[Array], lengths: Array | None = None) -> tuple[Array, list[Array]]:
        """Where the file takes `lengths` (B,), each sequence is as long as the tokens unless they are given."""
        if SEQUENCE in self.functions:
            if not self.spec.takes_lengths:
                return self._run(SEQUENCE, tokens, states)
            ends = _ends(tokens, np.full(len(tokens), tokens.shape[1]) if lengths is None else lengths)
            return self._run(SEQUENCE, tokens, states, {SEQUENCE_LENGTHS: ends})
        results, after = [], list(states)
        for column in np.swapaxes(tokens, 0, 1):
            result, after = self.step(column, after)
            results.append(result)
        return np.stack(results, 1), after

    def sequences(self, tokens: Array, lengths: Array) -> Array:
        """tokens (B, T) of sequences that end after `lengths` (B,) -> logits (B, V), or (B, T, V), which mean nothing from the
        length on.

        Raises:
            ValueError: a length is not between 1 and T.
        """
        tokens = np.asarray(tokens)
        ends = _ends(tokens, lengths)
        result, _ = self.sequence(tokens, self.initial_states(len(tokens)), ends)
        return result[np.arange(len(tokens)), ends - 1] if self.spec.last_only and result.ndim == 3 else result

    def prefill(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        """tokens int32 (B, T) and states -> logits float32 (B, V) of the last timestep, and states."""
        if PREFILL in self.functions:
            return self._run(PREFILL, tokens, states)
        result, after = self.sequence(tokens, states)
        return result[:, -1] if result.ndim == 3 else result, after

    def _run(
        self, signature: str, tokens: Array, states: Sequence[Array], more: Feed | None = None
    ) -> tuple[Array, list[Array]]:
        feed = {state.input: np.asarray(value) for state, value in zip(self.spec.states, states, strict=True)}
        result = self.functions[signature]({self.spec.input: np.asarray(tokens, self.spec.input_dtype), **feed, **(more or {})})
        return self.spec.joined(result), [result[state.output] for state in self.spec.states]


class TransducerRunner:
    """The signatures of an encoder-decoder behind `seqapp.beam_search.Transducer`, from one file or from one for each."""

    def __init__(self, spec: TranslationSpec, functions: Functions) -> None:
        self.spec, self.functions = spec, functions

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        tokens = np.asarray(tokens, np.int32)
        result = self.functions[ENCODE]({TOKENS: tokens, SEQUENCE_LENGTHS: _ends(tokens, lengths)})
        return result[MEMORY], [result[state.output] for state in self.spec.states]

    def decode_step(
        self, tokens: Array, states: Sequence[Array], memory: Array, lengths: Array
    ) -> tuple[Array, list[Array], Array]:
        feed = {state.input: np.asarray(value) for state, value in zip(self.spec.states, states, strict=True)}
        given = {TOKENS: np.asarray(tokens, np.int32), MEMORY: memory, SEQUENCE_LENGTHS: _ends(memory, lengths)}
        result = self.functions[DECODE_STEP]({**given, **feed})
        return result[self.spec.output], [result[state.output] for state in self.spec.states], result[self.spec.attention]


def _ends(tokens: Array, lengths: Array) -> Array:
    """Lengths as a file takes them; LiteRT would read what lies before a sequence."""
    ends = np.asarray(lengths, np.int32)
    if ends.shape != tokens.shape[:1] or not ((ends >= 1) & (ends <= tokens.shape[1])).all():
        raise ValueError(f"lengths must be {len(tokens)} numbers from 1 to {tokens.shape[1]}. Received: {ends.tolist()}")
    return ends


def saved_model_functions(path: Path, names: Iterable[str], threads: int = 1) -> Functions:
    """The signatures of a file that are among `names`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def function(name: str) -> Callable[[Feed], Feed]:
        signature = loaded.signatures[name]

        def run(feed: Feed) -> Feed:
            return {key: value.numpy() for key, value in signature(**{k: tf.constant(v) for k, v in feed.items()}).items()}

        return run

    return {name: function(name) for name in names if name in loaded.signatures}


def tflite_functions(path: Path, names: Iterable[str], threads: int = 1) -> Functions:
    """Threads may share the functions, one at a time in the engine: an interpreter each would cost the memory of each."""
    interpreter = need("ai_edge_litert.interpreter", "litert").Interpreter(str(path), num_threads=threads)
    lock = threading.Lock()

    def function(name: str) -> Callable[[Feed], Feed]:
        signature = interpreter.get_signature_runner(name)

        def run(feed: Feed) -> Feed:
            with lock:
                return dict(signature(**feed))

        return run

    return {name: function(name) for name in names if name in interpreter.get_signature_list()}


def onnx_functions(path: Path, names: Iterable[str], threads: int = 1) -> Functions:
    """The one graph of a file: of several names the one that it bears; asked for one, it is that, whatever it is called."""
    session = _onnx_session(path, threads)
    outputs = [output.name for output in session.get_outputs()]

    def run(feed: Feed) -> Feed:
        return dict(zip(outputs, session.run(outputs, feed), strict=True))

    asked = list(names)
    return {name: run for name in asked if len(asked) == 1 or name == session.get_modelmeta().graph_name}


def _onnx_session(path: Path, threads: int = 1) -> Any:
    runtime = need("onnxruntime", "onnx")
    onnx_file.check(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


FUNCTIONS: dict[str, Callable[..., Functions]] = {
    "saved_model": saved_model_functions,
    "tflite": tflite_functions,
    "onnx": onnx_functions,
}


def open_saved_model(path: Path, spec: Spec) -> Runner:
    return Runner(spec, saved_model_functions(path, spec.signatures))


def open_tflite(path: Path, spec: Spec, threads: int = 1) -> Runner:
    return Runner(spec, tflite_functions(path, spec.signatures, threads))


def open_onnx(path: Path, spec: Spec, threads: int = 1) -> Runner:
    functions = onnx_functions(path, [SEQUENCE], threads)

    def step(feed: Feed) -> Feed:
        lengths = {SEQUENCE_LENGTHS: np.ones(len(feed[spec.input]), np.int32)} if spec.takes_lengths else {}
        result = functions[SEQUENCE]({**feed, **lengths, spec.input: feed[spec.input][:, None]})
        return result if spec.last_only else {**result, **{name: result[name][:, 0] for name, _ in spec.outputs}}

    return Runner(spec, {STEP: step, **functions})


OPENERS: dict[str, Callable[[Path, Spec], Runner]] = {
    "saved_model": open_saved_model,
    "tflite": open_tflite,
    "onnx": open_onnx,
}


def declared(format: str, path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The signatures that a file itself declares: the name, dtype and shape (-1 for any) of each of its inputs and outputs."""
    return {"saved_model": _declared_saved_model, "tflite": _declared_tflite, "onnx": _declared_onnx}[format](path)


def _tensor(name: str, dtype: Any, shape: Sequence[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": str(np.dtype(dtype)),
        "shape": [int(n) if isinstance(n, (int, np.integer)) else -1 for n in shape],
    }


def _declared_saved_model(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return {
        name: {
            "inputs": [_tensor(t.name, t.dtype.as_numpy_dtype, t.shape) for t in f.structured_input_signature[1].values()],
            "outputs": [_tensor(key, t.dtype.as_numpy_dtype, t.shape) for key, t in f.structured_outputs.items()],
        }
        for name, f in loaded.signatures.items()
    }


def _declared_tflite(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    interpreter = need("ai_edge_litert.interpreter", "litert").Interpreter(str(path))
    result = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        result[name] = {
            side: [_tensor(key, t["dtype"], t["shape_signature"]) for key, t in details.items()]
            for side, details in (("inputs", runner.get_input_details()), ("outputs", runner.get_output_details()))
        }
    return result


def _declared_onnx(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    session = _onnx_session(path)
    kinds = {"tensor(int32)": np.int32, "tensor(float)": np.float32}
    return {
        session.get_modelmeta().graph_name: {
            side: [_tensor(t.name, kinds[t.type], t.shape) for t in tensors]
            for side, tensors in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
        }
    }
