"""`python -m seqapp.predict`: rows of what a run says of lines, series and arrays."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqapp.classify import Coder, classified_by
from seqapp.errors import UsageError
from seqapp.predict import Prediction, _write_json, _write_rows, main, text_of
from seqapp.run import Run
from seqapp.step import KerasStepper, log_softmax

Runs = Callable[..., Run]
Say = Callable[..., list[list[str]]]
SOME = [
    Prediction('a\ttext\nof "lines" \x0b', "yes", "no", 0.98765, (("no", 0.98765), ("yes", 0.01235))),
    Prediction("ünïcode", None, "yes", 0.5, (("yes", 0.5), ("no", 0.5))),
]


def test_rows() -> None:
    stream = io.StringIO()
    _write_rows(stream, SOME)
    assert stream.getvalue() == (
        'input\treference\tprediction\tscore\na text of "lines"\tyes\tno\t0.9877\nünïcode\t\tyes\t0.5000\n'
    )


def test_rows_without_references() -> None:
    stream = io.StringIO()
    _write_rows(stream, SOME[1:])
    assert stream.getvalue() == "input\tprediction\tscore\nünïcode\tyes\t0.5000\n"


def test_json_lines() -> None:
    stream = io.StringIO()
    _write_json(stream, SOME)
    one, other = map(json.loads, stream.getvalue().splitlines())
    assert one["input"] == SOME[0].input
    assert other == {
        "input": "ünïcode",
        "reference": None,
        "prediction": "yes",
        "score": 0.5,
        "likely": [["yes", 0.5], ["no", 0.5]],
    }
    assert "ünïcode" in stream.getvalue()


class Stdin:
    """Standard input of these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_text_of_a_file_and_of_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert text_of(str(tmp_path / "a.txt")) == ("one\ntwo", "a.txt")
    monkeypatch.setattr(sys, "stdin", Stdin(b"one\r\n"))
    assert text_of("-") == ("one\n", "standard input")
    for content, words in (
        (b"", "standard input is empty"),
        (b"\0", "standard input is a binary file"),
        (b"\xff", "not UTF-8"),
    ):
        monkeypatch.setattr(sys, "stdin", Stdin(content))
        with pytest.raises(UsageError, match=words):
            text_of("-")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs the command and returns the rows that it writes, without their heading, after a check of it."""

    def say(run: Run, *flags: str, columns: str = "input prediction score") -> list[list[str]]:
        capsys.readouterr()
        assert main([str(run.path), *flags]) == 0
        heading, *rows = capsys.readouterr().out.splitlines()
        assert heading.split("\t") == columns.split()
        return [row.split("\t") for row in rows]

    return say


def refused(run: Run, capsys: pytest.CaptureFixture[str], flags: list[str], *parts: str) -> None:
    """One plain line on standard error, exit status 2, nothing on standard output."""
    capsys.readouterr()
    assert main([str(run.path), *flags]) == 2
    out, err = capsys.readouterr()
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert out == "" and "Traceback" not in err
    for part in parts:
        assert part in error


def probabilities(run: Run, x: Any) -> Any:
    logits = classified_by(run.load_model())(x[None], np.array([len(x)], np.int32))[0]
    return np.exp(log_softmax(logits.astype(np.float64)))


def test_texts(classified: Runs, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, texts = classified("talk"), ["Are they late tonight?", "No, they are not late now.", "zebra"]
    coder = Coder.load(run.path)
    monkeypatch.setattr(sys, "stdin", Stdin("\n".join(texts).encode()))
    found = say(run)
    assert [row[0] for row in found] == texts
    for text, (_, name, score) in zip(texts, found, strict=True):
        assert coder.vocabulary is not None
        p = probabilities(run, np.array(coder.vocabulary.encode_whole(text), np.int32))
        assert (name, score) == (coder.classes[p.argmax()], f"{p.max():.4f}")
    assert found[0][1] == "question" != found[1][1]
    (tmp_path / "talk.tsv").write_text("question\tAre they late tonight?\nNo, they are not late now.\nother\tzebra\n")
    more = say(run, "--input", str(tmp_path / "talk.tsv"), columns="input reference prediction score")
    assert [row[1] for row in more] == ["question", "", "other"]
    assert [[row[0], *row[2:]] for row in more] == found


def test_json_and_a_file(classified: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, source, target = classified("talk"), tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("question\tAre they late?\n")
    target.write_text("old")
    capsys.readouterr()
    assert main([str(run.path), "--input", str(source), "--json", "--output", str(target)]) == 0
    assert capsys.readouterr().out == ""
    (row,) = map(json.loads, target.read_text("utf-8").splitlines())
    assert (row["input"], row["reference"], row["prediction"]) == ("Are they late?", "question", row["likely"][0][0])
    assert [p for _, p in row["likely"]] == sorted((p for _, p in row["likely"]), reverse=True)
    assert sum(p for _, p in row["likely"]) == pytest.approx(1)
    assert row["score"] == row["likely"][0][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]


def test_series(classified: Runs, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = classified("trend")
    monkeypatch.setattr(sys, "stdin", Stdin(b"rise,5000,5600,6400,7000\n,5000,4400,3600,2800\n"))
    found = say(run, columns="input reference prediction score")
    assert [row[0] for row in found] == ["standard input, row 1", "standard input, row 2"]
    assert [row[1] for row in found] == ["rise", ""]
    x = [np.array([[5000], [5600], [6400], [7000]], np.float32), np.array([[5000], [4400], [3600], [2800]], np.float32)]
    for row, series in zip(found, x, strict=True):
        p = probabilities(run, series)
        assert row[2:] == [("fall", "rise")[p.argmax()], f"{p.max():.4f}"]
    np.savez(tmp_path / "x.npz", x=np.stack(x))
    arrays = say(run, "--input", str(tmp_path / "x.npz"))
    assert arrays == [[f"x.npz, x[{i}]", *row[2:]] for i, row in enumerate(found)]


def test_a_label_for_each_timestep(classified: Runs, labelled_files: dict[str, Path], say: Say) -> None:
    run, data = classified("sums"), np.load(labelled_files["sums"])
    found = say(run, "--input", str(labelled_files["sums"]), columns="input reference prediction score")
    for row, x, y, length in zip(found[:3], data["x"], data["y"], data["lengths"], strict=False):
        p = probabilities(run, x[:length])
        assert row[1] == " ".join(y[:length])
        assert row[2].split(" ") == [("above", "below")[i] for i in p.argmax(-1)]
        assert row[3] == f"{p[-1].max():.4f}"


def test_the_next_word(trained: Runs, say: Say, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run, lines = trained(), ["Are they", "Yes, i am"]
    vocabulary, model = run.vocabulary, KerasStepper(run.load_model())
    monkeypatch.setattr(sys, "stdin", Stdin("\n\n".join(lines).encode()))
    for line, (text, word, score) in zip(lines, say(run), strict=True):
        numbers = vocabulary.numbers([vocabulary.end, *vocabulary.prompt(line)])
        logits, _ = model.sequence(np.array([numbers], np.int32), model.initial_states(1))
        p = np.exp(log_softmax(logits[0, -1].astype(np.float64)))
        best = max((i for i in range(len(p)) if i != vocabulary.unknown_number), key=lambda i: p[i])
        assert (text, word, score) == (line, vocabulary.tokens[best], f"{p[best]:.4f}")
    monkeypatch.setattr(sys, "stdin", Stdin(b"Are they\tlate today\nYes, i am"))
    found = say(run, columns="input reference prediction score")
    assert [row[:2] for row in found] == [["Are they", "late today"], ["Yes, i am", ""]]
    monkeypatch.setattr(sys, "stdin", Stdin(b"Are they"))
    capsys.readouterr()
    assert main([str(run.path), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["likely"]) == 5 and "<unk>" not in dict(row["likely"])


def test_inputs_that_are_refused(
    classified: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, series = classified("talk"), classified("trend")
    source, target = tmp_path / "in.tsv", tmp_path / "out.tsv"
    for run, content, parts in (
        (texts, b"", ("in.tsv is empty",)),
        (texts, b"\0\1", ("in.tsv is a binary file",)),
        (texts, b"a\tb\tc\n", ("in.tsv, line 1 has 3 columns",)),
        (texts, b"fine\na\t \n", ("in.tsv, line 2 has an empty text",)),
        (series, b"Are they late, today?\n", ("in.tsv, row 1, column 2 should be a finite number", "' today?'".strip("' "))),
        (series, b"fall,1,nan\n", ("in.tsv, row 1, column 3", "'nan'")),
        (series, b"label,v1\n", ("holds no input", "give a line for each")),
    ):
        source.write_bytes(content)
        refused(run, capsys, ["--input", str(source), "--output", str(target)], *parts)
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3)))
    refused(
        texts, capsys, ["--input", str(tmp_path / "x.npz"), "--output", str(target)], "x[0] is a series of 1", "were a text"
    )
    refused(texts, capsys, ["--input", str(tmp_path / "none.tsv")], "none.tsv cannot be read")
    monkeypatch.setattr(sys, "stdin", Stdin(b" \n"))
    refused(texts, capsys, [], "standard input is empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tsv", "x.npz"]


def test_outputs_that_are_refused(classified: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = classified("talk")
    refused(run, capsys, ["--output", str(tmp_path)], "is a directory", "--output")
    refused(run, capsys, ["--output", str(tmp_path / "none" / "out.tsv")], "There is no folder", "--output")
    assert not list(tmp_path.iterdir())
