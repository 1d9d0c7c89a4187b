"""The turns of conversations, or the steps of recipes, in a stream of tokens: how well each is predicted, by its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from seqapp.run import replacing
from seqapp.scoring import Metrics, Tokens
from seqapp.vocabulary import Vocabulary

# Places in a document that are measured together, from 1, with what they are called.
PLACES = {"1": (1, 1), "2": (2, 2), "3_to_5": (3, 5), "6_to_10": (6, 10), "from_11": (11, math.inf)}
NOUNS = ("turn", "step")


@dataclass(frozen=True)
class Turns:
    """Which turn of its document each token of a stream belongs to (N,), from 1; 0 where to none; (0,) without turns.

    A turn is its symbol and all that follows, up to the next turn or document; `noun` is what people call it.
    """

    noun: str
    places: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, stream: Tokens) -> Self:
        """Those of a stream (N,); without symbols in the vocabulary, none."""
        if not vocabulary.symbols:
            return cls("", np.zeros(0, np.int64), 0)
        begin, *_, turn = vocabulary.symbol_numbers
        turns = np.cumsum(stream == turn)
        before = np.maximum.accumulate(np.where(stream == begin, turns, 0))
        return cls(vocabulary.symbols[-1].strip("<>"), turns - before, int(turns[-1]))

    def figures(self, logs: NDArray[np.float64]) -> Metrics:
        """Of the log-probabilities (N,) of the stream: nats per turn, over all its tokens, and perplexity by its place."""
        if not self.count:
            return {}
        nats = -float(logs[self.places > 0].sum()) / self.count
        found: Metrics = {f"nats_per_{self.noun}": {"value": nats, "unit": "nats", "count": self.count}}
        for name, (first, last) in PLACES.items():
            some = logs[(self.places >= first) & (self.places <= last)]
            if len(some):
                value = math.exp(min(-float(some.mean()), 700.0))
                found[f"perplexity_{self.noun}_{name}"] = {"value": value, "unit": "per token", "count": len(some)}
        return found


def noun_of(row: Mapping[str, Any]) -> str | None:
    """What the turns of some figures are called; None where there are none among them."""
    return next((noun for noun in NOUNS if f"nats_per_{noun}" in row), None)


def table(rows: Mapping[str, Metrics]) -> list[str]:
    """Lines for people, one for each row; none where the rows have no turns."""
    first, *_ = rows.values()
    if not (noun := noun_of(first)):
        return []
    places = [name for name in PLACES if f"perplexity_{noun}_{name}" in first]
    lines = [f"{first[f'nats_per_{noun}']['count']:,} {noun}s: nats of each, and perplexity by its place"]
    lines.append(f"{'':16}{f'nats a {noun}':>16}" + "".join(f"{name.replace('_', ' '):>10}" for name in places))
    for label, row in rows.items():
        values = [row[f"perplexity_{noun}_{name}"]["value"] for name in places]
        nats = row[f"nats_per_{noun}"]["value"]
        lines.append(f"{label.replace('_', '-'):16}{nats:16.3f}" + "".join(f"{value:10.2f}" for value in values))
    return lines


def draw(rows: Mapping[str, Metrics], folder: Path) -> None:
    """turns.png or steps.png: perplexity by the place of a turn, a line for each row; nothing where they have no turns."""
    first, *_ = rows.values()
    if not (noun := noun_of(first)):
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = [name for name in PLACES if f"perplexity_{noun}_{name}" in first]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for label, row in rows.items():
        axes.plot([row[f"perplexity_{noun}_{name}"]["value"] for name in places], marker="o", label=label.replace("_", "-"))
    axes.set_xticks(range(len(places)), [name.replace("_", " ") for name in places])
    axes.set(xlabel=f"{noun}, by its place in the document", ylabel="perplexity", yscale="log", title=f"By {noun}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with replacing(folder / f"{noun}s.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
