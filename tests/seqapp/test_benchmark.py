"""The benchmark of training: its table, its curve, and what it refuses."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

from seqapp import backend, benchmark, contenders
from seqapp.cells import CELLS

TINY = ["--units", "4", "--batch-size", "2", "--timesteps", "6", "--embedding", "3", "--vocabulary", "5", "--repeats", "1"]

# Contenders that are there where PyTorch is, or a processor with bfloat16.
OPTIONAL = (contenders.TORCH, contenders.ROUNDED)


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each work is done; it is said to have taken 4 ms if it is the first, some 8 and 16 ms if the next, in three rounds."""

    def race(works: dict[str, contenders.Work], repeats: int, steps: int, label: str) -> dict[str, np.ndarray]:
        for work in works.values():
            work(steps)
        rounds = np.array([0.5, 1, 2])
        ordered = sorted(works, key=lambda name: name in OPTIONAL)
        return {name: 0.004 * 2**i * (rounds if i else np.ones(3)) for i, name in enumerate(ordered)}

    monkeypatch.setattr(benchmark, "race", race)


@pytest.mark.usefixtures("known_times")
def test_each_contender_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*TINY, "--cells", "lstm", "mingru", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if row.split(" | ")[2] not in OPTIONAL] == [
        "| lstm | layer | seqapp | 4.0 | 3,000 |  |",
        "| lstm | layer | Keras | 8.0 | 1,500 | 0.50 (0.38-0.75) |",
        "| lstm | layer | matrix products alone | 16.0 | 750 | 0.25 (0.19-0.38) |",
        "| lstm | training step | seqapp | 4.0 | 3,000 |  |",
        "| lstm | training step | Keras | 8.0 | 1,500 | 0.50 (0.38-0.75) |",
        "| mingru | layer | seqapp | 4.0 | 3,000 |  |",
        "| mingru | training step | seqapp | 4.0 | 3,000 |  |",
    ]
    assert (contenders.TORCH in out, contenders.ROUNDED in out) == (contenders.has_torch(), backend.has_bfloat16())


@pytest.mark.usefixtures("known_times")
def test_the_curve_of_a_parallel_cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BATCHES", (1, 2))
    monkeypatch.setattr(benchmark, "SPAN", (0.5, 1))
    assert benchmark.main([*TINY, "--timesteps", "32", "--parallel", "mingru"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mingru of 16 units beside an LSTM of 4, as many parameters; 32 timesteps")
    assert [line for line in out.splitlines() if re.match(r"\| \d", line)] == [
        "| 1 | 8,000 | 4,000 | 2.0 (1.5-3.0) |",
        "| 2 | 16,000 | 8,000 | 2.0 (1.5-3.0) |",
        "| 16 | 4.0 |",
        "| 32 | 8.0 |",
    ]
    assert out.endswith("log-log slope of time over length: 1.00\n")


@pytest.mark.usefixtures("known_times")
def test_sequences_of_many_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*TINY, "--lengths", "--cells", "lstm", "mingru", "--steps", "4"]) == 0
    # 48 timesteps in 4 ms beside 21, of sequences of all lengths, in 8 ms.
    assert [line for line in capsys.readouterr().out.splitlines() if re.match(r"\| [lm]", line)] == [
        "| lstm | 12,000 | 2,625 | 4.57 (3.43-6.86) |",
        "| mingru | 12,000 | 2,625 | 4.57 (3.43-6.86) |",
    ]


def test_each_timestep_that_is_learnt_from_is_counted() -> None:
    made = contenders.fits_of("gru", contenders.Shape(4, 20, 3, 5, 7), 6)
    (_, fixed), (work, variable) = made[contenders.FIXED], made[contenders.VARIABLE]
    study = work.args[0]
    lengths = study.parts["train"].lengths
    assert fixed == 4 * 6 * 20
    assert variable == lengths.sum() == sum(int(x[1].sum()) for x, *_ in study.batches(0, 0).as_numpy_iterator())
    assert lengths.min() >= 2
    assert lengths.max() <= 20
    assert len(set(lengths.tolist())) > 5


@pytest.mark.parametrize("cell", [name for name in CELLS if name != "lstm"])
def test_equal_units_are_the_most_that_have_no_more_parameters(cell: str) -> None:
    shape = contenders.Shape(1, 1, 7, 20, 5)

    def parameters(name: str, units: int) -> int:
        made = CELLS[name](units)
        made.build((None, 7))
        return int(made.count_params())

    units = benchmark.equal_units(cell, shape)
    assert parameters(cell, units) <= parameters("lstm", 20) < parameters(cell, units + 1)


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    calls: list[tuple[str, int]] = []
    works = {name: lambda times, name=name: calls.append((name, times)) for name in "ab"}
    times = benchmark.race(works, 2, 5, "")
    assert calls == [("a", 5), ("b", 5)] * 3
    for part in times.values():
        np.testing.assert_array_equal(part, [1 / 5, 1 / 5])


def test_streams_go_on_where_their_inputs_were() -> None:
    shape = contenders.Shape(4, 6, 3, 5, 7)
    inputs, targets = shape.streams(2)
    assert inputs.shape == targets.shape == (8, 6)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lengths", "--parallel", "lru"], "two benchmarks: leave one out"),
        (["--units", "0"], "--units must be at least 1. Received: 0"),
        (["--cells", "gruu"], "A cell must be one of plain, lstm, gru.* Received: gruu"),
        (
            ["--parallel", "gru"],
            "--parallel needs a cell that learns many timesteps at once: mingru, minlstm, lru, attention. Received: gru",
        ),
    ],
)
def test_what_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(flags) == 2
    assert re.search(message, capsys.readouterr().err)
