"""How good forecasts are: what they are wrong by, and how often their intervals hold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seqapp.errors import need
from seqapp.forecast import Forecaster, Outlook, forecasts
from seqapp.framing import LEVELS, MEDIAN, Array, Framing, pinball
from seqapp.report import Report
from seqapp.run import replacing
from seqapp.scoring import Metrics

SHOWN = 6  # series in the picture
BEHIND = 3  # horizons of the past in the picture


def truths(about: Outlook, horizon: int) -> Array:
    """What came true after each origin: (O, horizon)."""
    return about.series.values[about.origins[:, None] + np.arange(horizon)]


def scaled_pinball(outlooks: Sequence[Outlook], quantiles: Sequence[Array]) -> float:
    """The mean pinball loss over all origins, in the unit of each series: what training minimizes."""
    losses = [pinball(q, truths(one, q.shape[1])).mean((1, 2)) / one.scale for one, q in zip(outlooks, quantiles, strict=True)]
    return float(np.concatenate(losses).mean())


def figures(outlooks: Sequence[Outlook], quantiles: Sequence[Array], framing: Framing) -> Metrics:
    """Means over all origins. sMAPE in percent and MASE are those of the M4 competition (Makridakis et al. 2020); pinball is
    the mean over the levels, in the unit of MASE; coverage is how many values lie within the outer quantiles: 90 % should.
    """
    smape, mase, loss, inside = [], [], [], []
    for one, q in zip(outlooks, quantiles, strict=True):
        truth, median = truths(one, framing.horizon), q[..., MEDIAN]
        # The unit as it is known at each origin.
        unit = np.array([framing.scale(one.series.values[:origin]) for origin in one.origins])[:, None]
        size = np.abs(truth) + np.abs(median)
        smape.append(200 * np.abs(truth - median) / np.where(size == 0, 1, size))
        mase.append(np.abs(truth - median) / unit)
        loss.append(pinball(q, truth).mean(-1) / unit)
        inside.append((q[..., 0] <= truth) & (truth <= q[..., -1]))
    units = {"smape": "percent", "mase": "seasonal naive errors", "pinball": "seasonal naive errors", "coverage_90": "fraction"}
    found = [np.concatenate(rows) for rows in (smape, mase, loss, inside)]
    return {
        name: {"value": float(values.mean()), "unit": unit, "count": values.size}
        for (name, unit), values in zip(units.items(), found, strict=True)
    }


def baselines(outlooks: Sequence[Outlook], framing: Framing) -> dict[str, Metrics]:
    """Forecasts without intervals: the last value, that of a season ago, and the Theta method (Assimakopoulos and Nikolopoulos
    2000) as statsmodels has it.
    """
    seasons = {"naive": 1, **({"seasonal_naive": framing.season} if framing.season > 1 else {})}
    points = {
        name: [replace(framing, season=season).naive(one.series.values, one.origins - 1) for one in outlooks]
        for name, season in seasons.items()
    }
    points["theta"] = [_theta(one, framing) for one in outlooks]
    found = {
        name: figures(outlooks, [np.repeat(point[..., None], len(LEVELS), -1) for point in some], framing)
        for name, some in points.items()
    }
    for row in found.values():
        del row["coverage_90"]
    return found


def _theta(about: Outlook, framing: Framing) -> Array:
    model = need("statsmodels.tsa.forecasting.theta", "forecast").ThetaModel
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that are not fully converged
        for origin in about.origins:
            known = about.series.values[:origin]
            seasonal = framing.season > 1 and len(known) >= 2 * framing.season
            fitted = model(known, period=framing.season if seasonal else 1, deseasonalize=seasonal).fit()
            found.append(np.asarray(fitted.forecast(framing.horizon)))
    return np.stack(found)


@dataclass(frozen=True)
class ForecastReport(Report):
    """The figures of one held-out part, of the model and of its baselines, and the forecasts themselves."""

    loss = "pinball"
    outlooks: Sequence[Outlook]
    quantiles: Sequence[Array]

    @classmethod
    def of(
        cls,
        model: Forecaster,
        framing: Framing,
        outlooks: dict[str, list[Outlook]],
        part: str,
        known: dict[str, Metrics] | None = None,
    ) -> ForecastReport:
        """Scores `part` and the validation part, beside the baselines on `part`, if not `known`."""
        made = {name: forecasts(model, framing, outlooks[name]) for name in dict.fromkeys(("validation", part))}
        found = {name: figures(outlooks[name], quantiles, framing) for name, quantiles in made.items()}
        return cls(part, found, baselines(outlooks[part], framing) if known is None else known, outlooks[part], made[part])

    def table(self, name: str) -> str:
        mine = self.mine
        lines = [f"{self.part}, {mine['mase']['count']:,} values of {len(self.outlooks):,} series"]
        lines += [f"{'':18}{'sMAPE':>10}{'MASE':>10}{'pinball':>10}{'in 90 %':>10}"]
        for label, row in {name: mine, **self.baselines}.items():
            shown = [f"{row[key]['value']:10.3f}" for key in ("smape", "mase", "pinball")]
            covered = f"{row['coverage_90']['value']:10.1%}" if "coverage_90" in row else ""
            lines.append(f"{label.replace('_', '-'):18}{''.join(shown)}{covered}")
        best, value = self.strongest("mase")
        below = 1 - mine["mase"]["value"] / value
        lines.append(f"MASE {abs(below):.1%} {'below' if below >= 0 else 'above'} {best}")
        return "\n".join(lines)

    def draw(self, folder: Path) -> None:
        """forecasts.png: the last forecast of each of the first series, its intervals of 50 % and 90 %, and what came true."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        shown = list(zip(self.outlooks, self.quantiles, strict=True))[:SHOWN]
        figure, grid = pyplot.subplots(len(shown), figsize=(8, 2.4 * len(shown)), layout="constrained", squeeze=False)
        for axes, (about, quantiles) in zip(grid[:, 0], shown, strict=True):
            origin, horizon, last = int(about.origins[-1]), quantiles.shape[1], quantiles[-1]
            times = np.arange(len(about.series)) if about.series.dates is None else about.series.dates
            past = slice(max(0, origin - BEHIND * horizon), origin + horizon)
            ahead = times[origin : origin + horizon]
            axes.plot(times[past], about.series.values[past], color="black", linewidth=1, label="series")
            axes.plot(ahead, last[:, MEDIAN], color="C0", label="forecast")
            for low, high, shade in ((0, -1, 0.2), (1, -2, 0.35)):
                axes.fill_between(ahead, last[:, low], last[:, high], color="C0", alpha=shade, linewidth=0)
            axes.set(title=about.series.name)
            axes.grid(alpha=0.3)
        grid[0, 0].legend()
        with replacing(folder / "forecasts.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
        pyplot.close(figure)
