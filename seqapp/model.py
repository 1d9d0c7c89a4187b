"""The sequence model: embedding, recurrent layers, logits over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from seqapp.cell import States, Tensor
from seqapp.recurrence import Recurrence, cells_in_config, initial_states, one_step, state_sizes, through, with_cells


@keras.saving.register_keras_serializable(package="seqapp")
class SequenceModel(keras.Model):
    """Predicts the next token of a sequence from the tokens so far.

    A call takes tokens (B, T) and the states before them, a flat list of (B, U) over all layers, and returns the logits
    (B, T, V) and the states after them. `step` does the same for one timestep, without the time axis.

    With `tied`, the output kernel is the transposed embedding (Press and Wolf 2017, arXiv:1608.05859v3), behind a projection to
    the embedding's width where the last cell's output has another. `dropout` acts on the embedding, between layers and before
    the output, one mask for all timesteps of a sequence.
    """

    def __init__(
        self,
        vocabulary_size: int,
        cells: Sequence[keras.layers.Layer],
        embedding: int,
        tied: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size, self.tied = vocabulary_size, tied
        self.dropout_rate, self.recurrent_dropout = dropout, recurrent_dropout
        dtype = self.dtype_policy
        # Small initial embeddings keep the first logits of a tied output near uniform.
        self.embedding = keras.layers.Embedding(
            vocabulary_size, embedding, embeddings_initializer=keras.initializers.RandomUniform(-0.1, 0.1), dtype=dtype
        )
        self.recurrent = [Recurrence(cell, recurrent_dropout, dtype=dtype) for cell in cells]
        self.drop = keras.layers.Dropout(dropout, noise_shape=(None, 1, None), dtype=dtype)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all weights at once: their shapes follow from the configuration, not from the data."""
        self.embedding.build((None, None))
        width = embedding = self.embedding.output_dim
        for layer in self.recurrent:
            layer.build((None, None, width))
            width = layer.cell.output_size
        self.projection = None
        if self.tied and width != embedding:
            self.projection = keras.layers.Dense(embedding, use_bias=False, dtype=self.dtype_policy)
            self.projection.build((None, None, width))
        if not self.tied:
            self.output_kernel = self.add_weight(
                shape=(width, self.vocabulary_size), initializer="glorot_uniform", name="output_kernel"
            )
        self.output_bias = self.add_weight(shape=(self.vocabulary_size,), initializer="zeros", name="output_bias")
        self.built = True

    @property
    def state_sizes(self) -> list[int]:
        """Widths of the states, layer by layer."""
        return state_sizes(self.recurrent)

    def initial_states(self, batch_size: Any) -> States:
        return initial_states(self.recurrent, batch_size)

    def call(self, tokens: Tensor, states: States | None = None, training: bool = False) -> tuple[Tensor, States]:
        """tokens (B, T), states -> logits (B, T, V), states."""

        def whole(layer: Recurrence, x: Tensor, own: States) -> tuple[Tensor, States]:
            y, *after = layer(x, initial_state=own, training=training)
            return self.drop(y, training=training), after

        x = self.drop(self.embedding(tokens), training=training)
        x, after = through(self.recurrent, whole, x, states or self.initial_states(ops.shape(tokens)[0]))
        return self.logits(x), after

    def step(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        """tokens (B,), states -> logits (B, V), states."""
        x, states = self.advance(self.embedding(tokens), states)
        return self.logits(x), states

    def advance(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """All layers for one timestep: embedded tokens (B, E), states -> outputs of the last layer (B, U), states."""
        return through(self.recurrent, one_step, x, states)

    def logits(self, x: Tensor) -> Tensor:
        """Outputs of the last layer (..., U) -> logits (..., V)."""
        if self.projection:
            x = self.projection(x)
        kernel = ops.transpose(self.embedding.embeddings) if self.tied else self.output_kernel
        return ops.matmul(x, ops.cast(kernel, x.dtype)) + ops.cast(self.output_bias, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "cells": cells_in_config(self.recurrent),
            "embedding": self.embedding.output_dim,
            "tied": self.tied,
            "dropout": self.dropout_rate,
            "recurrent_dropout": self.recurrent_dropout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> SequenceModel:
        return cls(**with_cells(config, ["cells"], custom_objects))
