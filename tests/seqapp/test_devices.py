"""Several devices and several machines: what they come to is what one device comes to, whatever is lost on the way."""

from __future__ import annotations

import csv
import json
import random
import re
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import seqapp.train
from seqapp import backend, devices, job
from seqapp.config import Config
from seqapp.devices import Devices
from seqapp.machines import Machines
from seqapp.run import Run
from tests.commands import forked
from tests.conftest import one_line, refused, sentences
from tests.training import scalars

NO_CHANCE = ["--dropout", "0", "--recurrent-dropout", "0"]
SMALL = ["--units", "8", "--embedding", "8", "--batch-size", "4", "--bptt", "8", "--epochs", "2", *NO_CHANCE]
PARTS = ["--validation-fraction", "0.2", "--test-fraction", "0.2"]
OFTEN = ["--checkpoint-seconds", "0.01"]
STREAMS = ["--state-reset", "0.2", "--clip-norm", "0.3"]
# Trains on two devices that the processor is said to be.
TWO = """
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
# Ends the process as a power cut would, after so many batches in all.
KILLED = """
import os
from seqapp.fitting import Trainer
after = Trainer.on_train_batch_end
def end(self, batch, logs=None):
    after(self, batch, logs)
    if self.progress.step == {step}:
        os.kill(os.getpid(), 9)
Trainer.on_train_batch_end = end
"""
TRAIN = """
import sys
from seqapp import train
for arguments in {commands}:
    status = train.main(arguments)
    if status:
        sys.exit(status)
