"""Training in bfloat16 where little is lost by it: matrix products and logits, but neither states nor gates nor weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from seqapp.cell import Cell
from seqapp.recurrence import Recurrence

MIXED = (keras.layers.Embedding, keras.layers.Dense, keras.layers.Dropout)


@contextmanager
def training_in(precision: str, model: keras.Model) -> Iterator[None]:
    """What is traced of a model meanwhile multiplies in `float32` or `bfloat16`; its weights stay what they are.

    A number in bfloat16 has 8 bits. A state that grows over hundreds of timesteps would lose what each of them adds, and a
    forget gate could not come closer to 1 than 1/512: these stay in float32, as does every layer that is not known here.
    """
    rounded = list(_rounded_layers(model)) if precision != "float32" else []
    _set(rounded, precision, f"mixed_{precision}")
    try:
        yield
    finally:
        _set(rounded, None, "float32")


def _set(layers: list[keras.layers.Layer], product_dtype: str | None, policy: str) -> None:
    for layer in layers:
        if isinstance(layer, Recurrence):
            layer.cell.product_dtype = product_dtype
        else:
            layer.dtype_policy = policy


def _rounded_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Those of a model, and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _rounded_layers(layer)
        elif isinstance(layer, MIXED) or (isinstance(layer, Recurrence) and isinstance(layer.cell, Cell)):
            yield layer
