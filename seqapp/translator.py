"""The translator: an encoder that reads both ways, and a decoder that attends to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from seqapp.cell import States, Tensor, cut
from seqapp.classifier import at_end, reversed_in_time
from seqapp.recurrence import Drive, Recurrence, cells_in_config, one_step, state_sizes, through, with_cells

FAR_BELOW = -1e9  # added to a score, its weight is 0 in float32


@keras.saving.register_keras_serializable(package="seqapp")
class Translator(keras.Model):
    """Foretells each token of a target from those before it and from the source.

    A call takes `[source, lengths, target]`, tokens (B, S) that end after `lengths` (B,) and tokens (B, T) that begin with the
    end token, and gives the logits (B, T, V) of what follows each. What stands behind a source changes nothing.

    The encoder's layers read both ways; its outputs are the memory (B, S, M). The decoder's first layer attends to it by a
    product (Luong et al. 2015, arXiv:1508.04025v5, "general"), and the layers above read what it found beside its output, so
    that all of it runs in whole sequences while training. The decoder's first states are made of the encoder's last outputs.
    The output kernel is the target's embedding with `tied`, as in `seqapp.model.SequenceModel`.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        cells: Sequence[keras.layers.Layer],
        ahead_cells: Sequence[keras.layers.Layer],
        back_cells: Sequence[keras.layers.Layer],
        embedding: int,
        tied: bool = True,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not len(cells) == len(ahead_cells) == len(back_cells) > 0:
            counts = f"{len(cells)}, {len(ahead_cells)}, {len(back_cells)}"
            raise ValueError(f"cells, ahead_cells and back_cells must be as many as each other. Received: {counts}")
        self.source_size, self.target_size, self.tied = source_size, target_size, tied
        self.dropout_rate, self.recurrent_dropout = dropout, recurrent_dropout
        dtype = self.dtype_policy
        small = keras.initializers.RandomUniform(-0.1, 0.1)
        self.source_embedding = keras.layers.Embedding(source_size, embedding, embeddings_initializer=small, dtype=dtype)
        self.target_embedding = keras.layers.Embedding(target_size, embedding, embeddings_initializer=small, dtype=dtype)
        self.ahead, self.back, self.decoder = (
            [Recurrence(cell, recurrent_dropout, dtype=dtype) for cell in some] for some in (ahead_cells, back_cells, cells)
        )
        self.drop = keras.layers.Dropout(dropout, noise_shape=(None, 1, None), dtype=dtype)
        self.bridge = keras.layers.Dense(sum(self.state_sizes), "tanh", dtype=dtype)
        self.query = keras.layers.Dense(self.memory_size, use_bias=False, dtype=dtype)
        self.readout = keras.layers.Dense(embedding, "tanh", dtype=dtype)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Makes all weights at once: their shapes follow from the configuration, not from the data."""
        for embedding in (self.source_embedding, self.target_embedding):
            embedding.build((None, None))
        width = embedding.output_dim
        for ahead, back in zip(self.ahead, self.back, strict=True):
            ahead.build((None, None, width))
            back.build((None, None, width))
            width = ahead.cell.output_size + back.cell.output_size
        self.bridge.build((None, width))
        inner = embedding.output_dim
        for layer in self.decoder:
            layer.build((None, None, inner))
            inner = layer.cell.output_size + (width if layer is self.decoder[0] else 0)
        self.query.build((None, None, self.decoder[0].cell.output_size))
        self.readout.build((None, None, self.decoder[-1].cell.output_size + width))
        if not self.tied:
            shape = (self.target_size, embedding.output_dim)
            self.output_kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="output_kernel")
        self.output_bias = self.add_weight(shape=(self.target_size,), initializer="zeros", name="output_bias")
        self.built = True

    @property
    def memory_size(self) -> int:
        """Numbers that the encoder says of each timestep of a source."""
        return int(self.ahead[-1].cell.output_size + self.back[-1].cell.output_size)

    @property
    def state_sizes(self) -> list[int]:
        """Widths of the decoder's states, layer by layer."""
        return state_sizes(self.decoder)

    def call(self, inputs: Any, training: bool = False) -> Tensor:
        source, lengths, target = inputs
        memory, states = self.encode(source, lengths, training)

        def whole(layer: Recurrence, x: Tensor, own: States) -> tuple[Tensor, States]:
            y, *after = layer(x, initial_state=own, training=training)
            return self.drop(y, training=training), after

        x = self.drop(self.target_embedding(target), training=training)
        logits, _, _ = self._decoded(whole, x, states, memory, lengths)
        return logits

    def encode(self, source: Tensor, lengths: Tensor, training: bool = False) -> tuple[Tensor, States]:
        """source (B, S), lengths (B,) -> memory (B, S, M), states of the decoder; memory from the length on means nothing."""
        x = self.drop(self.source_embedding(source), training=training)
        for one, other in zip(self.ahead, self.back, strict=True):
            ahead, *_ = one(x, training=training)
            back, *_ = other(reversed_in_time(x, lengths), training=training)
            ends = ops.concatenate([at_end(ahead, lengths), at_end(back, lengths)], axis=-1)[:, 0]
            x = self.drop(ops.concatenate([ahead, reversed_in_time(back, lengths)], axis=-1), training=training)
        return x, cut(self.bridge(ends), self.state_sizes)

    def decode_step(self, tokens: Tensor, states: States, memory: Tensor, lengths: Tensor) -> tuple[Tensor, States, Tensor]:
        """tokens (B,), states, memory (B, S, M), lengths (B,) -> logits (B, V), states, attention (B, S)."""

        def step(layer: Recurrence, x: Tensor, own: States) -> tuple[Tensor, Any]:
            y, after = one_step(layer, x[:, 0], own)
            return y[:, None], after

        logits, states, attention = self._decoded(step, self.target_embedding(tokens[:, None]), states, memory, lengths)
        return logits[:, 0], states, attention[:, 0]

    def _decoded(
        self, drive: Drive, x: Tensor, states: States, memory: Tensor, lengths: Tensor
    ) -> tuple[Tensor, States, Tensor]:
        """Embedded tokens (B, T, E), ... -> logits (B, T, V), states, attention (B, T, S); each layer run by `drive`."""
        first, *rest = self.decoder
        own, states = states[: len(first.state_size)], states[len(first.state_size) :]
        y, after = through([first], drive, x, own)
        found, attention = attend(self.query(y), memory, lengths)
        if rest:
            y, more = through(rest, drive, ops.concatenate([y, found], axis=-1), states)
            after += more
        x = self.readout(ops.concatenate([y, found], axis=-1))
        kernel = self.target_embedding.embeddings if self.tied else self.output_kernel
        logits = ops.matmul(x, ops.cast(ops.transpose(kernel), x.dtype)) + ops.cast(self.output_bias, x.dtype)
        return logits, after, attention

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "source_size": self.source_size,
            "target_size": self.target_size,
            "cells": cells_in_config(self.decoder),
            "ahead_cells": cells_in_config(self.ahead),
            "back_cells": cells_in_config(self.back),
            "embedding": self.source_embedding.output_dim,
            "tied": self.tied,
            "dropout": self.dropout_rate,
            "recurrent_dropout": self.recurrent_dropout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Translator:
        return cls(**with_cells(config, ["cells", "ahead_cells", "back_cells"], custom_objects))


def attend(query: Tensor, memory: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """query (B, T, M), memory (B, S, M), lengths (B,) -> what it found (B, T, M), weights (B, T, S), 0 from lengths on."""
    known = ops.arange(ops.shape(memory)[1], dtype=lengths.dtype)[None] < lengths[:, None]
    far = ops.cast(ops.where(known, 0.0, FAR_BELOW), query.dtype)
    scores = ops.matmul(query, ops.transpose(memory, (0, 2, 1))) + far[:, None]
    weights = ops.softmax(scores, axis=-1)
    return ops.matmul(weights, memory), weights
