"""The classifier: recurrent layers over a sequence, and a class of it, or of each of its timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from seqapp.cell import States, Tensor
from seqapp.recurrence import Recurrence, cells_in_config, one_step, through, with_cells


@keras.saving.register_keras_serializable(package="seqapp")
class Classifier(keras.Model):
    """Predicts the class of a sequence from its end, or of each timestep from those before it.

    A call takes `[x, lengths]`, tokens (B, T) or features (B, T, F), which end after `lengths` (B,), and gives the logits of
    the classes (B, C), or with `each_timestep` (B, T, C). What stands behind a sequence changes nothing; logits of timesteps
    from its length on mean nothing. Features are scaled by `mean` and `variance` (F,) first. Of one class alone, the output may
    stand for a value instead of a logit: the loss decides.

    With `back_cells`, a layer for each cell reads both ways, its outputs side by side (Schuster and Paliwal 1997): such a model
    takes whole sequences only. Others run timestep by timestep too, by `step`.
    """

    def __init__(
        self,
        classes: int,
        cells: Sequence[keras.layers.Layer],
        back_cells: Sequence[keras.layers.Layer] = (),
        vocabulary_size: int | None = None,
        embedding: int = 0,
        mean: Sequence[float] = (),
        variance: Sequence[float] = (),
        each_timestep: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if back_cells and len(back_cells) != len(cells):
            raise ValueError(f"back_cells must be none, or one for each of the {len(cells)} cells. Received: {len(back_cells)}")
        self.classes, self.vocabulary_size, self.each_timestep = classes, vocabulary_size, each_timestep
        self.mean, self.variance = [float(value) for value in mean], [float(value) for value in variance]
        self.dropout_rate, self.recurrent_dropout = dropout, recurrent_dropout
        dtype = self.dtype_policy
        if vocabulary_size is None:
            self.first = keras.layers.Normalization(mean=self.mean, variance=self.variance, dtype=dtype)
        else:
            self.first = keras.layers.Embedding(vocabulary_size, embedding, dtype=dtype)
        self.ahead = [Recurrence(cell, recurrent_dropout, dtype=dtype) for cell in cells]
        self.back = [Recurrence(cell, recurrent_dropout, dtype=dtype) for cell in back_cells]
        self.drop = keras.layers.Dropout(dropout, noise_shape=(None, 1, None), dtype=dtype)
        self.head = keras.layers.Dense(classes, dtype=dtype)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all weights at once: their shapes follow from the configuration, not from the data."""
        self.first.build((None, None) if self.vocabulary_size else (None, None, len(self.mean)))
        width = self.first.output_dim if self.vocabulary_size else len(self.mean)
        for i, layer in enumerate(self.ahead):
            layer.build((None, None, width))
            if self.back:
                self.back[i].build((None, None, width))
                width = layer.cell.output_size + self.back[i].cell.output_size
            else:
                width = layer.cell.output_size
        self.head.build((None, width))
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Tensor:
        x, lengths = inputs
        x = self.drop(self.first(x), training=training)
        for number, layer in enumerate(self.ahead):
            ends = not self.each_timestep and number == len(self.ahead) - 1
            ahead, *_ = layer(x, training=training)
            outputs = [at_end(ahead, lengths) if ends else ahead]
            if self.back:
                back, *_ = self.back[number](reversed_in_time(x, lengths), training=training)
                # The direction that reads back ends where the sequence begins.
                outputs.append(at_end(back, lengths) if ends else reversed_in_time(back, lengths))
            x = self.drop(ops.concatenate(outputs, axis=-1), training=training)
        logits = self.head(x)
        return logits if self.each_timestep else logits[:, 0]

    def step(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """x (B,) or (B, F), states -> logits (B, C) of the timesteps so far, states; of a model that reads one way."""
        # The layer that scales features takes sequences alone.
        x, after = through(self.ahead, one_step, self.first(x[:, None])[:, 0], states)
        return self.head(x), after

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "cells": cells_in_config(self.ahead),
            "back_cells": cells_in_config(self.back),
            "vocabulary_size": self.vocabulary_size,
            "embedding": self.first.output_dim if self.vocabulary_size else 0,
            "mean": self.mean,
            "variance": self.variance,
            "each_timestep": self.each_timestep,
            "dropout": self.dropout_rate,
            "recurrent_dropout": self.recurrent_dropout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Classifier:
        return cls(**with_cells(config, ["cells", "back_cells"], custom_objects))


def reversed_in_time(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, F) with the timesteps of each sequence in reverse, up to its length (B,); what stands behind stays."""
    timesteps = ops.arange(ops.shape(x)[1], dtype=lengths.dtype)[None]
    order = ops.where(timesteps < lengths[:, None], lengths[:, None] - 1 - timesteps, timesteps)
    return ops.take_along_axis(x, order[..., None], axis=1)


def at_end(x: Tensor, lengths: Tensor) -> Tensor:
    """x (B, T, F) -> (B, 1, F) at the last timestep of each sequence."""
    return ops.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)