"""
WITHIN = 100  # seconds; it takes one to ten, and without an end to waiting for others 300
FIGURES = ("training_nats", "validation_nats")


def trained(folder: Path, *commands: list[str], before: str = "") -> tuple[int | None, str]:
    """The exit status of trainings, one behind the other in one process, and what they say."""
    status, _, errors = forked([sys.executable, "-c", before + TRAIN.format(commands=list(commands))], folder)
    return status, errors


def assert_same(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """The same losses after each epoch, and the same weights."""
    with (one / "history.csv").open() as a, (other / "history.csv").open() as b:
        rows = list(zip(csv.DictReader(a), csv.DictReader(b), strict=True))
    assert rows
    for ours, theirs in rows:
        for name in FIGURES:
            assert float(ours[name]) == pytest.approx(float(theirs[name]), abs=tolerance)
    for a_weight, b_weight in zip(Run(one).load_model().get_weights(), Run(other).load_model().get_weights(), strict=True):
        np.testing.assert_allclose(a_weight, b_weight, rtol=0, atol=tolerance, equal_nan=False)


def assert_same_flow(one: Path, other: Path) -> None:
    """The same in TensorBoard of what `--diagnose` measures; what it counts may differ where a value is at a threshold."""
    ours, theirs = (scalars(run / "logs") for run in (one, other))
    assert ours.keys() == theirs.keys()
    measured = [tag for tag in ours if re.match(r"gradient/\d|radius/", tag)]
    assert len(measured) > 2
    for tag in measured:
        np.testing.assert_allclose(ours[tag], theirs[tag], rtol=1e-3, atol=1e-5, equal_nan=False, err_msg=tag)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("talk") / "talk.txt"
    path.write_text(sentences(100), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def alone(talk: str) -> Path:
    """A run of one device, which nobody stops."""
    status, errors = trained(Path(talk).parent, ["--data", talk, *SMALL, *STREAMS, "--run", "alone"])
    assert status == 0, errors
    return Path(talk).parent / "alone"


def test_two_devices_come_to_what_one_comes_to(talk: str, labelled_files: dict[str, Path], tmp_path: Path) -> None:
    """Streams with resets, whose states are carried; and sums of three to eight timesteps, so that one device has more labels
    than the other. Gradients are clipped in most steps; what TensorBoard is told of their way back through time is the same.
    """
    streams = ["--data", talk, *SMALL, *STREAMS]
    sums = ["--task", "classify", "--data", str(labelled_files["sums"]), *SMALL, "--clip-norm", "0.3", *PARTS, "--diagnose"]
    commands = [
        [*given, *where, "--run", f"{name}{len(where)}"]
        for name, given in (("streams", streams), ("sums", sums))
        for where in ([], ["--devices", "2"])
    ]
    status, errors = trained(tmp_path, *commands, before=TWO)
    assert status == 0, errors
    assert_same(tmp_path / "streams0", tmp_path / "streams2")
    assert_same(tmp_path / "sums0", tmp_path / "sums2")
    assert_same_flow(tmp_path / "sums0", tmp_path / "sums2")


UNITS = ["--source-unit", "character", "--target-unit", "symbol"]
# Tasks beside those above, with the fixture that has their data.
TASKS = {
    "chords": ("music_folder", ["--task", "next-note", "--transpose", "0", *PARTS]),
    "melody": ("melody_folder", ["--task", "next-note", "--music", "melody", "--transpose", "0", *PARTS]),
    "forecast": ("series_file", ["--task", "forecast", "--horizon", "5"]),
    "translate": ("pairs_file", ["--task", "translate", *UNITS, "--layers", "1", "--min-count", "1", *PARTS]),
}


@pytest.mark.nightly
@pytest.mark.parametrize("task", TASKS)
def test_two_devices_and_two_machines_in_each_task(task: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data, given = TASKS[task]
    begin = [*given, "--data", str(request.getfixturevalue(data)), *SMALL, "--clip-norm", "0.3", "--diagnose"]
    commands = [[*begin, *where, "--run", f"run{len(where)}"] for where in ([], ["--devices", "2"])]
    status, errors = trained(tmp_path, *commands, before=TWO)
    assert status == 0, errors
    cluster = Cluster(tmp_path, *begin)
    assert [(status, errors) for status, errors, _ in cluster.both("", "") if status] == []
    for other in (tmp_path / "run2", cluster.run):
        assert_same(tmp_path / "run0", other)
        assert_same_flow(tmp_path / "run0", other)


def test_a_training_on_two_devices_goes_on_with_one(talk: str, alone: Path, tmp_path: Path) -> None:
    begin = ["--data", talk, *SMALL, *STREAMS, *OFTEN]
    killed, there = KILLED.format(step=60), [*begin, "--run", "killed", "--start-or-resume"]
    assert trained(tmp_path, [*there, "--devices", "2"], before=TWO + killed)[0] == -9
    status, errors = trained(tmp_path, there)
    assert status == 0, errors
    assert_same(alone, tmp_path / "killed")


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, of those that a system does not give to connections by itself."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found[:count]


class Cluster:
    """Two machines, which are two processes here, with folders of their own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.arguments = folder, [*arguments, "--run", "run", "--start-or-resume"]
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.pool = ThreadPoolExecutor(2)
        for number in range(2):
            (folder / str(number)).mkdir()

    @property
    def run(self) -> Path:
        return self.folder / "0" / "run"

    def start(self, number: int, before: str = "") -> Future[tuple[int | None, str, float]]:
        """Its exit status, what it said, and when it ended."""
        task = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": number}}
        configured = f"import os\nos.environ['TF_CONFIG'] = {json.dumps(task)!r}\n"

        def work() -> tuple[int | None, str, float]:
            return *trained(self.folder / str(number), self.arguments, before=configured + before), time.monotonic()

        return self.pool.submit(work)

    def both(self, *before: str) -> list[tuple[int | None, str, float]]:
        return [future.result() for future in [self.start(number, code) for number, code in enumerate(before)]]


# A machine writes the weights that it comes to into its folder.
KEPT = """
import numpy as np
from seqapp.fitting import Trainer
train_all = Trainer.train
def train_and_keep(self):
    train_all(self)
    np.savez("weights.npz", *map(np.asarray, self.variables))
Trainer.train = train_and_keep
"""


def test_two_machines_come_to_what_one_comes_to(talk: str, alone: Path, tmp_path: Path) -> None:
    begin = ["--data", talk, *SMALL, *STREAMS]
    cluster = Cluster(tmp_path, *begin)
    assert [(status, errors) for status, errors, _ in cluster.both(KEPT, KEPT) if status] == []
    assert_same(alone, cluster.run)
    ours, theirs = (devices.unpacked((tmp_path / number / "weights.npz").read_bytes()) for number in "01")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["weights.npz"], "only the chief writes a run"


def test_a_machine_that_is_lost_ends_the_other_and_both_go_on(talk: str, alone: Path, tmp_path: Path) -> None:
    begin = ["--data", talk, *SMALL, *STREAMS, *OFTEN]
    cluster = Cluster(tmp_path, *begin)
    (chief, said, ended), (worker, _, killed) = cluster.both("", KILLED.format(step=60))
    assert (chief, worker) == (75, -9), said
    assert ended - killed < WITHIN
    assert [line for line in said.splitlines() if line.startswith("error: ")][-1].startswith(
        "error: Another machine of TF_CONFIG"
    )
    assert [(status, errors) for status, errors, _ in cluster.both("", "") if status] == []
    assert_same(alone, cluster.run)


