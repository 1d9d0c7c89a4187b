"""The stages of a translator, against the Keras model and against its equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from export.encoder_decoder import EncoderDecoder, functions
from export.runners import TransducerRunner
from export.spec import DECODE_STEP, ENCODE, TranslationSpec
from seqapp.beam_search import KerasTransducer, Transducer
from seqapp.step import Array
from seqapp.translator import Translator
from tests.seqapp.test_translator import LENGTHS, E, S, T, V, W, sources, targets, translator

Values = dict[str, Array]
MODELS: dict[str, Callable[[], Translator]] = {
    "gru": lambda: translator("gru"),
    "plain-2-untied": lambda: translator("plain", 2, tied=False),
    "lstm-2": lambda: translator("lstm", 2),
    "cifg-3-untied": lambda: translator("cifg", 3, tied=False),
    "gru-3": lambda: translator("gru", 3),
    "own-2": lambda: translator("own", 2),
}


def told(transducer: Transducer, lengths: Array = LENGTHS) -> Values:
    """All that a translator says of some sources and along some targets; the memory up to the lengths."""
    memory, states = transducer.encode(sources(), lengths)
    known = np.arange(S) < lengths[:, None]
    found = {"memory": np.where(known[..., None], memory, 0), **{f"first_{i}": state for i, state in enumerate(states)}}
    for t, tokens in enumerate(targets().T):
        logits, states, attention = transducer.decode_step(tokens, states, memory, lengths)
        now = {"logits": logits, "attention": attention, **{f"state_{i}": state for i, state in enumerate(states)}}
        found |= {f"{name}_{t}": value for name, value in now.items()}
    return found


def assert_same(found: Values, wanted: Values, tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value.std() > 0, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, equal_nan=False, err_msg=name)


def by_functions(model: Translator, builtin: bool) -> TransducerRunner:
    """The signatures as TensorFlow runs them."""
    network = EncoderDecoder(model)
    spec = TranslationSpec.of(network)
    made = functions(network, spec, builtin)

    def run(name: str) -> Any:
        return lambda feed: {k: v.numpy() for k, v in made[name](**{k: tf.constant(v) for k, v in feed.items()}).items()}

    return TransducerRunner(spec, {name: run(name) for name in (ENCODE, DECODE_STEP)})


@cache
def model_and_answers(kind: str) -> tuple[Translator, Values]:
    """A model that nobody may change, and what Keras makes of it."""
    model = MODELS[kind]()
    return model, told(KerasTransducer(model))


# As TFLite has them, of built-in operators alone; and as a SavedModel has them, in which all cells are written in one way.
@pytest.mark.parametrize(("kind", "builtin"), [*((kind, True) for kind in MODELS), ("lstm-2", False), ("own-2", False)])
def test_the_signatures_are_the_model(kind: str, builtin: bool) -> None:
    model, wanted = model_and_answers(kind)
    assert_same(told(by_functions(model, builtin)), wanted)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


class Numpy:
    """A translator of GRUs, written from its equations in float64, one source after the other."""

    def __init__(self, model: Translator) -> None:
        self.model = model

    def cell(self, layer: Any, x: Array, h: Array) -> Array:
        kernel, recurrent, bias = map(self.of, (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias))
        (xz, xr, xg), (hz, hr, hg) = (np.split(part, 3, -1) for part in (x @ kernel + bias[0], h @ recurrent + bias[1]))
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        return z * h + (1 - z) * np.tanh(xg + r * hg)

    def encode(self, tokens: Array, lengths: Array) -> tuple[Array, list[Array]]:
        m = self.model
        memory, ends = np.zeros((*tokens.shape, m.memory_size)), []
        for row, length in enumerate(lengths):
            x = self.of(m.source_embedding.embeddings)[tokens[row, :length]]
            for one, other in zip(m.ahead, m.back, strict=True):
                ahead, back = self.along(one, x), self.along(other, x[::-1])
                x = np.concatenate([ahead, back[::-1]], 1)
            memory[row, :length] = x
            ends.append(np.concatenate([ahead[-1], back[-1]]))
        states = np.tanh(np.stack(ends) @ self.of(m.bridge.kernel) + self.of(m.bridge.bias))
        sizes = [layer.cell.units for layer in m.decoder]
        return memory, np.split(states, np.cumsum(sizes)[:-1], 1)

    def along(self, layer: Any, x: Array) -> Array:
        outputs = [np.zeros(layer.cell.units)]
        for now in x:
            outputs.append(self.cell(layer, now, outputs[-1]))
        return np.stack(outputs[1:])

    def decode_step(self, tokens: Array, states: Any, memory: Array, lengths: Array) -> tuple[Array, list[Array], Array]:
        m = self.model
        after = [self.cell(m.decoder[0], self.of(m.target_embedding.embeddings)[tokens], states[0])]
        query = after[0] @ self.of(m.query.kernel)
        attention, found = np.zeros(memory.shape[:2]), np.zeros((len(tokens), m.memory_size))
        for row, length in enumerate(lengths):
            scores = memory[row, :length] @ query[row]
            weights = np.exp(scores - scores.max())
            attention[row, :length] = weights / weights.sum()
            found[row] = attention[row, :length] @ memory[row, :length]
        # The second layer takes what was found beside what the first one says; those above it, the layer below alone.
        for i, layer in enumerate(m.decoder[1:], 1):
            x = np.concatenate([after[-1], found], 1) if i == 1 else after[-1]
            after.append(self.cell(layer, x, states[i]))
        readout = np.concatenate([after[-1], found], 1) @ self.of(m.readout.kernel) + self.of(m.readout.bias)
        kernel = self.of(m.target_embedding.embeddings if m.tied else m.output_kernel)
        return np.tanh(readout) @ kernel.T + self.of(m.output_bias), after, attention

    def of(self, weight: Any) -> Array:
        return np.asarray(weight, np.float64)


@pytest.mark.parametrize("kind", ["gru", "gru-3"])
def test_the_equations_give_the_same(kind: str) -> None:
    """Without Keras, whose layers the signatures share with the model."""
    model, keras = model_and_answers(kind)
    wanted = told(Numpy(model))
    assert_same(keras, wanted)
    assert_same(told(by_functions(model, builtin=True)), wanted)


def test_a_source_alone_is_answered_as_in_a_padded_batch() -> None:
    model, together = model_and_answers("gru-3")
    runner = by_functions(model, builtin=True)
    for row, length in enumerate(LENGTHS):
        memory, states = runner.encode(sources()[row : row + 1, :length], LENGTHS[row : row + 1])
        assert np.abs(memory[0] - together["memory"][row, :length]).max() < 1e-5
        for i, state in enumerate(states):
            assert np.abs(state[0] - together[f"first_{i}"][row]).max() < 1e-5


def test_the_spec_is_that_of_the_contract() -> None:
    spec = TranslationSpec.of(EncoderDecoder(translator("lstm", 2)))
    assert (spec.output_size, spec.memory_size, [state.size for state in spec.states]) == (W, 9, [6, 6, 7, 7])
    encode, step = spec.signatures[ENCODE], spec.signatures[DECODE_STEP]
    assert [(t.name, t.dtype, t.shape) for t in encode.inputs] == [
        ("tokens", "int32", ("batch", "time")),
        ("lengths", "int32", ("batch",)),
    ]
    assert [t.name for t in encode.outputs] == ["memory", *(f"state_{i}_out" for i in range(4))]
    assert [t.name for t in step.inputs] == ["tokens", "memory", "lengths", *(f"state_{i}_in" for i in range(4))]
    assert [(t.name, t.shape) for t in step.outputs[:2]] == [("logits", ("batch", W)), ("attention", ("batch", "time"))]
    assert [state.role for state in spec.states] == ["h", "c", "h", "c"]


def test_the_copy_in_float64_is_the_same_model() -> None:
    model, wanted = model_and_answers("lstm-2")
    copy = EncoderDecoder(model).in_float64().model
    assert copy.compute_dtype == "float64"
    assert model.compute_dtype == "float32"
    found = told(KerasTransducer(copy))
    assert_same(found, wanted)
    assert max(np.abs(found[name] - wanted[name]).max() for name in wanted) > 1e-9, "it computes more exactly"


def test_shapes() -> None:
    model = translator("gru", 2)
    memory, states = KerasTransducer(model).encode(sources(), LENGTHS)
    assert (memory.shape, [s.shape for s in states]) == ((3, S, 9), [(3, 6), (3, 7)])
    assert (model.source_size, model.target_size, model.source_embedding.output_dim, T) == (V, W, E, 4)
