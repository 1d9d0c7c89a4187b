"""Tasks that tell how far back a model remembers: their sequences are drawn at random, all of one length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import numpy as np

from seqapp.classify import Array, Classified, classified_by
from seqapp.config import Config, ModelConfig
from seqapp.errors import UsageError
from seqapp.generate import Wish, nothing_to_generate
from seqapp.report import Report
from seqapp.run import Run
from seqapp.sequences import Sequences, load_part
from seqapp.study import Study

# What a generator of a part starts from, the same for all seeds of a training. The fourth number keeps them apart from an
# epoch's batches, which start from three.
HELD_OUT = {"validation": (0, 0, 0, 1), "test": (0, 0, 0, 2)}


class Drawn(ABC):
    """See `seqapp.tasks.Task`; the data are sequences and what is asked of each.

    Attributes:
        unit: of the loss, for people.
    """

    default_data = "sequences drawn at random"
    unit: ClassVar[str]

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int, length: int) -> tuple[Array, Array]:
        """So many sequences of the length T that the settings name (B, ...), and what is asked of each (B,) or (B, ...)."""

    @abstractmethod
    def learner(self, config: ModelConfig, length: int) -> tuple[Any, Any]:
        """A `Classifier` with new weights, and the Keras loss that it minimizes; loads TensorFlow.

        Raises:
            UsageError: its cell does not exist or cannot be made.
        """

    @abstractmethod
    def report(self, classified: Classified, parts: dict[str, Sequences], part: str) -> Report:
        """Scores `part` and the validation part, beside the baselines on `part`."""

    def save(self, run: Run) -> None:  # noqa: B027 - sequences of numbers need nothing more
        """Writes what evaluation and export need beside the model and the parts."""

    def check_data(self, config: Config) -> None:
        refuse_data(config.data.data, config.task)
        held_out_counts(config)

    def study(self, config: Config) -> Study:
        from seqapp.drawn_study import DrawnStudy

        return DrawnStudy(self, config)

    def evaluation(self, run: Run, data: str | None) -> Callable[[Any], Report]:
        refuse_data(data, run.config.task)
        parts = {name: load_part(run.path, name) for name in dict.fromkeys(("validation", run.held_out))}
        return lambda model: self.report(classified_by(model), parts, run.held_out)

    def generator(self, run: Run, wish: Wish) -> NoReturn:
        nothing_to_generate(run)

    def held_out(self, config: Config) -> dict[str, Sequences]:
        """The sequences that a run is measured on."""
        length = config.long_range.length
        drawn = {
            name: self.draw(np.random.default_rng(HELD_OUT[name]), count, length)
            for name, count in held_out_counts(config).items()
        }
        return {name: Sequences(list(x), list(y)) for name, (x, y) in drawn.items()}


def refuse_data(data: str | None, task: str) -> None:
    if data is not None:
        raise UsageError(f"The task {task} draws its sequences at random: leave --data out. Received: {data}")


def held_out_counts(config: Config) -> dict[str, int]:
    """How many sequences each held-out part has; there is no test part where its fraction is 0.

    Raises:
        UsageError: a part would be empty.
    """
    d, examples = config.data, config.long_range.examples
    fractions = {"validation": d.validation_fraction, **({"test": d.test_fraction} if d.test_fraction else {})}
    counts = {name: round(fraction * examples) for name, fraction in fractions.items()}
    for name, count in counts.items():
        if not count:
            raise UsageError(
                f"The {name} part would be empty: raise --{name}-fraction or --examples. "
                f"Received: {fractions[name]} of {examples}"
            )
    return counts
