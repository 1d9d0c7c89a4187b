"""How well the next frames of piano rolls are foretold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqapp.pieces import Array, draw, told_before
from seqapp.report import Report
from seqapp.run import replacing
from seqapp.scoring import Metrics, Scores

SHOWN = 96  # frames in the picture


def log_likelihood(logits: Array, roll: Array) -> Array:
    """Of each frame (T,), in nats: keys (T, 88) that sound independently of one another, given what came before."""
    return -(np.logaddexp(0, logits) - roll * logits).sum(-1)


def of_frame(logits: Array, rolls: Array) -> Scores:
    """Log-likelihood (B, T) of frames (B, T, 88), and 0 where each key is likelier to do as it does than not, else 1."""
    logits = logits.astype(np.float64)
    return log_likelihood(logits, rolls), ((logits > 0) != (rolls > 0)).any(-1).astype(np.int64)


def figures(logits: Sequence[Array], rolls: Sequence[Array]) -> Metrics:
    """Of logits for all frames of each piece, the first one included.

    `nll_per_frame` is that of Boulanger-Lewandowski et al. (2012, arXiv:1206.6392); `frame_accuracy` the notes that are right
    over those that are right, wrong or missing, where a key sounds that is more likely to than not (Bay et al. 2009).
    """
    logs = np.concatenate([log_likelihood(*pair) for pair in zip(logits, rolls, strict=True)])
    told, there = (np.concatenate([np.asarray(x) > 0 for x in part]) for part in (logits, rolls))
    either = int((told | there).sum())
    return {
        "nll_per_frame": {"value": -float(logs.mean()), "unit": "nats", "count": len(logs)},
        "frame_accuracy": {"value": float((told & there).sum() / max(either, 1)), "unit": "fraction", "count": either},
    }


def baselines(train: Sequence[Array], rolls: Sequence[Array]) -> dict[str, Metrics]:
    """How often each key sounds, and how often it does after a frame with and without it: counts, one added to each."""
    often = how_often(train)
    before, after = (np.concatenate([roll[part] for roll in train]).astype(np.float64) for part in (slice(-1), slice(1, None)))
    held, struck = _logit((before * after).sum(0), before.sum(0)), _logit(((1 - before) * after).sum(0), (1 - before).sum(0))
    from_last = [np.where(told_before(roll) > 0, held, struck) for roll in rolls]
    return {
        "each_key": figures([np.tile(often, (len(roll), 1)) for roll in rolls], rolls),
        "last_frame": figures(from_last, rolls),
    }


def how_often(rolls: Sequence[Array]) -> Array:
    """The logit (88,) of how often each key sounds."""
    whole = np.concatenate(rolls).astype(np.float64)
    return np.asarray(_logit(whole.sum(0), len(whole)))


def _logit(count: Any, total: Any) -> Any:
    return np.log((count + 1) / (total - count + 1))


@dataclass(frozen=True)
class RollReport(Report):
    """The figures of one held-out part, of the model and of its baselines; `shown` are a piece and what was foretold of it."""

    loss = "nll_per_frame"
    shown: tuple[Array, Array]
    frame: float

    def table(self, name: str) -> str:
        mine = self.mine
        lines = [f"{self.part}, {mine['nll_per_frame']['count']:,} frames", f"{'':16}{'nats a frame':>16}{'accuracy':>12}"]
        for label, row in {name: mine, **self.baselines}.items():
            nats, accuracy = (row[key]["value"] for key in ("nll_per_frame", "frame_accuracy"))
            lines.append(f"{label.replace('_', '-'):16}{nats:16.3f}{accuracy:12.1%}")
        lines.append(self.nats_below_best())
        return "\n".join(lines)

    def draw(self, folder: Path) -> None:
        """roll.png: the beginning of a held-out piece, and how likely each key was told to sound."""
        roll, logits = (array[:SHOWN] for array in self.shown)
        likely = 1 / (1 + np.exp(-logits))
        with replacing(folder / "roll.png") as temporary:
            draw([("the piece", roll), ("how likely each key was, from what came before", likely)], self.frame, temporary)
