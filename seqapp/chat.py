"""A talk with a trained run: a line in, the next turn out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from seqapp.config import TASKS
from seqapp.errors import UsageError
from seqapp.generate import Wish
from seqapp.next_token import LENGTHS, say_unknown
from seqapp.run import Run
from seqapp.step import KerasStepper
from seqapp.stream import Stream, turn_of
from seqapp.tasks import task_of


def partner(run: Run, wish: Wish) -> Callable[[Any], Iterator[str]]:
    """What answers each line of standard input by a line, as a function of the trained model; an empty line lets it speak.

    Raises:
        UsageError: the run is not one of text; while it answers, a line is not UTF-8.
    """
    if task_of(run.config.task).layout != "text":
        raise UsageError(
            f"--chat is for the tasks {' and '.join(TASKS[:2])}: leave it out. Received: a run of the task {run.config.task}"
        )
    vocabulary = run.vocabulary
    length = wish.length or LENGTHS[vocabulary.unit]

    def answers(model: Any) -> Iterator[str]:
        stream, rng = Stream(KerasStepper(model), vocabulary), wish.rng
        for line in lines():
            say_unknown(vocabulary, vocabulary.prompt(turn_of(line, vocabulary.symbols)))
            yield stream.answered(line, length, wish.sampling, rng).replace("\n", " ")

    return answers


def lines() -> Iterator[str]:
    """The lines of standard input, as they come; on a terminal each is asked for.

    Raises:
        UsageError: a line is not UTF-8.
    """
    if sys.stdin.isatty():
        try:
            while True:
                yield input("> ")
        except EOFError:
            print()
            return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"standard input, line {number} is not UTF-8 (byte {error.start} is 0x{line[error.start]:02x}): "
                "convert it, for instance with `iconv -f ISO-8859-1 -t UTF-8`."
            ) from None
