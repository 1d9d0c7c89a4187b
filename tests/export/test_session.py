"""Streams of text over a model in NumPy, whose numbers are the same however it is called; the engines are in test_runtime."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.runners import Feed, Runner
from export.session import Session
from export.spec import PREFILL, SEQUENCE, STEP, Spec, State
from seqapp.decoding import Sampling, sample
from seqapp.errors import UsageError
from seqapp.step import log_softmax
from seqapp.stream import CHUNK, Stream
from seqapp.vocabulary import Vocabulary

WORDS = Vocabulary.learn(["how are you ? well , and you ( so )"], "word", lower=True)
LETTERS = Vocabulary.learn(["abc \n"], "character", lower=True)
IDENTITY = bytes(range(32))


class Numpy(Runner):
    """Two states of different widths that remember everything; counts the timesteps of each call."""

    def __init__(self, vocabulary: Vocabulary, *signatures: str, seed: int = 0) -> None:
        rng, size = np.random.default_rng(seed), len(vocabulary)
        self.table, self.kernel, self.output = (rng.normal(0, 1, shape) for shape in ((size, 5), (5, 5), (5, size)))
        spec = Spec(size, (State(0, 0, "h", (0.0,) * 3), State(1, 0, "c", (0.5,) * 2)))
        known = {STEP: self.one, SEQUENCE: self.all, PREFILL: self.last}
        super().__init__(spec, {name: known[name] for name in signatures or (STEP, SEQUENCE)})
        self.calls: list[tuple[str, int]] = []

    def move(self, token: int, states: Any) -> tuple[Any, Any]:
        states = np.tanh(self.table[token] + states @ self.kernel).astype(np.float32)
        return states @ self.output, states

    def run(self, tokens: Any, feed: Feed) -> tuple[list[Any], Feed]:
        assert (tokens.dtype, feed["state_0_in"].shape, feed["state_1_in"].shape) == (np.int32, (1, 3), (1, 2))
        states, logits = np.concatenate([feed["state_0_in"], feed["state_1_in"]], 1)[0], []
        for token in tokens:
            result, states = self.move(token, states)
            logits.append(result.astype(np.float32))
        return logits, {"state_0_out": states[None, :3], "state_1_out": states[None, 3:]}

    def one(self, feed: Feed) -> Feed:
        self.calls.append((STEP, 1))
        logits, states = self.run(feed["tokens"], feed)
        return {"logits": np.stack(logits), **states}

    def all(self, feed: Feed) -> Feed:
        self.calls.append((SEQUENCE, feed["tokens"].shape[1]))
        logits, states = self.run(feed["tokens"][0], feed)
        return {"logits": np.stack(logits)[None], **states}

    def last(self, feed: Feed) -> Feed:
        self.calls.append((PREFILL, feed["tokens"].shape[1]))
        logits, states = self.run(feed["tokens"][0], feed)
        return {"logits": logits[-1][None], **states}


def best(logits: Any, vocabulary: Vocabulary) -> float:
    """The highest probability of a known token."""
    return float(np.delete(np.exp(log_softmax(logits.astype(np.float64))), vocabulary.unknown_number).max())


def session(vocabulary: Vocabulary = WORDS, *signatures: str, seed: int = 0) -> Session:
    return Session(Numpy(vocabulary, *signatures, seed=seed), vocabulary, IDENTITY)


def test_a_stream_starts_after_the_end_of_a_line() -> None:
    it = Numpy(WORDS)
    _, states = it.move(WORDS.end_number, np.array([0, 0, 0, 0.5, 0.5], np.float32))
    for number in WORDS.encode("how are zebra")[:-1]:
        logits, states = it.move(number, states)
    p = np.exp(log_softmax(logits))
    stream = session()
    stream.feed("How are zebra")
    found = dict(stream.predict(top=100))
    assert found == pytest.approx({token: p[i] for i, token in enumerate(WORDS.tokens) if token != WORDS.unknown}, rel=1e-5)
    # The unknown token is not told, and its probability not shared out.
    assert sum(found.values()) == pytest.approx(1 - p[WORDS.unknown_number], rel=1e-5)


def test_predictions_are_ordered() -> None:
    stream = session()
    everything = stream.predict(top=len(WORDS))
    assert len(everything) == len(WORDS) - 1
    assert [p for _, p in everything] == sorted((p for _, p in everything), reverse=True)
    assert stream.predict() == everything[:3] == stream.predict(top=3)
    for top in (0, -1):
        with pytest.raises(ValueError, match=f"top must be at least 1. Received: {top}"):
            stream.predict(top)


@settings(max_examples=150)
@given(st.text(st.sampled_from("ab? \n"), max_size=40), st.sampled_from([WORDS, LETTERS]), st.data())
def test_pieces_are_read_as_the_whole(text: str, vocabulary: Vocabulary, data: st.DataObject) -> None:
    whole, parts, alone = session(vocabulary), session(vocabulary), session(vocabulary, STEP)
    whole.feed(text)
    alone.feed(text)
    borders = [i for i in range(len(text) + 1) if set(text[max(0, i - 1) : i + 1]) & {" ", "\n"}]
    first = 0
    for end in sorted(data.draw(st.lists(st.sampled_from(borders)))) if borders else []:
        parts.feed(text[first:end])
        first = end
    parts.feed(text[first:])
    assert parts.save() == whole.save() == alone.save()


def test_an_empty_text_changes_nothing() -> None:
    stream = session()
    stream.feed("how are")
    before = stream.save()
    for text in ("", " ", " \t "):
        stream.feed(text)
        assert stream.save() == before
    stream.feed("\n")
    assert stream.save() != before


@pytest.mark.parametrize(
    ("signatures", "used"), [((STEP, SEQUENCE), SEQUENCE), ((STEP, SEQUENCE, PREFILL), PREFILL), ((STEP,), STEP)]
)
def test_a_long_text_is_read_in_bounded_pieces(signatures: tuple[str, ...], used: str) -> None:
    stream = session(WORDS, *signatures)
    stream.feed("how are you " * 500)
    assert isinstance(stream.runner, Numpy)
    assert {name for name, _ in stream.runner.calls} == {used}
    assert sum(count for _, count in stream.runner.calls) == 1500
    assert max(count for _, count in stream.runner.calls) == (1 if used == STEP else CHUNK)


@settings(max_examples=100)
@given(
    st.text(st.sampled_from("ab? \n"), max_size=20),
    st.integers(0, 9),
    st.sampled_from([WORDS, LETTERS]),
    st.sampled_from([0.0, 1.5]),
)
def test_the_text_that_the_command_would_draw(text: str, length: int, vocabulary: Vocabulary, temperature: float) -> None:
    stream, rng, prompt = session(vocabulary), np.random.default_rng(7), vocabulary.prompt(text)
    numbers = vocabulary.numbers([vocabulary.end, *prompt])
    drawn = list(islice(sample(Numpy(vocabulary), numbers, Sampling(temperature), rng, [vocabulary.unknown_number]), length))
    wanted = vocabulary.join([*prompt, *(vocabulary.tokens[number] for number in drawn)])
    stream.feed(text)
    assert vocabulary.join(prompt) + stream.generate(length, temperature, seed=7) == wanted
    # What was drawn has been read: the stream stands where it would, had the same tokens been fed.
    states = Numpy(vocabulary).prefill(np.array([[*numbers, *drawn]], np.int32), Numpy(vocabulary).initial_states(1))
    assert stream.predict(1)[0][1] == pytest.approx(best(states[0][0], vocabulary), rel=1e-5)


@settings(max_examples=100)
@given(st.text(st.sampled_from("ab? \n"), max_size=20), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3))
def test_generating_in_pieces_is_generating_at_once(text: str, first: int, second: int, seed: int) -> None:
    """Greedily: a call that draws begins its random numbers anew."""
    for vocabulary in (WORDS, LETTERS):
        whole, parts = session(vocabulary, seed=seed), session(vocabulary, seed=seed)
        whole.feed(text)
        parts.feed(text)
        added = whole.generate(first + second, temperature=0)
        assert parts.generate(first, temperature=0) + parts.generate(second, temperature=0) == added
        assert parts.save() == whole.save()


def test_drawing() -> None:
    stream = session()
    start = stream.save()
    texts = []
    for seed in (1, 1, 2, None):
        stream.restore(start)
        texts.append(stream.generate(30, temperature=2.0, seed=seed))
    assert texts[0] == texts[1] != texts[2]
    stream.restore(start)
    greedy = stream.generate(30, temperature=0)
    for cut in ({"top_k": 1}, {"top_p": 1e-9}):
        stream.restore(start)
        assert stream.generate(30, **cut) == greedy  # type: ignore[arg-type]
    assert stream.generate(0) == ""
    for wrong in ({"length": -1}, {"length": 1, "temperature": -1.0}, {"length": 1, "top_k": 0}, {"length": 1, "top_p": 2.0}):
        with pytest.raises(ValueError, match="Received"):
            stream.generate(**wrong)  # type: ignore[arg-type]


def test_the_unknown_token_is_never_drawn() -> None:
    stream = session()
    assert isinstance(stream.runner, Numpy)
    stream.runner.output[:, WORDS.unknown_number] += 20 * np.sign(stream.runner.output.sum(1))
    assert WORDS.unknown not in stream.generate(200, temperature=5.0, seed=0)


def test_text_reads_on() -> None:
    stream = session()
    assert not stream.generate(1, temperature=0).startswith(" ")
    stream.reset()
    stream.feed("how are you (")
    assert stream.generate(1, top_k=1) in {token for token in WORDS.tokens if token != WORDS.end} | {"\n"}


@settings(max_examples=100)
@given(st.text(st.sampled_from("ab? \n"), max_size=20), st.text(st.sampled_from("ab? \n"), max_size=20), st.integers(0, 9))
def test_a_saved_stream_goes_on(before: str, after: str, seed: int) -> None:
    stream, other = session(), session()
    stream.feed(before)
    saved = stream.save()
    assert len(saved) == 36 + 4 * 5
    stream.feed(after)
    wanted = stream.save(), stream.predict(5), stream.generate(9, seed=seed)
    stream.reset()
    assert stream.save() == session().save()
    for it in (stream, other):
        it.feed("you")
        it.restore(saved)
        assert it.save() == saved
        it.feed(after)
        assert (it.save(), it.predict(5), it.generate(9, seed=seed)) == wanted


def test_a_saved_stream_survives_a_file(tmp_path: Path) -> None:
    stream, other = session(), session()
    stream.feed("how are")
    (tmp_path / "stream").write_bytes(stream.save())
    other.restore((tmp_path / "stream").read_bytes())
    assert other.predict() == stream.predict() != session().predict()


def test_what_is_no_stream_of_this_model_is_refused() -> None:
    stream = session()
    stream.feed("how are")
    saved = stream.save()
    nan, token = np.array([np.nan], "<f4").tobytes(), np.array([len(WORDS)], "<i4").tobytes()
    for wrong, words in (
        (b"", "another file"),
        (bytes([saved[0] ^ 1]) + saved[1:], "another file"),
        (saved[:-1], "should have 56 bytes. Received: 55"),
        (saved + b"\0", "should have 56 bytes. Received: 57"),
        (saved[:-4] + nan, "no stream comes to"),
        (saved[:32] + token + saved[36:], "no stream comes to"),
        (saved[:32] + b"\xff" * 4 + saved[36:], "no stream comes to"),
    ):
        with pytest.raises(UsageError, match=words):
            stream.restore(wrong)
        assert stream.save() == saved


def test_interleaved_streams_do_not_touch_each_other() -> None:
    runner = Numpy(WORDS)
    alone = session()
    alone.feed("how are you")
    one, two = Session(runner, WORDS, IDENTITY), Session(runner, WORDS, IDENTITY)
    one.feed("how")
    two.feed("well , and")
    one.feed(" are")
    two.generate(5, seed=0)
    one.feed(" you")
    assert one.save() == alone.save()


def test_an_answer_is_what_the_stream_draws() -> None:
    symbols = ("<conversation>", "<turn>")
    turns = Vocabulary.learn(["how are you ? well , and you"], "word", lower=True, symbols=symbols)
    stream, twin = session(turns), Stream(Numpy(turns), turns)
    for text, flags in (("how are", {"seed": 3}), ("", {"seed": 4, "length": 7, "top_k": 4, "temperature": 2.0})):
        wanted = {"length": 40, "temperature": 0.8, "top_k": None, "top_p": None, **flags}
        seed, length = wanted.pop("seed"), wanted.pop("length")
        assert stream.answer(text, **flags) == twin.answered(text, length, Sampling(**wanted), np.random.default_rng(seed))
    saved = stream.save()
    later = stream.answer("well", seed=1)
    stream.reset()
    stream.restore(saved)
    assert stream.answer("well", seed=1) == later
    with pytest.raises(ValueError, match="length must be at least 1"):
        stream.answer("well", 0)
