"""Trainings that are killed, whose disks are full, or whose files are damaged: nothing is lost, or wrong without a word."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import seqapp.train
from seqapp.checkpoint import Checkpoints
from seqapp.errors import UsageError
from seqapp.fitting import Trainer
from seqapp.run import Run
from seqapp.tasks import task_of
from tests.commands import ROOT, forked, run_forked
from tests.training import stopped_before_measuring

SMALL = ["--units", "8", "--embedding", "8", "--batch-size", "4", "--bptt", "8", "--epochs", "3"]
# Killed after so many seconds, or so many after it has written a checkpoint.
KILLED = """
import os, sys, time
from pathlib import Path
from seqapp import train
def written():
    return max((path.name for path in Path("killed/checkpoint").glob("0*")), default="")
process, before = os.getpid(), written()
if not os.fork():
    while {late} and written() == before and os.getppid() == process:
        time.sleep(0.002)
    time.sleep({seconds})
    if os.getppid() == process:  # which may have ended by itself
        os.kill(process, 9)
    os._exit(0)
sys.exit(train.main({arguments}))
"""


def same_model(one: Path, other: Path) -> None:
    for a, b in zip(Run(one).load_model().get_weights(), Run(other).load_model().get_weights(), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)
    figures = [{k: v for k, v in Run(run).metrics.items() if k not in ("training", "versions")} for run in (one, other)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.nightly)])
def test_a_training_that_is_killed_and_resumed_ends_as_one_that_was_not(kills: int, text_file: Path, tmp_path: Path) -> None:
    """Checkpoints are written all the time, and half of those that are killed have just written one; the others may be killed
    before there is anything.
    """
    begin = ["--data", str(text_file), *SMALL, "--epochs", str(3 + kills // 2), "--checkpoint-seconds", "0.01"]
    run_forked([sys.executable, "-m", "seqapp.train", *begin, "--run", "whole"], tmp_path)
    rng = random.Random(kills)
    for number in range(kills):
        arguments = ["--resume", "--run", "killed"] if (tmp_path / "killed").exists() else [*begin, "--run", "killed"]
        late = number % 2 == 1  # half of the time
        code = KILLED.format(late=late, seconds=rng.uniform(0, 0.3 if late else 3), arguments=arguments)
        status, _, errors = forked([sys.executable, "-c", code], tmp_path)
        assert status == -9, f"it was over before: {errors}"
    run_forked([sys.executable, "-m", "seqapp.train", "--resume", "--run", "killed"], tmp_path)
    same_model(tmp_path / "killed", tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob(".*")] == []


@pytest.mark.parametrize("stride", [120, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_disk_that_is_full_once_costs_one_message(stride: int, tmp_path: Path) -> None:
    library = tmp_path / "full_disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "full_disk.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.full_disk", str(tmp_path), str(stride)]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) > 100 / stride
    for number, calls, status, errors, left, again, same, more in rows:
        where = f"call {number} of {calls}"
        if status:  # else it was one that is done without
            assert status in (1, 2), where
            assert len(errors) == 1, (where, errors)
            assert errors[0].startswith("error: ") and "No space left on device" in errors[0], (where, errors)
        assert not left, where
        assert again == 0, (where, more)
        assert same, where


@pytest.fixture(scope="module")
def unmeasured(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unmeasured") / "run"
    return stopped_before_measuring(path, "--data", str(text_file), *SMALL)


@pytest.fixture
def stopped(unmeasured: Path, tmp_path: Path) -> Path:
    """A run that was stopped after its training, before it was measured: with two checkpoints."""
    run = Path(shutil.copytree(unmeasured, tmp_path / "run"))
    assert len(Checkpoints(run / "checkpoint").numbers) == 2
    return run


def flipped(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << (offset % 8)
    path.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_one_flipped_byte_in_any_file_is_found_before_training_goes_on(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Run(stopped).config
    study = task_of(config.task).study(config)
    study.check_same(Run(stopped))
    trainer = Trainer(Run(stopped), config.training, study)
    trainer.restore()
    wanted = [np.array(variable).copy() for variable in trainer.variables]
    rng, tried = random.Random(0), 0
    for file in files_of(stopped):
        for offset in (0, -1, *(rng.randrange((stopped / file).stat().st_size) for _ in range(3))):
            copy = Path(shutil.copytree(stopped, tmp_path / "copy"))
            flipped(copy / file, offset)
            capsys.readouterr()
            refused = ""
            trainer.run, trainer.checkpoints = Run(copy), Checkpoints(copy / "checkpoint")
            try:
                Run(copy).check()
                trainer.restore()
            except UsageError as error:
                refused = str(error)
            said = refused + capsys.readouterr().err
            named = file.parts[1] if file.parts[0] == "checkpoint" else file.name
            assert named in said, (file, offset, said)
            if not refused and "left out" not in said:
                for variable, value in zip(trainer.variables, wanted, strict=True):
                    np.testing.assert_array_equal(variable, value)
            tried += 1
            shutil.rmtree(copy)
    assert tried >= 40


def test_the_checkpoint_before_is_used_where_the_last_is_damaged(stopped: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(stopped, tmp_path / "whole"))
    assert seqapp.train.main(["--run", str(whole), "--resume"]) == 0
    last = Checkpoints(stopped / "checkpoint").numbers[-1]
    flipped(stopped / "checkpoint" / f"{last:06d}" / "variables.npz", 100)
    flipped(stopped / "model.keras", 100)
    assert seqapp.train.main(["--run", str(stopped), "--resume"]) == 0
    same_model(stopped, whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (stopped / "checkpoint").rglob("progress.json"):
        flipped(path, 3)
    capsys.readouterr()
    assert seqapp.train.main(["--run", str(stopped), "--resume"]) == 2
    error = capsys.readouterr().err
    assert "holds no checkpoint that is whole: start again with --overwrite" in error
    assert error.count("is damaged, it is not what its checksums.json says: left out") == 2


def test_one_flipped_byte_in_what_a_command_reads_is_found(trained: Callable[..., Run], tmp_path: Path) -> None:
    run = trained()
    names = [*run.sums, run.sums_file.name]
    assert {"config.json", "vocabulary.json", "model.keras", "metrics.json", "test_tokens.npy"} <= set(names)
    rng = random.Random(0)
    for name in names:
        for offset in (0, -1, *(rng.randrange((run.path / name).stat().st_size) for _ in range(4))):
            copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
            flipped(copy / name, offset)
            with pytest.raises(UsageError, match=rf"{name}|checksums.json"):
                Run.open(copy)
            shutil.rmtree(copy)


HOLDING = """
import time
from pathlib import Path
from seqapp.lock import held
with held(Path("run"), "--run"):
    print("held", flush=True)
    time.sleep(99)
"""


def test_two_processes_do_not_train_one_run(text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = ["--data", str(text_file), *SMALL, "--run", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDING]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        capsys.readouterr()
        assert seqapp.train.main(begin) == 2
        assert f"{tmp_path / 'run'} is in use by process {other.pid} on " in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        other.kill()
    assert seqapp.train.main(begin) == 0, "a lock of a process that was killed keeps nobody out"
    assert not list(tmp_path.glob(".lock-*"))
