"""A trained translator as the exporters see it: an encoder of whole sequences, and a decoder that runs step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from export.graphs import concrete, loop_in_blocks
from export.keras_model import in_float64
from export.spec import DECODE_STEP, ENCODE, MEMORY, SEQUENCE_LENGTHS, TOKENS, TranslationSpec
from export.stages import Affine, Both, Drive, Lookup, Recurrent, last
from seqapp.cell import States, Tensor, cut
from seqapp.translator import FAR_BELOW, Translator

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class EncoderDecoder:
    """The stages of a `seqapp.translator.Translator`, over its own variables and cells."""

    model: Translator

    @property
    def lookups(self) -> tuple[Lookup, Lookup]:
        """Of the source's tokens and of the target's."""
        return Lookup(self.model.source_embedding.embeddings), Lookup(self.model.target_embedding.embeddings)

    @property
    def encoder(self) -> list[Both]:
        pairs = zip(self.model.ahead, self.model.back, strict=True)
        return [Both([Recurrent(one.cell)], [Recurrent(other.cell)], "concat") for one, other in pairs]

    @property
    def decoder(self) -> list[Recurrent]:
        return [Recurrent(layer.cell) for layer in self.model.decoder]

    @property
    def bridge(self) -> Affine:
        """From the encoder's last outputs to the decoder's first states, all of them side by side."""
        return _affine(self.model.bridge)

    @property
    def query(self) -> Affine:
        """From the output of the decoder's first layer to what it asks the memory."""
        return _affine(self.model.query)

    @property
    def tail(self) -> tuple[Affine, Affine]:
        """From the output of the decoder's last layer, beside what was found in the memory, to logits."""
        model = self.model
        kernel = model.target_embedding.embeddings if model.tied else model.output_kernel
        return _affine(model.readout), Affine(kernel, model.output_bias, transposed=True)

    @property
    def variables(self) -> list[Any]:
        return list(self.model.variables)

    @property
    def ahead_width(self) -> int:
        """How much of the memory is of the direction that reads ahead, the first part of it."""
        return self.encoder[-1].ahead[-1].width

    def encode(self, drive: Drive, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, States]:
        """tokens (B, S), lengths (B,) -> memory (B, S, M), first states of the decoder."""
        x = self.lookups[0](tokens)
        for stage in self.encoder:
            x = stage.along(drive, x, lengths)
        ends = tf.concat([last(x, lengths)[:, : self.ahead_width], x[:, 0, self.ahead_width :]], axis=-1)
        return x, cut(self.bridge(ends), self.model.state_sizes)

    def decode_step(self, tokens: Tensor, states: States, memory: Tensor, lengths: Tensor) -> tuple[Tensor, States, Tensor]:
        """tokens (B,), states, memory (B, S, M), lengths (B,) -> logits (B, V), states, attention (B, S)."""
        (first, *rest), own = self.decoder, list(states)
        y, after = first.step(self.lookups[1](tokens), own[: len(first.sizes)])
        own = own[len(first.sizes) :]
        found, attention = attended(self.query(y), memory, lengths)
        x = tf.concat([y, found], axis=-1)
        for stage in rest:
            x, more = stage.step(x, own[: len(stage.sizes)])
            own, after = own[len(stage.sizes) :], after + more
        x = tf.concat([x, found], axis=-1) if rest else x
        readout, output = self.tail
        return output(readout(x)), after, attention

    def in_float64(self) -> EncoderDecoder:
        """The same over a copy of the model that computes in float64."""
        parts = [part.cell for stage in self.encoder for part in (*stage.ahead, *stage.back)]
        return EncoderDecoder(in_float64(self.model, [*parts, *(stage.cell for stage in self.decoder)]))


def attended(query: Tensor, memory: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """query (B, M), memory (B, S, M), lengths (B,) -> what it found (B, M), its weights (B, S), 0 from the length on."""
    known = tf.sequence_mask(lengths, tf.shape(memory)[1], memory.dtype)
    scores = tf.matmul(memory, query[:, :, None])[:, :, 0] + (1 - known) * FAR_BELOW
    weights = tf.nn.softmax(scores)
    return tf.matmul(weights[:, None], memory)[:, 0], weights


def _affine(layer: Any) -> Affine:
    activation = layer.activation if layer.activation.__name__ != "linear" else None
    return Affine(layer.kernel, layer.bias if layer.use_bias else None, activation)


def functions(network: EncoderDecoder, spec: TranslationSpec, builtin: bool) -> dict[str, Any]:
    """The signatures as Keras runs them, or `builtin` in operators that LiteRT has built in."""
    drive: Drive = loop_in_blocks if builtin else Recurrent.whole

    def encode(**given: Tensor) -> Named:
        memory, states = network.encode(drive, given[TOKENS], given[SEQUENCE_LENGTHS])
        return {MEMORY: memory, **spec.named_states(states)}

    def decode_step(**given: Tensor) -> Named:
        states = [given[state.input] for state in spec.states]
        found = network.decode_step(given[TOKENS], states, given[MEMORY], given[SEQUENCE_LENGTHS])
        logits, states, attention = found
        return {spec.output: logits, spec.attention: attention, **spec.named_states(states)}

    bodies: dict[str, Callable[..., Named]] = {ENCODE: encode, DECODE_STEP: decode_step}
    return {name: concrete(body, spec.signatures[name]) for name, body in bodies.items()}
