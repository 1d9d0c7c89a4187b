"""What depends on the engine under Keras: TensorFlow, which exports too, or JAX (`KERAS_BACKEND=jax`), which trains alone."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRIED = 8  # batches that Keras may ask for twice: on a GPU it takes three or so ahead
AT_ONCE = 32  # batches that are read together
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


def engine() -> str:
    """The name of the engine that Keras has been, or will be, loaded with."""
    loaded = sys.modules.get("keras")
    return str(loaded.backend.backend()) if loaded else os.environ.get("KERAS_BACKEND", "tensorflow")


def compiled(model: Any, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """A function of a Keras model's weights, compiled: on TensorFlow once for all shapes, on JAX once for each.

    `arguments` are `keras.KerasTensor` of its arguments, nested as those are; None is a size that may change.
    """
    import keras

    if engine() == "tensorflow":
        import tensorflow as tf

        signature = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), list(arguments))
        return tf.function(function, input_signature=signature, autograph=False)
    import jax

    def stateless(values: list[Any], *given: Any) -> Any:
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*given)

    traced = jax.jit(stateless)
    return lambda *given: traced([variable.value for variable in model.variables], *given)


def with_gradients(
    model: Any, function: Callable[..., Any], *arguments: Any
) -> Callable[..., tuple[Any, list[Any], list[Any]]]:
    """A scalar function of arrays and of a model's weights, compiled: its value, and the gradients by its arguments and by the
    model's trainable weights. `arguments` are as in `compiled`; on TensorFlow, sizes that are known make a quicker function.
    """
    if engine() == "tensorflow":
        import tensorflow as tf

        def both(*given: Any) -> Any:
            weights = [variable.value for variable in model.trainable_variables]
            with tf.GradientTape() as tape:
                tape.watch(given)
                value = function(*given)
            return value, *tape.gradient(value, [list(given), weights], unconnected_gradients="zero")

        return compiled(model, both, *arguments)
    import jax
    import keras

    weights = model.trainable_variables

    def of_values(values: list[Any], given: list[Any], rest: list[Any]) -> Any:
        variables = [*weights, *model.non_trainable_variables]
        with keras.StatelessScope(state_mapping=zip(variables, [*values, *rest], strict=True)):
            return function(*given)

    traced = jax.jit(jax.value_and_grad(of_values, argnums=(0, 1)))

    def run(*given: Any) -> tuple[Any, list[Any], list[Any]]:
        rest = [variable.value for variable in model.non_trainable_variables]
        value, (by_weights, by_arguments) = traced([w.value for w in weights], list(given), rest)
        return value, by_arguments, by_weights

    return run


def batches(make: Callable[[], Iterator[Any]], signature: Any, count: int) -> Any:
    """The batches that a function makes, as many as `count`, for one call of `fit`.

    `signature` are `keras.KerasTensor` of what a batch is made of, nested as it is.
    """
    import keras

    if engine() != "tensorflow":
        return counted(make(), count)
    import tensorflow as tf

    kinds = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), signature)
    data = tf.data.Dataset.from_generator(make, output_signature=kinds)
    # A pipeline of unknown size makes `fit` count one batch too many.
    return data.apply(tf.data.experimental.assert_cardinality(count)).with_options(_without_autotune())


def slices(read: Callable[[int, int], Any], signature: Any, count: int) -> Any:
    """As `batches`, where a function reads those from one number up to another, one behind the other in arrays (n, ...).

    It reads `AT_ONCE` of them: a call for each would cost some percent of the time where a batch is learnt in milliseconds. Nor
    is it called by `from_generator`, with which TensorFlow 2.21 takes back what `keep_memory` asks for.
    """
    import keras

    def part(first: int) -> Any:
        return read(int(first), min(int(first) + AT_ONCE, count))

    if engine() != "tensorflow":
        parts = (zip(*keras.tree.flatten(part(first)), strict=True) for first in range(0, count, AT_ONCE))
        return counted((keras.tree.pack_sequence_as(signature, batch) for some in parts for batch in some), count)
    import tensorflow as tf

    kinds = keras.tree.flatten(signature)

    def tensors(first: Any) -> Any:
        made = tf.numpy_function(lambda i: keras.tree.flatten(part(i)), [first], [x.dtype for x in kinds])
        shaped = [tf.ensure_shape(value, [None, *x.shape]) for value, x in zip(made, kinds, strict=True)]
        return keras.tree.pack_sequence_as(signature, shaped)

    data = tf.data.Dataset.range(0, count, AT_ONCE).map(tensors).unbatch()
    return data.apply(tf.data.experimental.assert_cardinality(count)).with_options(_without_autotune())


def multiplied(kernel: Any, turned: Any, x: Any) -> Any:
    """kernel·x, of matrices. For the gradient by x, TensorFlow would read the kernel transposed, in half as much time again as
    the product itself takes: it is given the `turned` one.
    """
    import keras

    if engine() != "tensorflow":
        return keras.ops.matmul(kernel, x)
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(kernel: Any, x: Any) -> Any:
        return tf.matmul(kernel, x), lambda dy: (tf.matmul(dy, x, transpose_b=True), tf.matmul(turned, dy))

    return product(kernel, x)


def has_bfloat16() -> bool:
    """Whether the processor that trains multiplies in bfloat16 by itself: a GPU, a TPU, or a CPU with the instructions."""
    if engine() == "tensorflow":
        found = bool(importlib.import_module("tensorflow").config.list_physical_devices("GPU"))
    else:
        found = importlib.import_module("jax").default_backend() != "cpu"
    if not found:
        with contextlib.suppress(OSError):
            found = any(name in Path("/proc/cpuinfo").read_text() for name in ("avx512_bf16", "amx_bf16"))
    return found


def at_once(batches: int) -> int:
    """How many batches `fit` may hand over in one call, of those wished for: JAX would compile them one behind the other."""
    return batches if engine() == "tensorflow" else 1


def keep_memory() -> None:
    """Keeps memory that was freed, for the next training step to take: TensorFlow asks for each large tensor anew, and glibc
    would have the kernel take it back and fill it with zeros each time, which can cost half of a training step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has another allocator
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
            mallopt(parameter, value)


def make_deterministic() -> None:
    """Operations give the same result each time, where the engine has to be told so."""
    if engine() == "tensorflow":
        importlib.import_module("tensorflow").config.experimental.enable_op_determinism()


def counted(made: Iterator[Any], count: int) -> Any:
    """As many batches as `count`: of a mere iterator, `fit` says that it ran out."""
    import keras

    class Counted(keras.utils.PyDataset):
        """Asked by one worker, in order; but for the first ones, which Keras takes on trial before it begins."""

        tried: dict[int, Any]

        def __len__(self) -> int:
            return count

        def __getitem__(self, number: int) -> Any:
            if number >= TRIED:
                return next(made)
            while number not in self.tried:
                self.tried[len(self.tried)] = next(made)
            return self.tried[number]

    counted = Counted()
    counted.tried = {}
    return counted


def _without_autotune() -> Any:
    """TensorFlow 2.21 ends an autotuned pipeline only when its tuner wakes next: up to a minute for each call of `fit`."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options
