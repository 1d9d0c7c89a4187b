"""A bundle at work, with numpy and one engine and nothing of TensorFlow: text in, what comes next out.

`load("bundle").predict("how are", top=3)` gives the likely next words; `load("bundle").session()` is a stream that can be fed,
continued, saved and restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from export import reading
from export.artifact import APP
from export.reading import File
from export.runners import FUNCTIONS, OPENERS, Functions, Runner, TransducerRunner
from export.session import Session
from export.spec import DECODE_STEP, ENCODE, TOKENS, Spec, TranslationSpec
from seqapp.errors import UsageError, need
from seqapp.framing import Framing
from seqapp.labelled import Example
from seqapp.step import Array, log_softmax
from seqapp.translate import Coder
from seqapp.vocabulary import Vocabulary
from seqapp.words import Words

# The format that each engine runs and the package it comes in, in the order they are tried. The extras bear the same names.
ENGINES = {"litert": ("tflite", "ai_edge_litert"), "onnx": ("onnx", "onnxruntime")}


def load(bundle: str | Path, engine: str | None = None, precision: str = "float32") -> Model:
    """Loads one file of a bundle, after checking it against the manifest.

    Args:
        bundle: a directory that `python -m export` made.
        engine: `litert` or `onnx`; by default LiteRT, if it is installed and the bundle has a file for it, else ONNX Runtime.
        precision: which of the engine's files, in the words of the manifest; the first, where it has several.

    Raises:
        UsageError: the bundle is damaged or has no such file, the engine is not installed, or it refuses the file.
    """
    bundle = Path(bundle)
    content = reading.read(bundle)
    spec = reading.spec_of(bundle, content)
    file = _choose(bundle, reading.files_of(bundle, content), engine, precision)
    classes = reading.classes_of(bundle, content, spec)
    vocabulary = _vocabulary(bundle, reading.vocabulary_of(bundle, content), spec, classes)
    runner = _opened(reading.checked(bundle, file), file.format, spec)
    framing = reading.framing_of(bundle, content, spec)
    return Model(runner, vocabulary, bytes.fromhex(str(file.sha256)), classes, framing)


class Model:
    """A file of a bundle, loaded: a `seqapp.step.Stepper`, and over it text in and text out.

    Threads may share it, and any number of sessions run over it.

    Attributes:
        vocabulary: how text becomes tokens; None where the bundle has none or takes no tokens.
        identity: the SHA-256 of the file, 32 bytes.
        classes: what the outputs of a classifier mean; of another model, nothing.
        framing: how series become what a forecaster takes; of another model, None.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary | None,
        identity: bytes,
        classes: tuple[str, ...] = (),
        framing: Framing | None = None,
    ) -> None:
        self.runner, self.vocabulary, self.identity = runner, vocabulary, identity
        self.classes, self.framing = classes, framing

    def initial_states(self, batch_size: int) -> list[Array]:
        """The states (B, U) before the first timestep."""
        return self.runner.initial_states(batch_size)

    def step(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        """tokens (B,), or features (B, F), and states -> output (B, V) and states.

        Raises:
            UsageError: the model reads both ways.
        """
        if self.runner.spec.both_ways:
            raise UsageError("The model reads both ways and has no step: give whole sequences to its method sequences.")
        return self.runner.step(tokens, states)

    def sequence(self, tokens: Array, states: Sequence[Array]) -> tuple[Array, list[Array]]:
        """tokens (B, T), or features (B, T, F), and states -> output (B, T, V) and states."""
        return self.runner.sequence(tokens, states)

    def sequences(self, tokens: Array, lengths: Array) -> Array:
        """tokens (B, T), or features (B, T, F), of sequences that end after `lengths` (B,) -> output (B, V), one for each, or
        (B, T, V), which means nothing from the length on; of a model that reads both ways.

        Raises:
            ValueError: a length is not between 1 and T.
        """
        return self.runner.sequences(tokens, lengths)

    def session(self) -> Session:
        """A new stream.

        Raises:
            UsageError: the model has no vocabulary, so it takes no text, or it is a classifier.
        """
        if self.classes:
            raise UsageError("A classifier does not continue a text: use predict, or its step for a stream.")
        if self.vocabulary is None:
            methods = "sequences" if self.runner.spec.both_ways else "step and sequence"
            raise UsageError(f"The model has no vocabulary, it takes {self.runner.spec.input}: use its {methods}.")
        return Session(self.runner, self.vocabulary, self.identity)

    def predict(self, text: str, top: int = 3) -> list[tuple[str, float]]:
        """The most likely tokens after a text that starts a stream, with their probabilities, as `Session.predict` has them.

        Of a classifier, the most likely classes of the text.
        """
        if self.classes and self.vocabulary:
            tokens = np.array([self.vocabulary.encode_whole(text)], np.int32)
            return self.classify(tokens, np.array([tokens.shape[1]]), top)[0]
        session = self.session()
        session.feed(text)
        return session.predict(top)

    def suggest(self, text: str, top: int = 3) -> list[tuple[str, float]]:
        """What a keyboard offers for a text that is being typed: the likeliest next words, or ends of its half-typed last one,
        with their probabilities among the words that begin so.

        Raises:
            UsageError: the model has no vocabulary of words.
        """
        session = self.session()
        return self.words.after(session, text, top)

    @cached_property
    def words(self) -> Words:
        """Those that may be suggested."""
        return Words(self.session().vocabulary)

    def classify(self, tokens: Array, lengths: Array, top: int = 3) -> list[list[tuple[str, float]]]:
        """The most likely classes, with their probabilities, of each of some sequences, as `sequences` takes them.

        Raises:
            UsageError: the model is no classifier of whole sequences.
        """
        if not self.classes or not self.runner.spec.last_only:
            raise UsageError("The model is no classifier of whole sequences: use its step and sequence.")
        if top < 1:
            raise ValueError(f"top must be at least 1. Received: {top}")
        p = np.exp(log_softmax(self.sequences(tokens, lengths).astype(np.float64)))
        order = np.argsort(-p, axis=-1, kind="stable")[:, :top]
        return [[(self.classes[i], float(row[i])) for i in best] for row, best in zip(p, order, strict=True)]

    def forecast(self, values: Array, dates: Array | None = None, beside: Array | None = None) -> Array:
        """How a series (T,) goes on: quantiles (horizon, levels) of the next timesteps, in the order of `framing`.

        `dates` are datetime64 (T,), `beside` the other columns (T, C), where the model was trained with them.

        Raises:
            UsageError: the model is no forecaster, the series is too short, constant or not of finite numbers, or what belongs
                to it is missing.
        """
        if self.framing is None:
            raise UsageError("The model is no forecaster: use its step and sequence.")
        inputs, scale = self.framing.inputs(values, dates, beside)
        outputs, _ = self.runner.prefill(inputs[None], self.initial_states(1))
        return self.framing.forecast(outputs, np.asarray(values, np.float64), scale, np.array([len(values) - 1]))[0]


def load_translator(bundle: str | Path, engine: str | None = None, precision: str = "float32") -> Translator:
    """As `load`, of a bundle that holds an encoder-decoder.

    Raises:
        UsageError: as `load`, or the bundle holds another kind of model.
    """
    bundle = Path(bundle)
    content = reading.read(bundle)
    spec = reading.translation_spec_of(bundle, content)
    coder, files = reading.coder_of(bundle, content, spec), reading.files_of(bundle, content)
    functions: Functions = {}
    for name in (ENCODE, DECODE_STEP):
        if name not in functions:
            file = _choose(bundle, [file for file in files if name in file.signatures], engine, precision)
            path = reading.checked(bundle, file)
            functions |= _tried(path, partial(FUNCTIONS[file.format], path, file.signatures))
    runner = TransducerRunner(spec, functions)
    _tried(path, lambda: _run_once(runner, spec, coder))
    return Translator(runner, coder)


def _run_once(runner: TransducerRunner, spec: TranslationSpec, coder: Coder) -> None:
    """Some faults show at the first call only, and that of a vocabulary which is too large at its last token."""
    last, lengths = [np.array([len(known) - 1], np.int32) for known in (coder.source, coder.target)], np.ones(1, np.int32)
    memory, states = runner.encode(last[0][None], lengths)
    logits, states, attention = runner.decode_step(last[1], states, memory, lengths)
    found = [array.shape for array in (memory, logits, attention, *states)]
    _check_numbers([memory, logits])
    sizes = (1, 1, spec.memory_size), (1, spec.output_size), (1, 1), *((1, state.size) for state in spec.states)
    if found != list(sizes):
        raise ValueError(f"its outputs have the shapes {found}, and the manifest says {list(sizes)}")


def _check_numbers(arrays: Sequence[Array]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("what it computes from zeros is not all finite numbers")


def _tried(path: Path, work: Callable[[], Any]) -> Any:
    """What an engine makes of a file; its own words, where it refuses it."""
    try:
        return work()
    except UsageError:
        raise
    except Exception as error:  # the engines' exceptions have no base class but this one
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"The engine refuses {path} ({words}): update the engine, or export again.") from None


class Translator:
    """The files of an encoder-decoder, loaded: text in, its translation out. Threads may share it.

    Attributes:
        runner: the encoder and the decoder, a `seqapp.beam_search.Transducer`.
        coder: how texts become tokens, and tokens texts.
    """

    def __init__(self, runner: TransducerRunner, coder: Coder) -> None:
        self.runner, self.coder = runner, coder

    def translate(self, text: str) -> str:
        """The best translation that the search finds.

        Raises:
            UsageError: the text is longer than the model was built for.
        """
        return self.translations([text])[0][0][0]

    def translations(self, texts: Sequence[str]) -> list[list[tuple[str, float]]]:
        """The best few translations of each text, as many as the beam is wide, with their probabilities.

        Raises:
            UsageError: a text is longer than the model was built for.
        """
        examples = [Example(text, None, f"text {number}") for number, text in enumerate(texts, 1)]
        found = self.coder.search(self.runner, [self.coder.source_of(example) for example in examples])
        return [list(self.coder.prediction(one, some).likely) for one, some in zip(examples, found, strict=True)]


def _choose(bundle: Path, files: list[File], engine: str | None, precision: str) -> File:
    """The file of a precision for the engine, or for the first engine that is installed."""
    if engine is not None and engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r}: choose among {', '.join(ENGINES)}.")
    apps = [file for file in files if file.profile == APP]
    asked = [(name, file) for name in ENGINES if engine in (None, name) for file in apps if file.format == ENGINES[name][0]]
    fitting = [(name, file) for name, file in asked if file.precision == precision]
    if not fitting:
        there = ", ".join(dict.fromkeys(f"{file.precision} for {name}" for name, file in asked)) or "none"
        raise UsageError(f"{bundle} has no file of precision {precision!r} for {engine or 'an engine'}. There is: {there}.")
    installed = [file for name, file in fitting if find_spec(ENGINES[name][1])]
    if not installed:
        need(ENGINES[fitting[0][0]][1], fitting[0][0])
    return installed[0]


