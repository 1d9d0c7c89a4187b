"""The model's two signatures as TensorFlow functions: for a SavedModel, and for LiteRT's built-in operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

from export.spec import SEQUENCE, STEP, Signature, Spec
from seqapp.cells import by_halves

Tensor = Any
States = list[Any]
Scan = Callable[[Tensor, States], tuple[Tensor, States]]

# A loop copies the buffer of its outputs at each iteration, so one loop over T timesteps costs T². Nested loops, the inner one
# over 32 timesteps, the next over 16 of those, copy about 50 rows a timestep up to T = 4,096, and hardly more beyond.
BLOCKS = (512, 32)


def plain_functions(model: Any, spec: Spec) -> dict[str, Any]:
    """`step` and `sequence` as Keras runs them."""
    return {
        STEP: _function(model.step, spec.signatures[STEP], spec),
        SEQUENCE: _function(model, spec.signatures[SEQUENCE], spec),
    }


def builtin_functions(model: Any, spec: Spec) -> dict[str, Any]:
    """`step` and `sequence` without tensor lists, which LiteRT has not built in."""
    embeddings, width = model.embedding.embeddings.value, model.recurrent[-1].cell.output_size

    def step(tokens: Tensor, states: States) -> tuple[Tensor, States]:
        # A plain gather: Keras's layer would add three operators for negative numbers.
        x, states = model.advance(tf.gather(embeddings, tokens), states)
        return model.logits(x), states

    def scan(tokens: Tensor, states: States) -> tuple[Tensor, States]:
        return _layers(model, tf.gather(embeddings, tokens), states)

    def sequence(tokens: Tensor, states: States) -> tuple[Tensor, States]:
        x, states = _in_blocks(scan, width, BLOCKS)(tokens, states)
        # With the timesteps as rows, one FULLY_CONNECTED adds the bias too; otherwise an ADD goes over all logits again.
        logits = model.logits(tf.reshape(x, [-1, width]))
        return tf.reshape(logits, tf.concat([tf.shape(tokens), [model.vocabulary_size]], 0)), states

    return {
        STEP: _function(step, spec.signatures[STEP], spec),
        SEQUENCE: _function(sequence, spec.signatures[SEQUENCE], spec),
    }


def _function(body: Callable[[Tensor, States], tuple[Tensor, States]], signature: Signature, spec: Spec) -> Any:
    """A concrete function with the signature's names, its shapes free where the signature names an axis."""

    def named(tokens: Tensor, **given: Tensor) -> dict[str, Tensor]:
        logits, states = body(tokens, [given[state.input] for state in spec.states])
        return {"logits": logits, **{state.output: value for state, value in zip(spec.states, states, strict=True)}}

    specs = {
        t.name: tf.TensorSpec([None if isinstance(axis, str) else axis for axis in t.shape], t.dtype, name=t.name)
        for t in signature.inputs
    }
    return tf.function(named, autograph=False).get_concrete_function(**specs)


def _layers(model: Any, x: Tensor, states: States) -> tuple[Tensor, States]:
    """Embedded tokens (B, T, E), states -> outputs of the last layer (B, T, U), states."""
    after: States = []
    for layer in model.recurrent:
        own, states = states[: len(layer.state_size)], states[len(layer.state_size) :]
        x, own = _loop(layer.cell, x, own)
        after += own
    return x, after


def _loop(cell: Any, x: Tensor, states: States) -> tuple[Tensor, States]:
    """A cell over x (B, T, F): the input half of the product at once, where the cell has it apart; the rest step by step."""
    once, step = (cell.project, cell.recur) if by_halves(cell) else (lambda x: x, cell)
    prepared = once(x)

    def body(k: Tensor, states: States) -> tuple[Tensor, States]:
        y, after = step(tf.squeeze(tf.slice(prepared, tf.stack([0, k, 0]), [-1, 1, -1]), 1), states)
        return y[:, None], keras.tree.flatten(after)

    return _collect(body, tf.shape(x)[1], 1, tf.shape(x)[:1], cell.output_size, states)


def _in_blocks(scan: Scan, width: int, sizes: tuple[int, ...]) -> Scan:
    """The same scan, run over blocks of at most sizes[0] timesteps, and these over blocks of sizes[1]."""
    if not sizes:
        return scan
    inner, size = _in_blocks(scan, width, sizes[1:]), sizes[0]

    def blocks(tokens: Tensor, states: States) -> tuple[Tensor, States]:
        timesteps = tf.shape(tokens)[1]

        def body(k: Tensor, states: States) -> tuple[Tensor, States]:
            here = tf.minimum(size, timesteps - k * size)
            return inner(tf.slice(tokens, tf.stack([0, k * size]), tf.stack([-1, here])), states)

        y, states = _collect(body, (timesteps + size - 1) // size, size, tf.shape(tokens)[:1], width, states)
        return tf.ensure_shape(y[:, :timesteps], [None, None, width]), states

    return blocks


def _collect(
    body: Callable[[Tensor, States], tuple[Tensor, States]], count: Tensor, size: int, batch: Tensor, width: int, states: States
) -> tuple[Tensor, States]:
    """Runs `body` count times and puts its outputs (B, up to size, width) behind one another: (B, count · size, width)."""

    def turn(k: Tensor, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = body(k, list(states))
        # LiteRT has this XLA operation built in, and none of TensorFlow's own that fill a buffer piece by piece.
        return k + 1, dynamic_update_slice(outputs, y, tf.stack([0, k * size, 0])), *after

    buffer = tf.zeros(tf.concat([batch, tf.stack([count * size, width])], 0), states[0].dtype)
    shapes = [(), (None, None, width), *((None, state.shape[-1]) for state in states)]
    _, outputs, *after = tf.while_loop(
        lambda k, *_: k < count,
        turn,
        (tf.constant(0), buffer, *states),
        shape_invariants=tuple(tf.TensorShape(shape) for shape in shapes),
    )
    return outputs, list(after)
