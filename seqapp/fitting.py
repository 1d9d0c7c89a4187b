"""Training: `fit` epoch by epoch, with its schedule, clock, validation and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from seqapp import backend, records
from seqapp.checkpoint import Checkpoints
from seqapp.checksums import checksum, checksums, damaged
from seqapp.config import TrainingConfig, read_json
from seqapp.devices import Devices, packed, unpacked
from seqapp.errors import RunFailed, UsageError, say
from seqapp.precision import training_in
from seqapp.run import Run, replacing, write_json
from seqapp.study import Study
from seqapp.untrusted import check_npz

WARM_UP = 0.03
SAMPLES = 50  # points of the learning curve in an epoch
BEST = "best.keras"  # a copy in each checkpoint
AT_ONCE, WORK = 10, 5e10  # batches in one call of the engine, at most, and the operations that it may then be busy with


@dataclass
class Progress:
    """Where a training stands: what a checkpoint holds beside the weights; and checksums of the records it left so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_nats: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    history: list[records.Row] = field(default_factory=list)
    curve: list[records.Row] = field(default_factory=list)
    records: dict[str, str] = field(default_factory=dict)


def optimizer_of(config: TrainingConfig, learner: Any) -> Any:
    """AdamW over the trainable weights of a model; biases, gains and first states do not decay."""
    optimizer = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=config.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gain", "start"])
    optimizer.build(learner.trainable_variables)
    return optimizer


