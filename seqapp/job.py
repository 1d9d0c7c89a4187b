"""One training job, start to end: corpus, vocabulary, model, training, evaluation."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import sys
import time
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from seqapp import __version__, corpus, records
from seqapp.batching import Tokens, Windows, stream_of
from seqapp.cells import CELLS
from seqapp.config import CELL_NAMES, Config, ModelConfig
from seqapp.errors import UsageError
from seqapp.evaluate import evaluate
from seqapp.fitting import Trainer
from seqapp.model import SequenceModel
from seqapp.run import Run, write_json
from seqapp.vocabulary import Vocabulary


def run_job(run: Run, config: Config, resume: bool) -> None:
    """Trains and measures a run; prints its figures on standard output, its progress on standard error.

    Nothing is written before the data are known to be good.
    """
    began = time.monotonic()
    keras.utils.set_random_seed(config.training.seed)
    tf.config.experimental.enable_op_determinism()
    vocabulary, parts = read_data(config)
    streams = {name: stream_of(documents) for name, documents in parts.items()}
    windows = Windows.fit_to(
        parts["train"], vocabulary.end_number, config.training.batch_size, config.training.bptt, config.training.seed
    )
    model = build_model(config.model, len(vocabulary))
    say(f"{config.model.cell}, {config.model.layers} × {config.model.units} units: {model.count_params():,} parameters")
    if resume:
        check_same(run, streams)
        write_json(run.config_file, dataclasses.asdict(config))
    else:
        prepare(run, config, vocabulary, streams)
    trainer = Trainer(run, config.training, model, windows, streams["validation"], vocabulary.end_number)
    if resume:
        trainer.restore()
    try:
        trainer.train()
    except KeyboardInterrupt:
        say(f"\nthe last checkpoint is kept; go on with: python -m seqapp.train --run {run.path} --resume")
        raise
    say("measuring the best epoch, beside the baselines")
    report = evaluate(run.load_model(), vocabulary, streams, run.held_out)
    write_json(run.path / "metrics.json", {**report.as_json(), **describe(config, model, trainer, began)})
    records.draw_learning_curve(
        run.path / "learning_curve.png", trainer.progress.history, trainer.progress.curve, report.baselines
    )
    # Only now is nothing left to resume.
    shutil.rmtree(trainer.checkpoint)
    print(report.table(config.model.cell))


def say(text: str) -> None:
    print(text, file=sys.stderr)


def read_data(config: Config) -> tuple[Vocabulary, dict[str, list[Tokens]]]:
    """The vocabulary of the training split and the token numbers of every document, part by part."""
    unit = config.task.removeprefix("next-")
    split = corpus.load(config.data, whole_lines=unit == "word")
    vocabulary = Vocabulary.learn(split.train, unit, config.data.lower, config.data.min_count)
    parts = {
        name: [np.asarray(vocabulary.encode(text), np.int32) for text in texts]
        for name, texts in dataclasses.asdict(split).items()
        if texts
    }
    sizes = ", ".join(f"{name} {sum(map(len, documents)):,}" for name, documents in parts.items())
    say(f"{len(vocabulary):,} {unit}s in the vocabulary; tokens: {sizes}")
    for name, documents in parts.items():
        if not sum(map(len, documents)):
            raise UsageError(f"The {name} split holds no token: give more text, or change --{name}-fraction.")
    return vocabulary, parts


def build_model(config: ModelConfig, vocabulary_size: int) -> SequenceModel:
    """A model with new weights.

    Raises:
        UsageError: the cell or its activation does not exist, or the cell cannot be made from a number of units.
    """
    try:
        cells = [make_cell(config) for _ in range(config.layers)]
        return SequenceModel(vocabulary_size, cells, config.embedding, config.tied, config.dropout, config.recurrent_dropout)
    except (ValueError, TypeError) as error:
        raise UsageError(f"The cell {config.cell} cannot be built: {str(error).splitlines()[0]}") from None


def make_cell(config: ModelConfig) -> keras.layers.Layer:
    if config.cell in CELL_NAMES:
        activation = {"activation": config.activation} if config.cell == "plain" else {}
        return CELLS[config.cell](config.units, **activation)
    module, _, name = config.cell.partition(":")
    cell = getattr(sys.modules.get(module), name, None)
    if cell is None:
        raise UsageError(f"There is no cell {config.cell}: name a class as package.module:Class. Received: {config.cell}")
    return cell(config.units)


def prepare(run: Run, config: Config, vocabulary: Vocabulary, streams: dict[str, Tokens]) -> None:
    """Makes the run directory, in place of an old one."""
    if run.path.exists():
        shutil.rmtree(run.path)
    run.path.mkdir(parents=True)
    vocabulary.save(run.path / "vocabulary.json")
    for name, stream in streams.items():
        np.save(run.path / f"{name}_tokens.npy", stream)
    write_json(run.config_file, dataclasses.asdict(config))


def check_same(run: Run, streams: dict[str, Tokens]) -> None:
    for name, stream in streams.items():
        if not np.array_equal(run.tokens(name), stream):
            raise UsageError(f"The {name} split is not the one {run.path} was begun with: restore the data, or start again.")


def describe(config: Config, model: SequenceModel, trainer: Trainer, began: float) -> dict[str, Any]:
    """What the figures were reached with."""
    p = trainer.progress
    return {
        "training": {
            "seconds": p.history[-1]["seconds"],
            "seconds_in_all": round(time.monotonic() - began, 1),
            "epochs": p.epoch,
            "best_epoch": p.best_epoch,
            "seed": config.training.seed,
        },
        "parameters": model.count_params(),
        "versions": {
            "seqapp": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        },
    }
