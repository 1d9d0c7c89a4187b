"""TFLite that learns where it runs: the weights are variables of the file's interpreter, trained on the user's own text.

Four signatures share the variables: `train` makes one step of gradient descent, `step` predicts with what was learned, `save`
returns the weights and `restore` takes them. Resource variables make this possible, and are in no other file of a bundle.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export.converter import convert
from export.flatbuffer import read, write
from export.network import Network
from export.saved_model import save_module
from export.spec import STEP, TOKENS, Signature, Spec, TensorSpec
from export.stages import Lookup, Recurrent
from seqapp.cell import States, Tensor, by_halves
from seqapp.errors import RunFailed, UsageError, need
from seqapp.step import Array

Tensors = dict[str, Any]
TRAIN, SAVE, RESTORE = "train", "save", "restore"
# One user's text is one stream. The timesteps of a window are written out: 16 of a GRU layer make 60 kB of operators, and learn
# from a text as much as 32 do.
WINDOW, BATCH = 16, 1
CLIP_NORM = 1.0

CHECKED_CALLS, CHECKED_RATE = 10, 0.5
STEP_TOLERANCE, TRAINING_TOLERANCE, ROUNDING = 1e-5, 1e-3, 1e-6


def write_trainable(network: Network, spec: Spec, path: Path, window: int = WINDOW, batch: int = BATCH) -> None:
    """Writes the model to the file `path`. The network keeps its weights: those of the file are copies.

    Raises:
        UsageError: the network does not predict tokens from tokens.
        RunFailed: the network, or its gradient, needs an operator that LiteRT has not built in.
    """
    if spec.features is not None or not spec.categorical or spec.last_only:
        raise UsageError(f"Only a model of tokens to logits learns on a device. Received: {spec.input} to {spec.output}")
    learner = Learner(network, spec)
    functions = {
        name: tf.function(getattr(learner, name), autograph=False).get_concrete_function(**_specs(signature))
        for name, signature in signatures(network, spec, window, batch).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        save_module(learner, functions, Path(folder))
        path.write_bytes(write(read(convert(Path(folder), list(functions))), first=STEP))


def signatures(network: Network, spec: Spec, window: int = WINDOW, batch: int = BATCH) -> dict[str, Signature]:
    """What the file declares. A gradient by built-in operators needs sizes that stay: `batch` rows of `window` tokens."""
    before, after = (
        tuple(TensorSpec(name, "float32", (batch, state.size)) for name, state in zip(names, spec.states, strict=True))
        for names in ([state.input for state in spec.states], [state.output for state in spec.states])
    )
    tokens, targets = (TensorSpec(name, "int32", (batch, window)) for name in (TOKENS, "targets"))
    rate, loss = (TensorSpec(name, "float32", ()) for name in ("learning_rate", "loss"))
    weights = tuple(TensorSpec(name, variable.dtype, tuple(variable.shape)) for name, variable in named(network).items())
    return {
        TRAIN: Signature((tokens, targets, rate, *before), (loss, *after)),
        STEP: spec.signatures[STEP],
        SAVE: Signature((), weights),
        RESTORE: Signature(weights, (TensorSpec("restored", "int32", ()),)),
    }


def named(network: Network) -> dict[str, Any]:
    """The variables that learn, by the names of their tensors in `save` and `restore`: layer and weight, as `gru_cell_kernel`.

    Keras numbers the layers of a process, and names what is around them in a model that was built, not in one that was loaded:
    that is left out, and the second weight of a name gets `_1`.
    """
    found: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for variable in network.variables:
        if variable.trainable:
            name = "_".join(re.sub(r"(_\d+)+$", "", re.sub(r"\W", "_", part)) for part in variable.path.split("/")[-2:])
            found[f"{name}_{seen[name]}" if seen[name] else name] = variable
            seen[name] += 1
    return found


class Learner(tf.Module):
    """The bodies of the four signatures, over copies of the network's weights.

    Matrices but for tables are kept transposed, as LiteRT multiplies by them. Otherwise TensorFlow 2.21's converter forgets a
    relu right behind the product (FuseTransposeFCRhsToBatchMatmul in its optimize_batch_matmul.td).
    """

    def __init__(self, network: Network, spec: Spec) -> None:
        super().__init__()
        self.network, self.spec = network, spec
        tables = [id(stage.table) for stage in network.stages if isinstance(stage, Lookup)]
        learn = named(network)
        self.turned = {name for name, variable in learn.items() if len(variable.shape) == 2 and id(variable) not in tables}
        self.weights = {name: tf.Variable(self._turn(name, variable.value)) for name, variable in learn.items()}
        self.fixed = [variable.value for variable in network.variables if not variable.trainable]

    def train(self, tokens: Tensor, targets: Tensor, learning_rate: Tensor, **given: Tensor) -> Tensors:
        values = self.save()
        with tf.compat.v1.get_default_graph().gradient_override_map(OWN_NAMES):
            loss, states = window_loss(self.network, values, tokens, targets, self._states(given))
        gradients = tf.gradients(loss, list(values.values()), unconnected_gradients="zero")
        for name, value in descend(values, gradients, learning_rate).items():
            self.weights[name].assign(self._turn(name, value))
        return {"loss": loss, **self._named(states)}

    def step(self, tokens: Tensor, **given: Tensor) -> Tensors:
        with using(self.network, self.save()):
            logits, states = self.network.step(tokens, self._states(given))
        return {self.spec.output: logits, **self._named(states)}

    def save(self) -> Tensors:
        return {name: self._turn(name, weight) for name, weight in self.weights.items()}

    def _turn(self, name: str, weight: Tensor) -> Tensor:
        return tf.transpose(weight) if name in self.turned else tf.convert_to_tensor(weight)

    def restore(self, **given: Tensor) -> Tensors:
        for name, weight in self.weights.items():
            weight.assign(self._turn(name, given[name]))
        return {"restored": tf.constant(len(given))}

    def _states(self, given: Tensors) -> States:
        return [given[state.input] for state in self.spec.states]

    def _named(self, states: States) -> Tensors:
        return {state.output: value for state, value in zip(self.spec.states, states, strict=True)}


def using(network: Network, values: Tensors) -> keras.StatelessScope:
    """A context in which the network computes with these values of its variables."""
    return keras.StatelessScope(state_mapping=[(variable, values[name]) for name, variable in named(network).items()])


def window_loss(network: Network, values: Tensors, tokens: Tensor, targets: Tensor, states: States) -> tuple[Tensor, States]:
    """Mean nats per target over a window, tokens and targets (B, T), and the states after it. A target of -1 does not count."""
    with using(network, values):
        y, states = network.run(_unrolled, tokens, states)
        log = tf.nn.log_softmax(network.finish(tf.reshape(y, [-1, y.shape[-1]])))
    chosen = tf.one_hot(tf.reshape(targets, [-1]), log.shape[-1])  # all zeros for -1
    return -tf.reduce_sum(log * chosen) / tf.maximum(tf.reduce_sum(chosen), 1.0), states


def _unrolled(stage: Recurrent, x: Tensor, states: States) -> tuple[Tensor, States]:
    """A cell over x (B, T, F), each timestep written out: LiteRT's loops have no gradient of built-in operators."""
    step, prepared, halves = stage.step, x, by_halves(stage.cell)
    if halves:
        # One product for all timesteps, and one for its gradient.
        projected = stage.cell.project(tf.reshape(x, [-1, x.shape[-1]]))
        step, prepared = stage.cell.recur, tf.reshape(projected, [*x.shape[:2], -1])
    outputs = []
    for now in tf.unstack(prepared, axis=1):
        y, states = step(now, states)
        outputs.append(y)
    y = tf.stack(outputs, axis=1)
    return stage.cell.joined(x, y) if halves else y, states


