"""What a training leaves for people to look at: a table, TensorBoard logs and a picture, all of the loss."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from seqapp.run import Run, replacing

Row = dict[str, float]


def write_history(run: Run, rows: list[Row]) -> None:
    """history.csv, a row for each epoch."""
    with replacing(run.path / "history.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tensorboard(run: Run, step: int, row: Row, curve: list[Row]) -> None:
    """The figures of an epoch that ended at `step`, and the points of its learning curve, under logs/."""
    from tensorboard.summary import Writer

    writer = Writer(str(run.path / "logs"))
    for point in curve:
        if point["step"] > step - row["windows"]:
            writer.add_scalar("training_nats", point["training_nats"], int(point["step"]))
    for name in ("validation_nats", "tokens_per_second"):
        writer.add_scalar(name, row[name], step)
    writer.close()


def draw_learning_curve(path: Path, rows: list[Row], curve: list[Row], levels: Mapping[str, float], unit: str) -> None:
    """Training and validation loss, in `unit`, against the training time, with the levels of the baselines, to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for points, name, marker in ((curve, "training", ""), (rows, "validation", "o")):
        axes.plot([p["seconds"] / 60 for p in points], [p[f"{name}_nats"] for p in points], marker=marker, label=name)
    for i, (name, nats) in enumerate(levels.items()):
        axes.axhline(nats, color="grey", linestyle=(0, (5 - i, 2)), linewidth=1)
        axes.annotate(
            name.replace("_", "-"), (0, nats), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="grey"
        )
    axes.set_xlim(left=0)
    axes.set(xlabel="minutes of training", ylabel=unit, title="Learning curve")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
