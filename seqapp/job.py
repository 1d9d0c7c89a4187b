"""One training job, start to end: data, model, training, evaluation."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from seqapp import backend, devices, records
from seqapp import config as configuration
from seqapp.attention_cell import AttentionCell
from seqapp.cells import CELLS
from seqapp.cli import import_task
from seqapp.config import CELL_NAMES, Config, ModelConfig
from seqapp.devices import Devices
from seqapp.diagnosis import Diagnosis
from seqapp.drawn import Drawn
from seqapp.errors import PeerLost, RunFailed, UsageError, say, told
from seqapp.fitting import Trainer, optimizer_of
from seqapp.flow_recorder import FlowRecorder
from seqapp.gradient_flow import GradientFlow, layers_of
from seqapp.lock import held
from seqapp.machines import Machines
from seqapp.model import SequenceModel
from seqapp.run import Run, replacing, write_json
from seqapp.study import Study
from seqapp.tasks import task_of
from seqapp.versions import FORMAT, made_with

# Steps of training, and timesteps: with these, cells that learn to remember and cells that do not are soon told apart.
PRACTICE, SHORT = 350, 32
CELL_OPTIONS = ("activation", "memory", "initialization", "normalized", "zoneout", "learned_start")


def run_job(run: Run, config: Config, resume: bool, count: int | None = None) -> None:
    """Trains and measures a run; prints its figures on standard output, its progress on standard error.

    Nothing is written before the data are known to be good. On `count` devices, and on several machines where `TF_CONFIG` names
    them: this is then the chief.

    Raises:
        UsageError: the run is another process's, or cannot be resumed, or there are not so many devices.
        RunFailed: the training diverged, or its disk is full.
        PeerLost: another machine is gone.
    """
    machines = Machines.named(os.environ)
    with held(run.path, "--run"):
        chosen = devices.begin(count, machines)
        with chosen.peers():
            chosen.of_chief(lambda: json.dumps(dataclasses.asdict(config)).encode())
            _run_job(run, config, resume, chosen)


def help_with(count: int | None, modules: list[str]) -> None:
    """Trains what the chief of several machines trains, and writes nothing.

    Raises:
        UsageError: the data are not here, or not the same, or there are not so many devices.
        RunFailed: the training diverged.
        PeerLost: another machine is gone.
    """
    chosen = devices.begin(count, Machines.named(os.environ))
    with chosen.peers():
        content = json.loads(chosen.of_chief(bytes))
        import_task(content.get("task"), modules)
        config = configuration.build({}, content)
        task_of(config.task).check_data(config)
        begin(config)
        study = _divided(config, chosen)
        trainer = Trainer(Run(Path(os.devnull)), config.training, study, devices=chosen)
        trainer.join()
        trainer.train()
        chosen.wait()


def _divided(config: Config, chosen: Devices) -> Study:
    """What a configuration has learnt from, on all devices; it is the same on all machines.

    Raises:
        UsageError: it is not, or its batches cannot be divided.
    """
    with chosen.scope():
        study = study_of(config)
    chosen.check(study.learner, config.training.batch_size)

    def first() -> bytes:
        batch = next(iter(study.batches(0, 0)))
        summed = zlib.crc32(study.summary.encode())
        for array in keras.tree.flatten(batch):
            summed = zlib.crc32(np.ascontiguousarray(array).tobytes(), summed)
        return struct.pack("I", summed)

    if chosen.several and chosen.of_chief(first) != first():
        raise UsageError("The data here are not those of the chief: give all machines the same data, then start them again.")
    return study


def begin(config: Config) -> None:
    """Makes a training the same each time."""
    keras.utils.set_random_seed(config.training.seed)
    backend.make_deterministic()
    backend.keep_memory()


def _run_job(run: Run, config: Config, resume: bool, chosen: Devices) -> None:
    began = time.monotonic()
    begin(config)
    study = _divided(config, chosen)
    m, parameters = config.model, study.model.count_params()
    if config.training.precision == "bfloat16" and not backend.has_bfloat16():
        say("this processor has no bfloat16 of its own: --precision float32 is quicker here")
    if resume:
        run.check()
        study.check_same(run)
        run.write_config(config)
    else:
        prepare(run, config, study)
    recorders = [FlowRecorder(study, config, run.path / "logs")] if config.training.diagnose else []
    trainer = Trainer(run, config.training, study, recorders, chosen)
    with resumable(run):
        if resume:
            trainer.restore()
        trainer.join()
        trainer.train()
        say("measuring the best epoch, beside the baselines")
        report = study.report(run.load_model(), run.held_out)
        write_json(run.path / "metrics.json", {**report.as_json(), **describe(config, parameters, trainer, began)})
        records.draw_learning_curve(
            run.path / "learning_curve.png", trainer.progress.history, trainer.progress.curve, report.levels, study.unit
        )
        report.draw(run.path)
        run.seal()
        # Only now is nothing left to resume.
        trainer.checkpoints.remove()
    with suppress(PeerLost), chosen.peers():
        chosen.wait()  # the others stay for as long as they might be needed again
    print(report.table(m.cell))


@contextmanager
def resumable(run: Run) -> Iterator[None]:
    """What ends a training says how it goes on."""
    command = f"python -m seqapp.train --run {run.path} --resume"
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nthe last checkpoint is kept; go on with: {command}")
        raise
    except OSError as error:
        raise RunFailed(
            f"{told(error, run.path)}: the last checkpoint is kept. Mend that, for instance make room, then go on with: "
            f"{command}"
        ) from None


def study_of(config: Config) -> Study:
    """What a configuration has learnt from, and by; says how large both are."""
    study, m = task_of(config.task).study(config), config.model
    say(study.summary)
    say(f"{m.cell}, {m.layers} × {m.units} units: {study.model.count_params():,} parameters")
    return study


def diagnose(config: Config, run: Run | None) -> Diagnosis:
    """How far back gradients reach in the model of a run, or in one with new weights.

    Raises:
        UsageError: the model cannot be built, or the data are not those of the run.
    """
    keras.utils.set_random_seed(config.training.seed)
    study = study_of(config)
    if run:
        study.check_same(run)
        study.model.set_weights(run.load_model().get_weights())
    flow = GradientFlow(study)
    flows, task = flow.measure(), task_of(config.task)
    if run or not isinstance(task, Drawn):
        return Diagnosis(flows, config)
    say("practising for some seconds")
    practise(study, task, config)
    return Diagnosis(flows, config, flow.measure())


def practise(study: Study, task: Drawn, config: Config) -> None:
    """Trains the model of a study for a moment, with sequences that are short: enough to see what becomes of its memory."""
    examples = PRACTICE * config.training.batch_size
    short = replace(config.long_range, length=min(SHORT, config.long_range.length), examples=examples)
    parts = replace(config.data, validation_fraction=0.01, test_fraction=0.0)
    for layer in layers_of(study.model).values():
        layer.chunk = 4  # a graph that is traced in a second
    optimizer = optimizer_of(config.training, study.learner)
    study.learner.compile(optimizer, study.loss, steps_per_execution=backend.at_once(PRACTICE // 7))
    study.learner.fit(task.study(replace(config, long_range=short, data=parts)).batches(0, 0), shuffle=False, verbose=0)


def build_model(config: ModelConfig, vocabulary_size: int) -> SequenceModel:
    """A model with new weights.

    Raises:
        UsageError: the cell or its activation does not exist, or the cell cannot be made from a number of units.
    """
    with built_of(config.cell):
        return SequenceModel(
            vocabulary_size, make_cells(config), config.embedding, config.tied, config.dropout, config.recurrent_dropout
        )


@contextmanager
def built_of(cell: str) -> Iterator[None]:
    """Where a model is built of a cell that the user names: what the cell refuses is the user's to mend."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(f"The cell {cell} cannot be built: {str(error).splitlines()[0]}") from None


