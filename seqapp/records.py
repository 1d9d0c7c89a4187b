"""What a training leaves for people to look at: a table, TensorBoard logs and a picture, all of the loss."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping
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
    points = [("training_nats", p["training_nats"], int(p["step"])) for p in curve if p["step"] > step - row["windows"]]
    write_scalars(
        run.path / "logs", step, "loss", points + [(n, row[n], step) for n in ("validation_nats", "tokens_per_second")]
    )


def write_scalars(logs: Path, step: int, name: str, scalars: Iterable[tuple[str, float, int]]) -> None:
    """A file of TensorBoard's, of (tag, value, step): the same for the same `step` and `name`, so that none is there twice.

    TensorBoard's own writer has a thread, whose errors nobody can catch.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    for tag, value, at in scalars:
        events.append(Event(wall_time=now, step=at, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    with replacing(logs / f"events.out.tfevents.{step:010d}.{name}") as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


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
