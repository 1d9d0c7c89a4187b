"""What a training leaves for people to look at: a table, TensorBoard logs and a picture, all nats per token."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from seqapp.run import Run, replacing

Row = dict[str, float]


def write_history(run: Run, rows: list[Row]) -> None:
    """history.csv, a row for each epoch."""
    with replacing(run.path / "history.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tensorboard(run: Run, row: Row) -> None:
    """One epoch's figures under logs/."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(run.path / "logs"))
    with writer.as_default(step=int(row["epoch"])):
        for name, value in row.items():
            if name != "epoch":
                tf.summary.scalar(name, value)
    writer.close()


def draw_learning_curve(path: Path, rows: list[Row], baselines: dict[str, Any]) -> None:
    """Training and validation against the training time, with the baselines as lines, to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    minutes = [row["seconds"] / 60 for row in rows]
    axes.plot(minutes, [row["training_nats"] for row in rows], marker="o", label="training (dropout on, mean of the epoch)")
    axes.plot(minutes, [row["validation_nats"] for row in rows], marker="o", label="validation")
    for i, (name, figures) in enumerate(baselines.items()):
        nats = figures["nats_per_token"]["value"]
        axes.axhline(nats, color="grey", linestyle=(0, (5 - i, 2)), linewidth=1)
        axes.annotate(
            name.replace("_", "-"), (0, nats), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="grey"
        )
    axes.set(xlabel="minutes of training", ylabel="nats per token", title="Learning curve")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