def make_cells(config: ModelConfig) -> list[keras.layers.Layer]:
    """The cells of a model that reads one way, from the lowest layer up."""
    cells = [make_cell(config, residual=config.residual and layer > 0) for layer in range(config.layers)]
    if not config.attention:
        return cells
    width = getattr(cells[-1], "output_size", None) or config.units
    return [*cells, AttentionCell(width, residual=True, learned_start=config.learned_start)]


def make_cell(config: ModelConfig, residual: bool = False) -> keras.layers.Layer:
    """A cell with new weights, told of what is chosen and of nothing else: one of the user's own need not know the rest."""
    plain = ModelConfig()
    options = {name: getattr(config, name) for name in CELL_OPTIONS if getattr(config, name) != getattr(plain, name)}
    options |= {"residual": True} if residual else {}
    if config.cell in CELL_NAMES:
        if config.cell != "plain" and "activation" in options:
            raise UsageError(
                f"--activation is for --cell plain or a cell of your own: leave it out. Received: {config.activation}"
            )
        return CELLS[config.cell](config.units, **options)
    module, _, name = config.cell.partition(":")
    cell = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cell, type) and issubclass(cell, keras.layers.Layer)):  # a file may name any function, to be called
        raise UsageError(
            f"There is no cell {config.cell}: name a class as package.module:Class, and its module with --import {module}."
        )
    return cell(config.units, **options)


def prepare(run: Run, config: Config, study: Study) -> None:
    """Makes the run directory, in place of an old one: with all that a training needs to begin, or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with replacing(run.path) as temporary:
            temporary.mkdir()
            study.save(Run(temporary))
            Run(temporary).write_config(config)
            write_json(temporary / "versions.json", {"format": FORMAT, "versions": versions_now()})
            Run(temporary).seal()
    except OSError as error:
        raise UsageError(
            f"{told(error, run.path)}: make room, or name another directory with --run. Nothing was written."
        ) from None


def versions_now() -> dict[str, str]:
    """Of what a training depends on."""
    return {**made_with((backend.engine(), "keras", "numpy")), "python": platform.python_version()}


def describe(config: Config, parameters: int, trainer: Trainer, began: float) -> dict[str, Any]:
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
        "parameters": parameters,
        "versions": versions_now(),
    }
