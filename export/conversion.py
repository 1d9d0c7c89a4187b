"""From a run, or from a Keras model that has none, to a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact import FORMATS, PRECISIONS, Artifact, check_wanted, of_sequences, of_translator, wanted
from export.bundle import table, write_bundle
from export.encoder_decoder import EncoderDecoder
from export.network import CLASS_LOGITS, QUANTILES, VALUE, Network
from export.reference import QUALITY, Judge, Reference
from export.source import Source
from export.spec import DURATION_LOGITS, KEY_LOGITS, PITCH_LOGITS, PREFILL, categorical
from export.translation import TranslationSource
from export.translation_reference import TranslationReference
from seqapp import classify
from seqapp.config import Config
from seqapp.errors import UsageError
from seqapp.forecast import Outlook, Parts, features, load_framing, load_series
from seqapp.framing import Framing
from seqapp.melody import PITCHES
from seqapp.melody_form import MelodyForm, durations_of
from seqapp.melody_report import of_note
from seqapp.pieces import told_before
from seqapp.roll_form import load_rolls
from seqapp.roll_report import of_frame
from seqapp.run import Run, check_target
from seqapp.sequences import load_part
from seqapp.step import Array
from seqapp.tasks import task_of
from seqapp.translate import Coder, kept
from seqapp.vocabulary import Vocabulary

CALIBRATION = 1000  # timesteps
NOTE_LOGITS = "note_logits"  # of pitch and duration, side by side in the model
FRAMES, NOTES = Judge.of_timesteps("frame", of_frame), Judge.of_timesteps("note", of_note)


def export_run(run: Run, target: Path, formats: list[str], precisions: list[str], profiles: list[str]) -> str:
    """Writes the bundle of a run, judged on its held-out stream; returns a table for people.

    Raises:
        UsageError: a format cannot hold the run's cell, or the run is damaged.
        RunFailed: a file is not the trained model; nothing is left behind.
    """
    makers: dict[str, Callable[[Run], Source | TranslationSource]] = {
        "text": _of_text,
        "classes": _of_classifier,
        "series": _of_forecaster,
        "music": _of_music,
        "pairs": _of_translator,
        "values": _of_values,
    }
    layout = getattr(task_of(run.config.task), "layout", None)
    if layout not in makers:
        raise UsageError(
            f"The task {run.config.task} must have a layout among {', '.join(makers)}: say what its runs hold, or make the "
            f"bundle with export.convert(model, directory). Received: {layout!r}"
        )
    source = makers[layout](run)
    return table(write_bundle(source, target, _fitting(source, wanted(formats, precisions, profiles))))


def _of_text(run: Run) -> Source:
    vocabulary, stream = run.vocabulary, run.tokens(run.held_out)
    perplexity = run.metrics[run.held_out]["perplexity"]["value"]
    inputs = np.r_[vocabulary.end_number, stream[:-1]]
    about = f"Predicts the next {vocabulary.unit} of a text. {_made(run.config)}"
    reference = Reference(Network.of(run.load_model()), inputs, stream, Judge.of_tokens(vocabulary.unit))
    return Source(run.config.task, reference, run.tokens("train")[:CALIBRATION], vocabulary, perplexity, about)


def _of_classifier(run: Run) -> Source:
    coder = classify.Coder.load(run.path)
    validation, examples = (load_part(run.path, part) for part in ("validation", run.held_out))
    network = Network.of(coder.fitting(run.load_model()))
    reference = Reference(network, np.concatenate(examples.inputs), examples=examples)
    perplexity = math.exp(run.metrics[run.held_out]["nats_per_label"]["value"])
    calibration = np.concatenate(validation.first(CALIBRATION).inputs)
    about = f"Tells {len(coder.classes)} classes of sequences apart: {', '.join(coder.classes[:30])}. {_made(run.config)}"
    return Source(run.config.task, reference, calibration, coder.vocabulary, perplexity, about, coder.classes)


def _of_values(run: Run) -> Source:
    validation, examples = (load_part(run.path, part) for part in ("validation", run.held_out))
    network = Network.of(run.load_model(), VALUE)
    calibration = np.concatenate(validation.first(CALIBRATION).inputs)
    about = f"Tells a value of each sequence, at its end. {_made(run.config)}"
    reference = Reference(network, np.concatenate(examples.inputs))
    return Source(run.config.task, reference, calibration, description=about)


def _of_forecaster(run: Run) -> Source:
    framing, found, parts = load_framing(run.path), load_series(run.path), Parts.of(run.config)
    outlooks = parts.outlooks(found, framing, run.held_out)
    network = Network.of(run.load_model(), output=QUANTILES)
    calibration = _first_features(parts.outlooks(found, framing, "validation"), framing, CALIBRATION)
    about = f"Forecasts the next {framing.horizon} timesteps of a series, as quantiles. {_made(run.config)}"
    reference = Reference(network, _first_features(outlooks, framing, QUALITY))
    return Source("forecast", reference, calibration, description=about, framing=framing)


def _of_music(run: Run) -> Source:
    return {"roll": _of_rolls, "melody": _of_melodies}[run.config.next_note.music](run)


def _of_rolls(run: Run) -> Source:
    network = Network.of(run.load_model(), output=KEY_LOGITS)
    held_out, train = (load_rolls(run.path / f"{part}_rolls.npz") for part in (run.held_out, "train"))
    inputs, calibration = (np.concatenate([*map(told_before, rolls)]) for rolls in (held_out, train))
    about = (
        f"Foretells the next frame of a piano roll, {run.config.next_note.frame:g} quarter notes: the sigmoid of the logits "
        f"of 88 keys, from MIDI's 21 on. The first frame is told from zeros. {_made(run.config)}"
    )
    reference = Reference(network, inputs, np.concatenate(held_out), FRAMES)
    return Source("next-note", reference, calibration[:CALIBRATION], description=about)


def _of_melodies(run: Run) -> Source:
    durations, form = durations_of(run), MelodyForm(run.config.next_note)
    parts = ((PITCH_LOGITS, PITCHES), (DURATION_LOGITS, len(durations)))
    network = Network.of(run.load_model(), output=NOTE_LOGITS, parts=parts)
    held_out, train = (form.kept(run, part) for part in (run.held_out, "train"))
    inputs, calibration = (np.concatenate([*map(durations.told, codes)]) for codes in (held_out, train))
    about = (
        "Foretells the next note of a melody: which pitch, and how long, by logits that are independent of each other. "
        f"The first note is told from zeros. {_made(run.config)}"
    )
    reference = Reference(network, inputs, np.concatenate(held_out), NOTES)
    return Source("next-note", reference, calibration[:CALIBRATION], description=about, durations=durations)


def _of_translator(run: Run) -> TranslationSource:
    coder = Coder.load(run.path, run.config)
    network = EncoderDecoder(coder.fitting(run.load_model()))
    reference = TranslationReference(network, coder.coded(kept(run.path, run.held_out)), coder)
    about = f"Translates a source, cut into {coder.source.unit}s, to a target of {coder.target.unit}s. {_made(run.config)}"
    return TranslationSource(reference, about)


def _first_features(outlooks: list[Outlook], framing: Framing, timesteps: int) -> Array:
    """Of the first series, up to their last origins, as many as begin within so many timesteps."""
    count = int(np.searchsorted(np.cumsum([one.origins[-1] - framing.first for one in outlooks]), timesteps)) + 1
    return np.concatenate([features(one, framing, int(one.origins[-1])) for one in outlooks[:count]])


def _fitting(source: Source | TranslationSource, artifacts: list[Artifact]) -> list[Artifact]:
    """The artifacts that a model can have."""
    if isinstance(source, TranslationSource):
        return of_translator(artifacts)
    spec = source.reference.spec
    if spec.both_ways:
        return of_sequences(artifacts)
    if spec.last_only:
        return [replace(a, signatures=tuple(name for name in a.signatures if name != PREFILL)) for a in artifacts]
    return artifacts


def _made(config: Config) -> str:
    m, data = config.model, config.data.data
    name = Path(data).name if data else task_of(config.task).default_data
    return f"Cell {m.cell}, {m.layers} × {m.units} units; trained on {name}."


def source_of(
    model: Any, inputs: Array | None, targets: Array | None, vocabulary: Vocabulary | None, output: str | None, task: str
) -> Source:
    """What `export.convert` makes of its arguments; it describes them."""
    network = Network.of(model, output)
    given = _random_inputs(network) if inputs is None else np.asarray(inputs)
    inputs, targets = _pairs(network, given, targets)
    reference = Reference(network, inputs, targets, Judge.of_tokens(vocabulary.unit if vocabulary else "word"))
    _check_vocabulary(reference, vocabulary)
    return Source(task, reference, inputs[:CALIBRATION], vocabulary)


def convert(
    source: Source, target: Path, formats: list[str], precisions: list[str], profiles: list[str], overwrite: bool
) -> dict[str, Any]:
    """Writes the bundle `target` and returns its manifest.

    Raises:
        UsageError: a format or precision does not exist or fit, or the target is there.
        RunFailed: a file is not the model; nothing is left behind.
    """
    for kind, given, known in (("formats", formats, FORMATS), ("quantize", precisions, PRECISIONS)):
        if set(given) - set(known):
            raise UsageError(f"{kind} must be among {', '.join(known)}. Received: {', '.join(given)}")
    if not formats:
        raise UsageError(f"formats must name what to write, among {', '.join(FORMATS)}. Received: none")
    check_wanted(formats, precisions, profiles)
    check_target(target, "directory", "manifest.json", overwrite)
    return write_bundle(source, target, _fitting(source, wanted(formats, precisions, profiles)))


def _random_inputs(network: Network) -> Array:
    rng = np.random.default_rng(0)
    if network.token_count is not None:
        return rng.integers(0, network.token_count, QUALITY)
    return rng.normal(size=(QUALITY, network.features or 0))


def _pairs(network: Network, inputs: Array, targets: Array | None) -> tuple[Array, Array | None]:
    """Inputs and targets that fit the model and each other: what follows a token is its target, where no other is given."""
    features, logits = network.features, categorical(network.output)
    wanted = "(N,) of tokens" if features is None else f"(N, {features}) of features"
    if inputs.shape[1:] != (() if features is None else (features,)) or len(inputs) < 2:
        raise UsageError(f"inputs must have the shape {wanted}. Received: {inputs.shape}")
    if network.token_count is not None:
        _check_numbers("inputs", inputs, network.token_count)
        continues = logits and network.output != CLASS_LOGITS and not network.both_ways
        if targets is None and continues and network.output_size == network.token_count:
            return inputs[:-1], inputs[1:]
    elif not np.isfinite(inputs).all():
        raise UsageError("inputs must be finite numbers. Received: some that are not")
    if targets is None:
        return inputs, None
    if not logits:
        raise UsageError(f"targets need an output of logits: name it so, or leave the targets out. Received: {network.output}")
    if network.of_sequences:
        raise UsageError("targets are one for each timestep, and the model gives one output for each sequence: leave them out.")
    if np.shape(targets) != (len(inputs),):
        raise UsageError(f"targets must have the shape ({len(inputs)},), one for each input. Received: {np.shape(targets)}")
    _check_numbers("targets", np.asarray(targets), network.output_size)
    return inputs, np.asarray(targets)


def _check_numbers(name: str, numbers: Array, size: int) -> None:
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= size:
        given = f"{numbers.dtype} from {numbers.min()} to {numbers.max()}"
        raise UsageError(f"{name} must be whole numbers from 0 to {size - 1}. Received: {given}")


def _check_vocabulary(reference: Reference, vocabulary: Vocabulary | None) -> None:
    if vocabulary and reference.spec.both_ways:
        raise UsageError("A model that reads both ways does not continue a text: leave the vocabulary out.")
    if vocabulary and (reference.spec.features is not None or len(vocabulary) != reference.spec.output_size):
        raise UsageError(
            f"The vocabulary has {len(vocabulary)} tokens, and the model is none of so many: leave the vocabulary out."
        )
