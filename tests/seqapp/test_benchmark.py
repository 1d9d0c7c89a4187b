"""The benchmark of training: its table, its curve, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest

from seqapp import benchmark, contenders
from seqapp.cells import CELLS

TINY = ["--units", "4", "--batch-size", "2", "--timesteps", "6", "--embedding", "3", "--vocabulary", "5", "--repeats", "1"]


def test_each_contender_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*TINY, "--cells", "lstm", "mingru", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    rows = [tuple(part.strip() for part in line.split("|")[1:-1]) for line in out.splitlines() if line.startswith("| ")][1:]
    named = [(cell, label, name) for cell, label, name, *_ in rows if name != contenders.TORCH]
    assert named == [
        ("lstm", "layer", "seqapp"),
        ("lstm", "layer", "Keras"),
        ("lstm", "layer", "matrix products alone"),
        ("lstm", "training step", "seqapp"),
        ("lstm", "training step", "Keras"),
        ("mingru", "layer", "seqapp"),
        ("mingru", "training step", "seqapp"),
    ]
    for _, _, name, milliseconds, tokens, ratio in rows:
        # Rounded to a tenth of a millisecond.
        assert float(milliseconds) == pytest.approx(12 / float(tokens.replace(",", "")) * 1e3, abs=0.06)
        assert bool(re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)", ratio)) == (name != "seqapp")
    assert ("PyTorch" in out) == contenders.has_torch()


def test_the_curve_of_a_parallel_cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BATCHES", (1, 2))
    monkeypatch.setattr(benchmark, "SPAN", (0.5, 1))
    assert benchmark.main([*TINY, "--timesteps", "32", "--parallel", "mingru"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mingru of 16 units beside an LSTM of 4, as many parameters; 32 timesteps")
    assert [line.split("|")[1].strip() for line in out.splitlines() if re.match(r"\| \d", line)] == ["1", "2", "16", "32"]
    assert re.search(r"log-log slope of time over length: -?\d\.\d\d$", out.strip())


def test_sequences_of_many_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([*TINY, "--lengths", "--cells", "lstm", "mingru", "--steps", "4"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if re.match(r"\| [lm]", line)]
    assert [row[0].strip() for row in rows] == ["lstm", "mingru"]
    for _, fixed, variable, ratio in rows:
        one, other = (float(number.replace(",", "")) for number in (fixed, variable))
        # All three are rounded.
        assert (one - 0.5) / (other + 0.5) - 0.006 < float(ratio.split()[0]) < (one + 0.5) / (other - 0.5) + 0.006


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


def test_contenders_take_turns() -> None:
    calls: list[tuple[str, int]] = []
    works = {name: lambda times, name=name: calls.append((name, times)) for name in "ab"}
    times = benchmark.race(works, 2, 5, "")
    assert calls == [("a", 5), ("b", 5)] * 3
    assert all(part.shape == (2,) and (part > 0).all() for part in times.values())


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