def descend(values: Tensors, gradients: Sequence[Tensor], learning_rate: Tensor) -> Tensors:
    """Values after one step against gradients that are scaled down to a global norm of at most `CLIP_NORM`."""
    dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
    norm = tf.sqrt(tf.add_n([tf.reduce_sum(tf.square(gradient)) for gradient in dense]))
    rate = learning_rate * CLIP_NORM / tf.maximum(norm, CLIP_NORM)
    return {name: value - rate * gradient for (name, value), gradient in zip(values.items(), dense, strict=True)}


def _of_strided_slice(op: Any, gradient: Tensor) -> list[Tensor | None]:
    """The gradient among zeros: along each axis, a place of the input takes its row of the gradient, or the zeros behind it."""
    sizes = op.inputs[0].shape
    rows = [np.arange(size)[part] for size, part in zip(sizes, _parts(op, len(sizes)), strict=True)]
    gradient = tf.reshape(gradient, [len(taken) for taken in rows])
    for axis, (size, taken) in enumerate(zip(sizes, rows, strict=True)):
        if not np.array_equal(taken, np.arange(size)):
            places = np.full(size, len(taken), np.int32)
            places[taken] = np.arange(len(taken))
            padded = tf.pad(gradient, [(0, int(other == axis)) for other in range(len(sizes))])
            gradient = tf.gather(padded, places, axis=axis)
    return [gradient, None, None, None]