def _vocabulary(bundle: Path, file: File | None, spec: Spec, classes: tuple[str, ...]) -> Vocabulary | None:
    if file is None or spec.input != TOKENS:
        return None
    vocabulary = Vocabulary.load(reading.checked(bundle, file))
    if not classes and len(vocabulary) != spec.output_size:
        raise UsageError(
            f"{bundle}: the vocabulary has {len(vocabulary)} tokens and the model {spec.output_size}; "
            "they are not of the same export: copy the whole bundle again."
        )
    return vocabulary


def _opened(path: Path, format: str, spec: Spec) -> Runner:
    """The file in its engine, run once: some faults show at the first call only."""

    def work() -> Runner:
        runner = OPENERS[format](path, spec)
        inputs = np.zeros((1, 1) if spec.features is None else (1, 1, spec.features), spec.input_dtype)
        run, given = (runner.sequence, inputs) if spec.both_ways else (runner.step, inputs[:, 0])
        output, states = run(given, runner.initial_states(1))
        found = [array.shape[-1] for array in (output, *states)]
        if found != (wanted := [spec.output_size, *(state.size for state in spec.states)]):
            raise ValueError(f"its outputs have widths {found}, and the manifest says {wanted}")
        _check_numbers([output, *states])
        return runner

    return _tried(path, work)
