"""A Keras model as it was given: its layers in their order, what it computes, and a copy of it in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import isclass, isfunction
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from seqapp.classifier import Classifier
from seqapp.errors import UsageError
from seqapp.step import Array


def layers_of(model: Any) -> list[Any]:
    """The layers of a `keras.Sequential` or a functional model in their order, those of models within it too.

    Raises:
        UsageError: the model is of another kind, or its layers do not simply follow one another.
    """
    if isinstance(model, keras.Sequential):
        order = model.layers
    elif hasattr(model, "operations"):  # which functional models have
        order = _in_order(model)
    else:
        raise UsageError(
            "Only a keras.Sequential or a functional model can be taken apart into layers that follow one another. "
            f"Received: {type(model).__name__}"
        )
    return [part for layer in order for part in (layers_of(layer) if isinstance(layer, keras.Model) else [layer])]


def _in_order(model: Any) -> list[Any]:
    """The layers of a functional model, followed from its first output back to its input."""
    found: list[Any] = []
    tensors = model.outputs[:1]
    while tensors:
        # Not layer.input: that is of the layer's first call, which may have been in another model.
        layer, call, place = tensors[0]._keras_history
        tensors = layer._inbound_nodes[call].input_tensors
        if len(tensors) > 1:
            raise _no_link(layer)
        if place and found:  # a state, not the output
            raise _no_link(found[0])
        found.insert(0, layer)
    for layer in model.layers:
        if layer not in found:
            raise _no_link(layer)
    return found


def _no_link(layer: Any) -> UsageError:
    return UsageError(
        f"The layer {layer.name!r} does more than to follow the layer before it: only models whose layers follow one another, "
        "from one input to one output, are exported."
    )


def fixed_length(model: Any) -> int | None:
    """The only number of timesteps that a model takes, if it is bound to one."""
    shape = getattr(model, "input_shape", (None, None))
    return None if shape[1] is None else int(shape[1])


def output(model: Any, x: Array) -> Array:
    """The first output of a model for x (1, T) or (1, T, F), from its first states; the model is left as it was.

    In a graph: operation by operation, a hundred timesteps take a second.
    """
    rows = getattr(model, "input_shape", (None,))[0] or 1
    given = np.repeat(x, rows, axis=0)
    inputs = [given, np.full(rows, x.shape[1])] if isinstance(model, Classifier) else given
    with _as_it_was(model):
        found = tf.function(partial(model, training=False), autograph=False)(inputs)
    return np.asarray(found[0] if isinstance(found, (tuple, list)) else found)[:1]


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Clears the states that stateful layers hold, and puts these and the seeds of dropout back in the end."""
    stateful = [layer for layer in model._flatten_layers() if isinstance(layer, layers.RNN) and layer.stateful]
    states = [state for layer in stateful for state in keras.tree.flatten(layer.states)]
    kept = [(variable, variable.numpy()) for variable in (*model.non_trainable_variables, *states)]
    for layer in stateful:
        layer.reset_states()
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def in_float64(model: Any, parts: Sequence[Any]) -> Any:
    """A copy of a model that computes in float64; `parts` are its layers and cells, of classes that Keras need not know.

    Raises:
        UsageError: Keras cannot make a model from this one's configuration.
    """
    before = keras.config.dtype_policy()
    # Layers that a cell makes for itself follow the global policy.
    keras.config.set_dtype_policy("float64")
    try:
        with keras.saving.CustomObjectScope(_unknown(parts)):
            copy = type(model).from_config(_with_dtype(model.get_config(), "float64"))
    except (TypeError, ValueError, NotImplementedError) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"Keras cannot make the model again from its configuration ({words}): give your own layers a get_config, and mark "
            "them and your own functions with keras.saving.register_keras_serializable()."
        ) from None
    finally:
        keras.config.set_dtype_policy(before)
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    return copy


def _unknown(parts: Sequence[Any]) -> dict[str, Any]:
    """The classes of parts, and their activations, that are neither Keras's own nor registered."""
    objects = [
        item for part in parts for item in (type(part), getattr(part, "activation", None)) if isclass(item) or isfunction(item)
    ]
    return {
        item.__name__: item
        for item in objects
        if not item.__module__.startswith("keras.") and keras.saving.get_registered_name(item) == item.__name__
    }


def _with_dtype(config: Any, dtype: str) -> Any:
    """A configuration with each `dtype` in it, at any depth, replaced."""
    if isinstance(config, dict):
        return {
            key: dtype if key == "dtype" and value != "int32" else _with_dtype(value, dtype) for key, value in config.items()
        }
    return [_with_dtype(value, dtype) for value in config] if isinstance(config, (list, tuple)) else config