def _parts(op: Any, rank: int) -> list[slice]:
    """What a StridedSlice takes of each axis of its input; bits of its masks say where begin and end mean something else."""
    begin, end, strides = (tf.get_static_value(tensor) for tensor in op.inputs[1:])
    if begin is None or end is None:
        raise RunFailed("The network cuts at a place that it computes, which has no gradient in LiteRT: cut at fixed places.")

    def masked(name: str, place: int) -> bool:
        return bool(op.get_attr(f"{name}_mask") >> place & 1)

    parts: list[slice] = []
    for i in range(len(begin)):
        if masked("ellipsis", i):
            behind = sum(not masked("new_axis", j) for j in range(i + 1, len(begin)))
            parts += [slice(None)] * (rank - len(parts) - behind)
        elif masked("shrink_axis", i):
            parts.append(slice(begin[i], begin[i] + 1 or None))
        elif not masked("new_axis", i):
            first, last = (None if masked(name, i) else value[i] for name, value in (("begin", begin), ("end", end)))
            parts.append(slice(first, last, strides[i]))
    return parts + [slice(None)] * (rank - len(parts))


# Gradients that TensorFlow computes by operators which LiteRT has not built in, here by those that it has.
GRADIENTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "StridedSlice": _of_strided_slice,
    "Relu": lambda op, g: tf.where(op.outputs[0] > 0, g, tf.zeros_like(g)),
    "Relu6": lambda op, g: tf.where((op.outputs[0] > 0) & (op.outputs[0] < 6), g, tf.zeros_like(g)),
    "LeakyRelu": lambda op, g: tf.where(op.inputs[0] > 0, g, op.get_attr("alpha") * g),
    "Elu": lambda op, g: tf.where(op.inputs[0] < 0, (op.outputs[0] + 1) * g, g),
    "Softsign": lambda op, g: g / tf.square(1 + tf.abs(op.inputs[0])),
    "Reciprocal": lambda op, g: -tf.square(op.outputs[0]) * g,
}
OWN_NAMES = {name: f"seqapp{name}" for name in GRADIENTS}
for _name, _gradient in GRADIENTS.items():
    tf.RegisterGradient(OWN_NAMES[_name])(_gradient)


def _specs(signature: Signature) -> dict[str, Any]:
    return {
        t.name: tf.TensorSpec([None if isinstance(axis, str) else axis for axis in t.shape], t.dtype, name=t.name)
        for t in signature.inputs
    }