def batches_at_once(study: Study) -> int:
    """How many batches the engine trains on before Python hears of it, which costs milliseconds each time.

    The same for each part of an epoch, so that a training that is resumed sets its learning rate at the same batches.
    """
    operations = 6 * study.learner.count_params() * study.targets(1)  # a product ahead and two back, and what is added up
    most = min(AT_ONCE, study.per_epoch // SAMPLES, int(WORK // operations))
    return backend.at_once(max(1, most))


class Trainer(keras.callbacks.Callback):
    """Trains the model of a run and leaves the weights of its best epoch in model.keras.

    It is its own callback: `train` runs the epochs, the callback's methods what happens between the batches of one. There may
    be others beside it. Of several machines, only the chief writes, and measures; the others hear of it what it decides by.
    """

    def __init__(
        self,
        run: Run,
        config: TrainingConfig,
        study: Study,
        others: Sequence[keras.callbacks.Callback] = (),
        devices: Devices | None = None,
    ) -> None:
        super().__init__()
        self.others, self.devices = others, devices or Devices()
        self.run, self.config, self.study, self.learner = run, config, study, study.learner
        self.progress = Progress()
        self.at_once = batches_at_once(study)
        with self.devices.scope():
            optimizer = optimizer_of(config, self.learner)
        self.learner.compile(optimizer, study.loss, steps_per_execution=self.at_once)
        self.devices.take(self.learner, self.at_once)
        self.checkpoints = Checkpoints(run.path / "checkpoint")
        self.began = self.saved = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.progress.seconds + time.monotonic() - self.began

    @property
    def finished(self) -> bool:
        p, c = self.progress, self.config
        return p.epoch >= c.epochs or self.out_of_time or (p.best is not None and p.epoch - p.best_epoch >= c.patience)

    @property
    def out_of_time(self) -> bool:
        return self.config.time_limit is not None and self.elapsed >= self.config.time_limit

    def learning_rate(self) -> float:
        """A linear rise, then half a cosine down to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983v5): of the batches that are
        next, that of those in the middle.
        """
        done = (self.progress.step + (self.at_once - 1) / 2) / (self.config.epochs * self.study.per_epoch)
        if self.config.time_limit is not None:
            done = max(done, self.elapsed / self.config.time_limit)
        rise = min(1.0, (done + 1e-3) / WARM_UP)
        return self.config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def train(self) -> None:
        """Trains to the last epoch, to the time limit, or until validation no longer improves.

        Raises:
            RunFailed: the loss is no longer a number; model.keras then holds the last good weights.
        """
        self.began = self.saved = time.monotonic()
        if not self.checkpoints.numbers:
            self.save()
        while not self.finished:
            self.train_epoch()

    def train_epoch(self) -> None:
        p = self.progress
        if not p.batch:
            self.study.begin_epoch()
            p.epoch_nats = 0.0
        self.nats_before = self.nats_sampled = p.epoch_nats
        self.batch_before = self.batch_sampled = p.batch
        with (
            tqdm(
                desc=f"epoch {p.epoch + 1}/{self.config.epochs}",
                total=self.study.per_epoch,
                initial=p.batch,
                unit="batch",
                leave=False,
                mininterval=0.2 if sys.stderr.isatty() else 20,
                disable=not self.devices.chief,
            ) as self.bar,
            training_in(self.config.precision, self.learner),
        ):
            self.learner.fit(self.study.batches(p.epoch, p.batch), shuffle=False, verbose=0, callbacks=[self, *self.others])
        self.after_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.learning_rate()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        p, mean = self.progress, float(logs["loss"])
        if not math.isfinite(mean):
            self.diverged()
        # Keras numbers the last batch of a whole call, even where there were not so many left.
        done = min(self.batch_before + batch + 1, self.study.per_epoch) - p.batch
        p.step, p.batch = p.step + done, p.batch + done
        # Keras reports the mean over the batches of this call of `fit`, which a resumed epoch began in its middle.
        p.epoch_nats = self.nats_before + mean * (p.batch - self.batch_before)
        if p.batch - self.batch_sampled >= self.study.per_epoch / SAMPLES:
            self.sample()
        if not self.bar.disable:
            speed = self.tokens_per_second(p.batch)
            self.bar.set_postfix_str(f"{p.epoch_nats / p.batch:.3f} nats, {speed:,.0f} tokens/s", refresh=False)
            self.bar.update(done)
        if self.out_of_time:
            self.learner.stop_training = True
        elif time.monotonic() - self.saved > self.config.checkpoint_seconds:
            self.save()

    def sample(self) -> None:
        """Adds a point to the learning curve: the mean loss since the point before."""
        p = self.progress
        nats = (p.epoch_nats - self.nats_sampled) / (p.batch - self.batch_sampled)
        p.curve.append({"step": p.step, "seconds": round(self.elapsed, 2), "training_nats": nats})
        self.nats_sampled, self.batch_sampled = p.epoch_nats, p.batch

    def after_epoch(self) -> None:
        """Validates, keeps the weights if they are the best so far, and writes the records and a checkpoint."""
        p = self.progress
        nats = self.devices.number_of_chief(self.study.validate)
        if not math.isfinite(nats):
            self.diverged()
        trained, p.epoch, p.batch = p.batch, p.epoch + 1, 0
        better = p.best is None or nats < p.best
        row = {
            "epoch": p.epoch,
            "windows": trained,
            "seconds": round(self.elapsed, 2),
            "training_nats": p.epoch_nats / trained,
            "validation_nats": nats,
            "tokens_per_second": round(self.tokens_per_second(trained)),
        }
        p.history.append(row)
        if better:
            p.best, p.best_epoch = nats, p.epoch
        if self.devices.chief:
            self.record(row, better)

    def record(self, row: records.Row, better: bool) -> None:
        """Writes what there is to know of an epoch, and tells it."""
        p, nats = self.progress, row["validation_nats"]
        if better:
            self.keep()
        records.write_history(self.run, p.history)
        records.write_tensorboard(self.run, p.step, row, p.curve)
        p.records = checksums(self.run.path, [self.run.path / "history.csv", *(self.run.path / "logs").rglob("*")])
        self.save()
        print(
            f"epoch {p.epoch}/{self.config.epochs}  {self.study.measure}: "
            f"training {_shown(self.study.measured(row['training_nats']))}, "
            f"validation {_shown(self.study.measured(nats))}{' (best)' if better else ''}  {row['seconds']:.0f} s, "
            f"{row['tokens_per_second']:,.0f} tokens/s",
            file=sys.stderr,
        )

    def tokens_per_second(self, batches: int) -> float:
        """Of this epoch's batches so far, in the time since the row before."""
        before = self.progress.history[-1]["seconds"] if self.progress.history else 0.0
        return self.study.targets(batches) / max(1e-9, self.elapsed - before)

    def diverged(self) -> None:
        """Keeps the last good weights and ends the training."""
        if not self.devices.chief:
            raise RunFailed(f"Training diverged at step {self.progress.step + 1}: the chief has the last good weights.")
        if self.progress.best is None:
            self.take_up(self.checkpoints.last())
            self.keep()
        raise RunFailed(
            f"Training diverged at step {self.progress.step + 1}: the loss is not a number. The last good weights are in "
            f"{self.run.model_file}. Lower --learning-rate, now {self.config.learning_rate}, "
            f"or --clip-norm, now {self.config.clip_norm}."
        )

    def keep(self) -> None:
        with replacing(self.run.model_file) as temporary:
            self.study.model.save(temporary)

    def save(self) -> None:
        """Writes a checkpoint, of all that a step changes, of the progress and of the best model; or leaves those before."""
        if not self.devices.chief:
            return
        self.synced()
        if not all(np.isfinite(weight).all() for weight in self.study.model.get_weights()):
            self.diverged()
        now = dataclasses.replace(self.progress, seconds=self.elapsed)
        with self.checkpoints.next() as folder:
            np.savez(folder / "variables.npz", *map(np.asarray, self.variables))
            write_json(folder / "progress.json", dataclasses.asdict(now))
            if self.progress.best is not None:
                shutil.copyfile(self.run.model_file, folder / BEST)
        self.saved = time.monotonic()

    def synced(self) -> None:
        """Within a call of `fit`, has JAX write the weights it works on into the variables: Keras's property does."""
        _ = self.model

    @property
    def variables(self) -> list[Any]:
        """All that a step changes: weights, carried states, those of dropout and of the resets, and the optimizer's."""
        return [*self.learner.variables, *self.learner.optimizer.variables]

    def restore(self) -> None:
        """Takes up training where the last checkpoint that is whole left it, with the best model so far as it was then.

        Where there is no checkpoint yet, nothing was learnt.

        Raises:
            UsageError: there is none, or it is of another version.
        """
        if not self.checkpoints.numbers:
            return
        folder = self.checkpoints.last()
        try:
            self.progress = Progress(**read_json(folder / "progress.json"))
            self.take_up(folder)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{folder} was made by another version ({error}): resume it with that, or start again with --overwrite."
            ) from None
        best, kept = folder / BEST, self.run.model_file
        if best.exists() and not (kept.exists() and checksum(kept) == checksum(best)):
            say(f"{kept} is not what it was at the checkpoint: taking it from there")
            with replacing(kept) as temporary:
                shutil.copyfile(best, temporary)
        for name in damaged(self.run.path, self.progress.records):
            say(f"{self.run.path / name} is not what it was at the checkpoint")
        if self.progress.history:
            records.write_history(self.run, self.progress.history)

    def take_up(self, folder: Path) -> None:
        """Gives all variables the values of a checkpoint."""
        path = folder / "variables.npz"
        with path.open("rb") as stream:
            check_npz(stream, path.stat().st_size)
        self.assign(unpacked(path.read_bytes()))

    def assign(self, values: Sequence[Any]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def join(self) -> None:
        """On several machines, takes up training where the chief stands."""
        if not self.devices.several:
            return
        progress = self.devices.of_chief(lambda: json.dumps(dataclasses.asdict(self.progress)).encode())
        values = self.devices.of_chief(lambda: packed([np.asarray(variable) for variable in self.variables]))
        if not self.devices.chief:
            self.progress = Progress(**json.loads(progress))
            self.assign(unpacked(values))


def _shown(value: float) -> str:
    """Two decimals, or three digits of what is below 1.

    >>> _shown(38.6123), _shown(0.020397)
    ('38.61', '0.0204')
    """
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"
