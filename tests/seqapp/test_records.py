"""What a training leaves for people to look at."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from seqapp.records import write_history, write_scalars, write_tensorboard
from seqapp.run import Run
from tests.training import scalars

ROWS = [
    {"epoch": 1, "windows": 10, "validation_nats": 2.5, "tokens_per_second": 100.0},
    {"epoch": 2, "windows": 10, "validation_nats": 2.0, "tokens_per_second": 90.0},
]
CURVE = [{"step": 5, "training_nats": 3.0}, {"step": 10, "training_nats": 2.75}, {"step": 15, "training_nats": 2.25}]


def test_tensorboard_reads_the_figures_of_all_epochs_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for _ in range(2):  # the second time as a training that was resumed before this epoch
        write_tensorboard(run, 10, ROWS[0], CURVE[:2])
    write_tensorboard(run, 20, ROWS[1], CURVE)
    assert scalars(tmp_path / "logs") == {
        "training_nats": [(5, 3.0), (10, 2.75), (15, 2.25)],
        "validation_nats": [(10, 2.5), (20, 2.0)],
        "tokens_per_second": [(10, 100.0), (20, 90.0)],
    }


def test_other_figures_of_an_epoch_are_a_file_of_their_own(tmp_path: Path) -> None:
    write_scalars(tmp_path, 3, "flow", [("horizon", 7.0, 3)])
    write_scalars(tmp_path, 3, "loss", [("nats", 1.5, 2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events.out.tfevents.0000000003.flow",
        "events.out.tfevents.0000000003.loss",
    ]
    assert scalars(tmp_path) == {"horizon": [(3, 7.0)], "nats": [(2, 1.5)]}


def test_what_cannot_be_written_is_an_error_of_files(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    with pytest.raises(OSError):
        write_scalars(tmp_path / "logs", 3, "loss", [("nats", 1.5, 2)])


def test_history(tmp_path: Path) -> None:
    write_history(Run(tmp_path), ROWS)
    with (tmp_path / "history.csv").open(encoding="utf-8") as file:
        assert [row["validation_nats"] for row in csv.DictReader(file)] == ["2.5", "2.0"]