@pytest.mark.nightly
def test_both_machines_killed_one_after_the_other_again_and_again(talk: str, alone: Path, tmp_path: Path) -> None:
    begin = ["--data", talk, *SMALL, *STREAMS, *OFTEN]
    cluster = Cluster(tmp_path, *begin)
    for kill, step in enumerate((10, 30, 43, 60)):
        dies = 1 - kill % 2  # the worker first, then the chief
        ends = cluster.both(*(KILLED.format(step=step) if number == dies else "" for number in range(2)))
        assert (ends[dies][0], ends[1 - dies][0]) == (-9, 75), ends
        print(f"the other ended after {ends[1 - dies][2] - ends[dies][2]:.1f} seconds")
        assert abs(ends[0][2] - ends[1][2]) < WITHIN
    assert [(status, errors) for status, errors, _ in cluster.both("", "") if status] == []
    assert_same(alone, cluster.run)


@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_that_never_comes_is_told_in_one_line(number: int, talk: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "--data", talk, *SMALL)
    began = time.monotonic()
    status, errors, _ = cluster.start(number, "from seqapp import machines\nmachines.WAIT = 2.0\n").result()
    assert status == 75, errors
    assert errors.count("error: ") == 1 and "Traceback" not in errors
    assert "TF_CONFIG" in errors.splitlines()[-1]
    assert time.monotonic() - began < WITHIN
    assert not cluster.run.exists()


class TestRefused:
    def test_more_devices_than_there_are(self, talk: str, tmp_path: Path) -> None:
        status, errors = trained(tmp_path, ["--data", talk, *SMALL, "--devices", "3", "--run", "run"], before=TWO)
        assert status == 2
        assert errors.splitlines()[-1].startswith("error: There are 2 devices on this machine")
        assert not (tmp_path / "run").exists()

    def test_a_batch_that_cannot_be_divided(self) -> None:
        three = Devices()
        three.count = 3
        refused(lambda: three.check(object(), 4), "A batch has 4 rows", "among 3 devices", "--batch-size")
        three.check(object(), 6)

    def test_data_that_are_not_those_of_the_chief(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Told(Devices):
            several = True

            def of_chief(self, content: Callable[[], bytes]) -> bytes:
                return chief or content()

        learner = SimpleNamespace(rows=4)
        study = SimpleNamespace(learner=learner, summary="4 rows", batches=lambda *_: iter([(np.ones(4), np.ones(4))]))
        monkeypatch.setattr(job, "study_of", lambda _: study)
        chief = b""
        assert job._divided(Config(), Told()) is study
        chief = b"something else"
        refused(lambda: job._divided(Config(), Told()), "not those of the chief: give all machines the same data")

    @pytest.mark.parametrize(
        ("flags", "parts"),
        [
            (["--devices", "0"], ["--devices must be a whole number of at least 1", "Received: 0"]),
            (["--start-or-resume"], ["--run DIR"]),
            (["--start-or-resume", "--run", "x", "--overwrite"], ["neither --resume nor --overwrite"]),
        ],
    )
    def test_flags(self, flags: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert seqapp.train.main(flags) == 2
        one_line(capsys, *parts)

    def test_another_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backend, "engine", lambda: "jax")
        refused(lambda: devices.begin(2, Machines()), "--devices is for Keras on TensorFlow", "KERAS_BACKEND=jax")
        refused(lambda: devices.begin(None, Machines(("a:1", "b:2"))), "TF_CONFIG is for Keras on TensorFlow")

    def test_a_time_limit_on_several_machines(
        self, talk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        task = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(task))
        run = str(tmp_path / "run")
        assert seqapp.train.main(["--data", talk, *SMALL, "--time-limit", "9", "--run", run]) == 2
        assert "--time-limit is for one machine" in capsys.readouterr().err


def test_one_device_is_left_to_keras() -> None:
    one = devices.begin(1, Machines())
    assert type(one) is Devices and one.chief
    assert one.number_of_chief(lambda: 0.1) == 0.1
    x = np.arange(4)
    assert devices.own_rows(x) is x and devices.all_rows(x) is x
