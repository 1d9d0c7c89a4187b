"""The signatures as TensorFlow functions: as Keras runs them, for a SavedModel, and in LiteRT's built-in operators alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import dynamic_update_slice

from export.network import Network
from export.spec import PREFILL, SEQUENCE, SEQUENCE_LENGTHS, STEP, Signature, Spec
from export.stages import Drive, Recurrent, last
from seqapp.cell import States, Tensor, by_halves

Body = Callable[[Tensor, States], tuple[Tensor, States]]

# A loop copies the buffer of its outputs at each iteration, twice, so one loop over T timesteps costs T². Nested loops, the
# inner one over 20 timesteps, the next over 384, copy about 50 rows a timestep at T = 100, and 130 at T = 4,096.
BLOCKS = (384, 20)


def plain_functions(network: Network, spec: Spec) -> dict[str, Any]:
    """The signatures as Keras runs them."""
    if network.both_ways:
        return _of_sequences(network, spec, Recurrent.whole, network.finish)

    def at_ends(x: Tensor, lengths: Tensor, states: States) -> tuple[Tensor, States]:
        mask = tf.sequence_mask(lengths, tf.shape(x)[1])
        y, states = network.run(lambda stage, x, own: stage.whole(x, own, mask), x, states)
        return network.finish(y[:, -1]), states

    if spec.last_only:
        return _of_ends(network, spec, at_ends)

    def prefill(x: Tensor, states: States) -> tuple[Tensor, States]:
        y, states = network.run(Recurrent.whole, x, states)
        return network.finish(y[:, -1]), states

    return _functions({STEP: network.step, SEQUENCE: network, PREFILL: prefill}, spec)


def builtin_functions(network: Network, spec: Spec) -> dict[str, Any]:
    """The signatures without tensor lists, which LiteRT has not built in."""

    def finish(y: Tensor) -> Tensor:
        # With the timesteps as rows, one FULLY_CONNECTED adds the bias too; otherwise an ADD goes over all logits again.
        result = network.finish(tf.reshape(y, [-1, network.width]))
        return tf.reshape(result, tf.concat([tf.shape(y)[:-1], [spec.output_size]], 0))

    if network.both_ways:
        return _of_sequences(network, spec, loop_in_blocks, finish)

    def at_ends(x: Tensor, lengths: Tensor, states: States) -> tuple[Tensor, States]:
        # What is left of each sequence goes along as a state of its own.
        y, (*states, _) = _in_blocks(living, network.width, BLOCKS)(x, [*states, lengths[:, None]])
        return network.finish(last(y, lengths)), states

    def living(x: Tensor, given: States) -> tuple[Tensor, States]:
        *states, left = given
        y, states = network.run(lambda stage, x, own: _loop(stage, x, own, left), x, states)
        return y, [*states, left - tf.shape(x)[1]]

    if spec.last_only:
        return _of_ends(network, spec, at_ends)

    def layers(x: Tensor, states: States) -> tuple[Tensor, States]:
        return network.run(_loop, x, states)

    def sequence(x: Tensor, states: States) -> tuple[Tensor, States]:
        y, states = _in_blocks(layers, network.width, BLOCKS)(x, states)
        return finish(y), states

    def prefill(x: Tensor, states: States) -> tuple[Tensor, States]:
        y, states = _last_of_blocks(layers, x, states, network.width, BLOCKS[-1])
        return network.finish(y), states

    return _functions({STEP: network.step, SEQUENCE: sequence, PREFILL: prefill}, spec)


def _of_sequences(network: Network, spec: Spec, drive: Drive, finish: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The one signature of a network that reads both ways."""

    def named(**given: Tensor) -> dict[str, Tensor]:
        return spec.named(finish(network.sequences(drive, given[spec.input], given[SEQUENCE_LENGTHS])))

    return {SEQUENCE: concrete(named, spec.signatures[SEQUENCE])}


def _of_ends(network: Network, spec: Spec, at_ends: Callable[..., tuple[Tensor, States]]) -> dict[str, Any]:
    """The signatures of a network whose sequences have one output each, at their ends."""

    def named(**given: Tensor) -> dict[str, Tensor]:
        states = [given[state.input] for state in spec.states]
        return _named(spec, *at_ends(given[spec.input], given[SEQUENCE_LENGTHS], states))

    sequence = concrete(named, spec.signatures[SEQUENCE])
    return {**_functions({STEP: network.step}, spec), SEQUENCE: sequence}


def _functions(bodies: dict[str, Body], spec: Spec) -> dict[str, Any]:
    return {name: function(body, spec.signatures[name], spec) for name, body in bodies.items()}


def function(body: Body, signature: Signature, spec: Spec) -> Any:
    """A concrete function with the signature's names, its shapes free where the signature names an axis."""

    def named(**given: Tensor) -> dict[str, Tensor]:
        return _named(spec, *body(given[spec.input], [given[state.input] for state in spec.states]))

    return concrete(named, signature)


def _named(spec: Spec, result: Tensor, states: States) -> dict[str, Tensor]:
    return {**spec.named(result), **{state.output: value for state, value in zip(spec.states, states, strict=True)}}


