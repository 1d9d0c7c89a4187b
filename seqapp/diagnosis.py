"""What the gradient flow of a model means: how far back it learns from, and what would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seqapp.cell import SHORTEST_MEMORY
from seqapp.config import CELL_NAMES, Config
from seqapp.gradient_flow import Array, Flow
from seqapp.run import replacing
from seqapp.tasks import task_of

FAINT = 0.01  # of the gradient one timestep back: what is weaker is lost among what is nearer
LOUD = 100.0  # times that gradient
GROWTH = 3  # times a horizon
MANY = 0.1  # of the units
HELD = 200  # timesteps for which a plain cell was seen to learn from the identity; at 600 it diverged (BENCHMARKS.md)
WINDOWED = ("text", "music", "series")  # layouts of what is cut into windows to learn from
LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Diagnosis:
    """The layers of a model, and the settings that it was made with.

    Attributes:
        practised: the layers again after a practice with short sequences, where there was one. How a memory begins tells little
            of what a cell can make of it: under a GRU's gates it is shorter than under an LSTM's, and soon grows tenfold.
    """

    flows: Mapping[str, Flow]
    config: Config
    practised: Mapping[str, Flow] | None = None

    @property
    def windowed(self) -> bool:
        """Whether a sequence is a window of something longer, and not all there is."""
        return task_of(self.config.task).layout in WINDOWED

    @cached_property
    def gradient(self) -> Array:
        """‖∂loss/∂S‖ by the states of all layers (T,), 1 for those one timestep back."""
        return together(self.flows)

    @cached_property
    def later(self) -> Array | None:
        """The same after the practice."""
        return None if self.practised is None else together(self.practised)

    @property
    def timesteps(self) -> int:
        """Of the longest sequence."""
        return len(self.gradient)

    @property
    def horizon(self) -> int:
        """How many timesteps back the gradient is not faint."""
        return horizon(self.gradient)

    @property
    def later_horizon(self) -> int | None:
        """The same after the practice."""
        return None if self.later is None else horizon(self.later)

    @property
    def verdict(self) -> str:
        """Of the gradient: it explodes, reaches (the first timestep), grows, vanishes, or without a practice may be short."""
        now, grown = self.horizon, self.later_horizon
        if any(not np.isfinite(g).all() or g.max() > LOUD for g in (self.gradient, self.later) if g is not None):
            return "explodes"
        if grown is None:
            return "reaches" if now >= self.timesteps else "short"
        if grown >= self.timesteps:
            return "reaches"
        return "grows" if grown >= max(1, GROWTH * now) else "vanishes"

    @property
    def learns(self) -> bool | None:
        """Whether it will learn what asks for the first timestep of a sequence at its last; None where that is open."""
        return None if self.verdict == "short" else self.verdict in ("reaches", "grows")

    @property
    def explanation(self) -> str:
        h, later, t = self.horizon, self.later_horizon or 0, self.timesteps
        all_of = "a window" if self.windowed else "a sequence"
        return {
            "explodes": "The gradient explodes: on its way back it grows more than a hundredfold, and one step of training may "
            "undo all those before it.",
            "reaches": f"The gradient reaches the first of {t:,} timesteps: all of {all_of} can be learnt from.",
            "grows": f"The gradient grows: it is faint beyond {h:,} of {t:,} timesteps, and after a short practice beyond "
            f"{later:,}. It will learn from all of {all_of}, given time.",
            "short": f"The gradient is faint beyond {h:,} of {t:,} timesteps. Whether that grows while the model learns, "
            "--diagnose tells TensorBoard.",
            "vanishes": f"The gradient vanishes: it is faint beyond {h:,} of {t:,} timesteps, and after a short practice "
            f"beyond {later:,}. What lies further back will not be learnt.",
        }[self.verdict]

    def remedies(self) -> Iterator[str]:
        """What to change, each by the flags to do it with."""
        m, t = self.config.model, max(self.timesteps, SHORTEST_MEMORY)
        if self.verdict == "explodes":
            yield f"--learning-rate {self.config.training.learning_rate / 4:g}: each step of training is shorter"
            yield f"--clip-norm {self.config.training.clip_norm / 10:g}: an outlier among gradients counts for less"
            if m.initialization != "orthogonal":
                yield "--initialization orthogonal: a recurrent kernel that makes nothing longer"
        elif self.verdict in ("short", "vanishes") and m.cell == "plain":
            yield f"--cell gru --memory {t}: gates that begin to keep a state for up to {t} timesteps"
            if t <= HELD and (m.activation, m.initialization) != ("relu", "identity"):
                yield "--activation relu --initialization identity --learning-rate 0.001: states that stay as they are"
        elif self.verdict in ("short", "grows", "vanishes") and (m.memory or 0) < t and m.cell != "attention":
            gates = "gates that begin to keep a state for up to" if m.cell in CELL_NAMES else "a cell whose gates keep it for"
            yield f"{'' if m.cell in CELL_NAMES else '--cell gru '}--memory {t}: {gates} {t} timesteps"
        elif self.verdict == "reaches" and self.windowed and t >= self.config.training.bptt:
            yield f"--bptt {2 * t}: gradients go back as far as a window, and this one's may be of use further back"
        attends = m.attention or m.cell == "attention"
        if self.verdict in ("short", "grows", "vanishes") and not (attends or self.windowed or self.config.both_ways):
            yield "--attention: what each timestep put out is looked back at from the last, however far"
        for name, flow in self.flows.items():
            if flow.dead > MANY:
                yield f"--learning-rate {self.config.training.learning_rate / 4:g}: {flow.dead:.0%} of {name}'s units are dead"
            if flow.saturated > MANY:
                yield f"--weight-decay 0.01: {flow.saturated:.0%} of {name}'s units are saturated, and let no gradient through"

    def _gradients(self) -> Iterator[tuple[str, Array]]:
        yield "gradient", self.gradient
        if self.later is not None:
            yield "after practice", self.later

    def as_json(self) -> dict[str, Any]:
        """All figures; what is no number any more is null."""
        layers = {
            name: {**asdict(flow), "gradient": _numbers(flow.gradient), "radius": _numbers(np.array(flow.radius))}
            for name, flow in self.flows.items()
        }
        names = ("verdict", "learns", "horizon", "later_horizon", "timesteps", "explanation")
        told = {name: getattr(self, name) for name in names}
        return {**told, "remedies": list(self.remedies()), "gradient": _numbers(self.gradient), "layers": layers}

    def table(self) -> str:
        width = max(map(len, self.flows)) + 2
        lines = [f"{'':{width}}{'spectral radius':>16}{'dead units':>12}{'saturated':>12}"]
        lines += [f"{n:{width}}{f.radius:16.3f}{f.dead:12.0%}{f.saturated:12.0%}" for n, f in self.flows.items()]
        lags = [lag for lag in LAGS if lag < self.timesteps] + [self.timesteps]
        lines += ["", f"{'timesteps back':16}" + "".join(f"{lag:9,}" for lag in lags)]
        for name, gradient in self._gradients():
            lines.append(f"{name:16}" + "".join(f"{gradient[lag - 1]:9.2g}" for lag in lags))
        lines += ["", self.explanation, *(f"  {remedy}" for remedy in self.remedies())]
        return "\n".join(lines)

    def draw(self, path: Path) -> None:
        """The gradient over the timesteps back, with the horizon, to a PNG."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        back = np.arange(1, self.timesteps + 1)
        nearest = np.linalg.norm([flow.gradient[0] for flow in self.flows.values()]) or 1.0
        if len(self.flows) > 1:
            for name, flow in self.flows.items():
                axes.plot(back[: len(flow.gradient)], flow.gradient / nearest, linewidth=1, label=name)
        for (name, gradient), style in zip(self._gradients(), ("-", ":"), strict=False):
            axes.plot(back, gradient, color="black", linestyle=style, label=f"{name}: {horizon(gradient):,} timesteps")
        axes.axhline(FAINT, color="grey", linestyle="--", linewidth=1, label="faint")
        loudest = max(float(np.nanmax(gradient)) for _, gradient in self._gradients())
        axes.set(yscale="log", ylim=(1e-8, max(2.0, 2 * loudest) if np.isfinite(loudest) else LOUD), xlim=(0, self.timesteps))
        axes.set(
            xlabel="timesteps back",
            ylabel="‖∂loss/∂state‖, 1 at one timestep back",
            title=f"How far back there is something to learn from: {self.verdict}",
        )
        axes.grid(alpha=0.3)
        axes.legend()
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png")
        pyplot.close(figure)


def _numbers(values: Array) -> Any:
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def together(flows: Mapping[str, Flow]) -> Array:
    """‖∂loss/∂S‖ by the states of all layers (T,), 1 for those one timestep back; all 0 where there is none at all."""
    longest = max(len(flow.gradient) for flow in flows.values())
    norms = [np.pad(flow.gradient, (0, longest - len(flow.gradient))) for flow in flows.values()]
    total = np.sqrt((np.array(norms) ** 2).sum(0))
    return total / total[0] if total[0] else total


def horizon(gradient: Array) -> int:
    """How many timesteps back a gradient (T,) is not faint; none where it is no number."""
    loud = np.flatnonzero(gradient >= FAINT)
    return int(loud[-1]) + 1 if len(loud) else 0
