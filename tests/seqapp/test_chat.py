"""`generate --chat`, as it is typed and piped."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqapp.generate
from seqapp.decoding import Sampling
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.stream import Stream

Say = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """The command with lines on standard input: its status, the lines of its answers, and standard error."""

    def run(run: Run, said: bytes, *flags: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said)))
        capsys.readouterr()
        status = seqapp.generate.main([str(run.path), "--chat", *flags])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def test_each_line_is_answered_by_one(talked: Run, say: Say) -> None:
    status, answers, err = say(talked, b"Are they late now?\r\n\nIs she <TURN> xylophone?\nlast", "--seed", "3")
    assert status == 0 and len(answers) == 4 and all(answers)
    assert not any("<" in answer for answer in answers)
    assert "not in the vocabulary, read as <unk>: < turn > xylophone" in err
    stream, rng = Stream(KerasStepper(talked.load_model()), talked.vocabulary), np.random.default_rng(3)
    said = ["Are they late now?", "", "Is she < turn> xylophone?", "last"]
    assert answers == [stream.answered(line, 40, Sampling(0.8), rng).replace("\n", " ") for line in said]
    # The turns before are remembered: what comes next is not what comes after the last alone.
    alone = Stream(KerasStepper(talked.load_model()), talked.vocabulary)
    alone.answered("last", 40, Sampling(0.8), np.random.default_rng(3))
    assert np.abs(stream.next_logits() - alone.next_logits()).max() > 1e-3


def test_its_flags(talked: Run, say: Say) -> None:
    line = b"Are they late now?\n"
    greedy = say(talked, line, "--temperature", "0")[1]
    assert greedy == say(talked, line, "--top-k", "1")[1] == say(talked, line, "--top-p", "0.0001")[1]
    assert greedy[0].startswith(("yes, ", "no, "))
    assert len(say(talked, line, "--length", "1")[1][0].split()) == 1
    assert say(talked, line * 3, "--seed", "1") == say(talked, line * 3, "--seed", "1")


def test_nothing_said(talked: Run, say: Say) -> None:
    assert say(talked, b"")[:2] == (0, [])


def test_what_is_refused(
    talked: Run, say: Say, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, answers, err = say(talked, "Are they late?\nCaf\u00e9\n".encode("latin-1"))
    assert (status, len(answers)) == (2, 1)
    assert "error: standard input, line 2 is not UTF-8 (byte 3 is 0xe9): convert it" in err
    monkeypatch.setattr("seqapp.generate.need_keras", lambda _: pytest.fail("TensorFlow is not needed for that"))
    for flags in (["--beam", "2"], ["--prompt", "how"], ["--output", "a.mid"]):
        status, answers, err = say(talked, b"", *flags)
        assert (status, answers) == (2, [])
        assert err == "error: --chat draws an answer to each line that it reads: leave out --beam, --prompt and --output.\n"
    for task in ("next-note", "classify", "forecast", "translate", "adding", "copy-memory", "digits"):
        (tmp_path / "config.json").write_text(f'{{"task": "{task}"}}')
        (tmp_path / "model.keras").touch()
        assert seqapp.generate.main([str(tmp_path), "--chat"]) == 2
        assert capsys.readouterr().err == (
            f"error: --chat is for the tasks next-word and next-character: leave it out. Received: a run of the task {task}\n"
        )


class Slow(io.BytesIO):
    """Says its second line only when the first has been answered, and is then interrupted."""

    def __init__(self, out: Callable[[], str]) -> None:
        super().__init__()
        self.out = out

    def __iter__(self) -> Iterator[Any]:
        yield b"Are they late now?\n"
        assert self.out().count("\n") == 1
        raise KeyboardInterrupt


def test_answers_come_at_once_and_it_can_be_interrupted(
    talked: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Slow(lambda: capsys.readouterr().out)))
    assert seqapp.generate.main([str(talked.path), "--chat"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_on_a_terminal_each_line_is_asked_for(
    talked: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, asked = ["Are they late now?", "Is she here?"], []

    def typed(prompt: str) -> str:
        asked.append(prompt)
        if not said:
            raise EOFError
        return said.pop(0)

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    capsys.readouterr()
    assert seqapp.generate.main([str(talked.path), "--chat"]) == 0
    assert asked == ["> "] * 3
    *answers, last = capsys.readouterr().out.split("\n")
    assert len([answer for answer in answers if answer]) == 2 and last == ""