def concrete(function: Callable[..., dict[str, Tensor]], signature: Signature) -> Any:
    """A function of named tensors, its shapes free where the signature names an axis."""
    specs = {
        t.name: tf.TensorSpec([None if isinstance(axis, str) else axis for axis in t.shape], t.dtype, name=t.name)
        for t in signature.inputs
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def _loop(stage: Recurrent, x: Tensor, states: States, left: Tensor | None = None) -> tuple[Tensor, States]:
    """A cell over x (B, T, F): the input half of the product at once, where the cell has it apart; the rest step by step.

    Where no more than `left` (B, 1) timesteps are left of a sequence, its states then stay as they are.
    """
    step, prepared = stage.step, x
    if by_halves(stage.cell):
        rows = stage.cell.project(tf.reshape(x, [-1, x.shape[-1]]))
        step, prepared = stage.cell.recur, tf.reshape(rows, tf.concat([tf.shape(x)[:2], [rows.shape[-1]]], 0))

    def body(k: Tensor, states: States) -> tuple[Tensor, States]:
        # A gather, not a slice: the shapes in the loop are then known before it runs, and LiteRT plans its memory once.
        y, after = step(tf.gather(prepared, k, axis=1), states)
        after = keras.tree.flatten(after)
        if left is not None:
            after = [tf.where(k < left, new, old) for new, old in zip(after, states, strict=True)]
        return tf.expand_dims(y, 1), after

    y, states = _collect(body, tf.shape(x)[1], 1, tf.shape(x)[:1], stage.width, states)
    return stage.cell.joined(x, y) if by_halves(stage.cell) else y, states


def loop_in_blocks(stage: Recurrent, x: Tensor, states: States) -> tuple[Tensor, States]:
    """A cell over x (B, T, F), as `export.stages.Drive`, in operators that LiteRT has built in."""
    return _in_blocks(lambda x, states: _loop(stage, x, states), stage.width, BLOCKS)(x, states)


def _in_blocks(scan: Body, width: int, sizes: tuple[int, ...]) -> Body:
    """The same scan, run over blocks of at most sizes[0] timesteps, and these over blocks of sizes[1]."""
    if not sizes:
        return scan
    inner = _in_blocks(scan, width, sizes[1:])

    def in_blocks(x: Tensor, states: States) -> tuple[Tensor, States]:
        timesteps = tf.shape(x)[1]
        # Blocks of one size where that can be: for a last one that is shorter LiteRT plans its memory anew. A short sequence is
        # one short block: no buffer longer than it is filled and copied.
        blocks = tf.maximum(_count(timesteps, sizes[0]), 1)
        size = tf.maximum(_count(timesteps, blocks), 1)

        def body(k: Tensor, states: States) -> tuple[Tensor, States]:
            return inner(_block(x, k, size), states)

        y, states = _collect(body, _count(timesteps, size), size, tf.shape(x)[:1], width, states)
        # A slice, not y[:, :timesteps]: LiteRT's STRIDED_SLICE copies number by number.
        y = tf.slice(y, [0, 0, 0], tf.stack([-1, timesteps, width]))
        y.set_shape([None, None, width])
        return y, states

    return in_blocks


def _last_of_blocks(scan: Body, x: Tensor, states: States, width: int, size: int) -> tuple[Tensor, States]:
    """The scan over blocks of at most `size` timesteps: outputs (B, width) of the last timestep alone, and states."""

    def turn(k: Tensor, _: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = scan(_block(x, k, size), list(states))
        return k + 1, y[:, -1], *after

    count = _count(tf.shape(x)[1], size)
    nothing = tf.zeros(tf.stack([tf.shape(x)[0], width]), states[0].dtype)
    _, y, *after = _while(count, turn, nothing, (None, width), states)
    return y, after


def _count(timesteps: Tensor, size: Any) -> Tensor:
    return (timesteps + size - 1) // size


def _block(x: Tensor, k: Tensor, size: Any) -> Tensor:
    """The k-th block of x (B, T, ...) along the time."""
    here, rest = tf.minimum(size, tf.shape(x)[1] - k * size), list(x.shape[2:])
    # The features by their number: after a -1 the slice would not know its own width.
    return tf.slice(x, tf.stack([0, k * size] + [0] * len(rest)), tf.stack([-1, here, *rest]))


def _while(
    count: Tensor, turn: Callable[..., Any], first: Tensor, shape: tuple[int | None, ...], states: States
) -> list[Tensor]:
    """`turn(k, value, *states)` for k below count, the value of the given shape from `first` on."""
    shapes = [(), shape, *((None, state.shape[-1]) for state in states)]
    result = tf.while_loop(
        lambda k, *_: k < count,
        turn,
        (tf.constant(0), first, *states),
        shape_invariants=tuple(tf.TensorShape(shape) for shape in shapes),
    )
    return list(result)


def _collect(
    body: Callable[[Tensor, States], tuple[Tensor, States]], count: Tensor, size: Any, batch: Tensor, width: int, states: States
) -> tuple[Tensor, States]:
    """Runs `body` count times and puts its outputs (B, up to size, width) behind one another: (B, count · size, width)."""

    def turn(k: Tensor, outputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, after = body(k, list(states))
        # LiteRT has this XLA operation built in, and none of TensorFlow's own that fill a buffer piece by piece.
        return k + 1, dynamic_update_slice(outputs, y, tf.stack([0, k * size, 0])), *after

    buffer = tf.zeros(tf.concat([batch, tf.stack([count * size, width])], 0), states[0].dtype)
    _, outputs, *after = _while(count, turn, buffer, (None, None, width), states)
    return outputs, after
