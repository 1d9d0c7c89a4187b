"""What a training is judged by: the figures of a held-out part, of the model and of its baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from seqapp.scoring import Metrics


@dataclass(frozen=True)
class Report(ABC):
    """The figures of each part that was measured, `part` the one that counts, and the baselines' figures on it.

    Attributes:
        loss: the figure that training minimizes.
    """

    part: str
    figures: dict[str, Metrics]
    baselines: dict[str, Metrics]
    loss: ClassVar[str]

    @property
    def mine(self) -> Metrics:
        """The model's figures on the part that counts."""
        return self.figures[self.part]

    @property
    def levels(self) -> dict[str, float]:
        """The loss of each baseline, by its name: the lines in the learning curve."""
        return {name: row[self.loss]["value"] for name, row in self.baselines.items()}

    def as_json(self) -> dict[str, Any]:
        """What metrics.json has of them."""
        return {**self.figures, "baselines": self.baselines}

    def strongest(self, figure: str, choose: Callable[..., str] = min) -> tuple[str, float]:
        """The baseline that is best by a figure, as people read its name, and its value."""
        name = choose(self.baselines, key=lambda name: float(self.baselines[name][figure]["value"]))
        return name.replace("_", "-"), float(self.baselines[name][figure]["value"])

    def nats_below_best(self) -> str:
        """How far the model's loss is below that of the best baseline, for people."""
        best, value = self.strongest(self.loss)
        below = value - float(self.mine[self.loss]["value"])
        return f"{abs(below):.3f} nats {'below' if below >= 0 else 'above'} {best}"

    @abstractmethod
    def table(self, name: str) -> str:
        """For people; `name` is what the model is called."""

    def draw(self, folder: Path) -> None:  # noqa: B027 - most reports have no picture but the learning curve
        """Writes pictures of them into the run directory, where there are some."""
