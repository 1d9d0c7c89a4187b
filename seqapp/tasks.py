"""The tasks: all that is special to one, how its data are read, learned and measured, is behind its name here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from seqapp.adding import Adding
from seqapp.classify import Classify
from seqapp.config import NOTHING, Config
from seqapp.copy_memory import CopyMemory
from seqapp.digits import Digits
from seqapp.errors import UsageError
from seqapp.forecast import Forecast
from seqapp.generate import Wish
from seqapp.next_note import NextNote
from seqapp.next_token import NextToken
from seqapp.predict import Prediction
from seqapp.report import Report
from seqapp.run import Run
from seqapp.study import Study
from seqapp.translate import Translate


class Task(Protocol):
    """A kind of sequence and what is asked of it. Nothing here loads TensorFlow but where it says so.

    Attributes:
        layout: what its runs hold, of which the export makes a bundle: text, classes, series, music, pairs or values.
        default_data: what it learns from where no data are given, for people.
    """

    layout: str
    default_data: str

    def defaults(self, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
        """The settings that suit data that people bring, or the default data, beside what is chosen of the task's own."""

    def check_data(self, config: Config) -> None:
        """Refuses data that cannot be read, and missing packages, before TensorFlow is loaded.

        Raises:
            UsageError: what is wrong with them, and where.
        """

    def study(self, config: Config) -> Study:
        """The data and a model with new weights; loads TensorFlow.

        Raises:
            UsageError: the data do not suffice, or the model cannot be built.
        """

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], Report]:
        """What `evaluate` measures, the held-out part of the run or `data`: a function of the trained model to a `Report`.

        Raises:
            UsageError: the data cannot be read, or do not fit the run.
        """

    def predictor(self, run: Run, source: str) -> Callable[[Any], list[Prediction]]:
        """What `predict` answers for the inputs in a file, or on standard input: a function of the trained model.

        Raises:
            UsageError: they cannot be read, or do not fit the run.
        """

    def generator(self, run: Run, wish: Wish) -> Callable[[Any], str]:
        """What `generate` makes and prints: a function of the trained model.

        Raises:
            UsageError: the task generates nothing, or the wish does not fit it.
        """


TASKS: dict[str, Task] = {
    "next-word": NextToken("word"),
    "next-character": NextToken("character"),
    "next-note": NextNote(),
    "classify": Classify(),
    "forecast": Forecast(),
    "translate": Translate(),
    "adding": Adding(),
    "copy-memory": CopyMemory(),
    "digits": Digits(),
}


def task_of(name: str) -> Task:
    """A task by its name; one of the user's own by `package.module:Class`, whose module was imported.

    Raises:
        UsageError: there is none.
    """
    if name in TASKS:
        return TASKS[name]
    module, _, kind = name.partition(":")
    made = getattr(sys.modules.get(module), kind, None)
    needed = [name for name, value in vars(Task).items() if callable(value) and not name.startswith("_")]
    # A file may name any function, to be called.
    if not (isinstance(made, type) and all(hasattr(made, name) for name in needed)):
        raise UsageError(
            f"There is no task {name}: name a class as package.module:Class, and its module with --import {module}."
        )
    return cast(Task, made())