def check_trainable(path: Path, network: Network, spec: Spec, stream: Array) -> Iterator[str]:
    """What a file does otherwise than TensorFlow on tokens (N,): its first step, ten of training, `save` and `restore`."""
    learned, fresh = (_runners(path) for _ in range(2))
    tokens, states = np.resize(stream, 3).astype(np.int32), spec.initial_states(3)
    given = {TOKENS: tokens, **_feed(spec, states)}
    wanted = np.asarray(network.step(tf.constant(tokens), [tf.constant(state) for state in states])[0])
    allowed = STEP_TOLERANCE * max(1, np.abs(wanted).max())
    yield from _off("the first step", learned[STEP](**given)[spec.output], wanted, allowed)
    yield from _check_training(learned, network, spec, stream)
    fresh[RESTORE](**learned[SAVE]())
    yield from _off("the step after restore", fresh[STEP](**given)[spec.output], learned[STEP](**given)[spec.output], 0.0)


def _check_training(file: dict[str, Any], network: Network, spec: Spec, stream: Array) -> Iterator[str]:
    batch, window = file[TRAIN].get_input_details()[TOKENS]["shape"]
    first = {name: np.asarray(variable.value) for name, variable in named(network).items()}
    values, states = first, spec.initial_states(batch)
    train, rate = _reference(network), np.float32(CHECKED_RATE)
    for call, rows in enumerate(np.resize(stream, (CHECKED_CALLS, batch, window + 1)).astype(np.int32), 1):
        # From the reference's weights and states each time: what two roundings make of one another in ten steps has no bound.
        file[RESTORE](**values)
        tokens, targets, before = rows[:, :-1], rows[:, 1:], values
        found = file[TRAIN](tokens=tokens, targets=targets, learning_rate=rate, **_feed(spec, states))
        loss, states, values = train(values, tokens, targets, states)
        yield from _off(f"the loss of call {call}", found["loss"], loss, TRAINING_TOLERANCE * abs(loss))
        for state, wanted in zip(spec.states, states, strict=True):
            allowed = TRAINING_TOLERANCE * max(1, np.abs(wanted).max())
            yield from _off(f"{state.output} of call {call}", found[state.output], wanted, allowed)
        for name, weights in file[SAVE]().items():
            # Measured by the change, which is small; a weight's own rounding is there beside that of its gradient.
            allowed = TRAINING_TOLERANCE * np.abs(values[name] - before[name]).max() + ROUNDING * np.abs(before[name]).max()
            yield from _off(f"{name} after call {call}", weights, values[name], allowed)


def _off(what: str, found: Array, wanted: Array, allowed: float) -> Iterator[str]:
    difference = np.abs(found - wanted).max()
    if not difference <= allowed:
        yield f"{what} is off by {difference:.2e}, and {allowed:.2e} is allowed"


def _reference(network: Network) -> Callable[..., Any]:
    """One step of the same training with TensorFlow's own gradients: values, window and states -> loss, states and values."""

    def train(values: Tensors, tokens: Tensor, targets: Tensor, states: States) -> tuple[Tensor, States, Tensors]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss, states = window_loss(network, values, tokens, targets, states)
        gradients = tape.gradient(loss, list(values.values()), unconnected_gradients="zero")
        return loss, states, descend(values, gradients, CHECKED_RATE)

    traced = tf.function(train, autograph=False)
    return lambda *given: tf.nest.map_structure(np.asarray, traced(*given))


def _runners(path: Path) -> dict[str, Any]:
    interpreter = need("ai_edge_litert.interpreter", "litert").Interpreter(str(path))
    return {name: interpreter.get_signature_runner(name) for name in (TRAIN, STEP, SAVE, RESTORE)}


def _feed(spec: Spec, states: Sequence[Array]) -> dict[str, Array]:
    return {state.input: value for state, value in zip(spec.states, states, strict=True)}
