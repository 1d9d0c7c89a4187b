"""What a run is made of. Frozen, typed, grouped; every field is a command line flag of `seqapp.train`."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seqapp.errors import UsageError
from seqapp.task_config import (
    SHARED,
    ClassifyConfig,
    DigitsConfig,
    ForecastConfig,
    LongRangeConfig,
    NextNoteConfig,
    TextConfig,
    TranslateConfig,
    option,
    require,
)
from seqapp.untrusted import json_of

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
LARGEST = 2**53  # of whole numbers in a file
WIDEST, DEEPEST = 1 << 16, 1 << 8  # units and layers of a model: a file may say anything
CELL_NAMES = ("plain", "lstm", "gru", "cifg", "mingru", "minlstm", "lru", "attention")
INITIALIZATIONS = ("orthogonal", "identity", "glorot")
PRECISIONS = ("float32", "bfloat16")
TASKS = (
    "next-word", "next-character", "next-note", "classify", "forecast", "translate", "adding", "copy-memory", "digits",
)  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    data: str | None = option(None, "a UTF-8 text file or a folder of them (default: the conversations of chitchat-dataset)")
    validation_fraction: float = option(0.05, "part of the documents, or of a single file's characters, for validation")
    test_fraction: float = option(0.05, "part of them for the test; 0 leaves it out")
    min_count: int = option(3, "a token that occurs less often in the training split is unknown")
    lower: bool = option(True, "put the text in lower case")


@dataclass(frozen=True)
class ModelConfig:
    cell: str = option("gru", f"{', '.join(CELL_NAMES)}, or a cell of your own as package.module:Class")
    activation: str = option("tanh", "f of the plain cell, by its Keras name")
    units: int = option(256, "width of the state of each layer")
    layers: int = option(1, "recurrent layers, one above the other")
    embedding: int = option(128, "width of the token embedding")
    tied: bool = option(True, "use the embedding as output kernel too")
    dropout: float = option(0.5, "dropout on the embedding, between layers and before the output")
    recurrent_dropout: float = option(0.3, "dropout on the recurrence")
    initialization: str = option("orthogonal", f"of the recurrent kernel: {', '.join(INITIALIZATIONS)}")
    memory: int | None = option(None, "timesteps that the gates begin to remember, spread up to it (default: a few)")
    normalized: bool = option(False, "normalize both products of a step")
    residual: bool = option(False, "add to each layer's output what it reads, from the second layer on")
    zoneout: float = option(0.0, "chance that a number of a state stays what it was, while training")
    learned_start: bool = option(False, "learn the states before the first timestep; otherwise they are zero")
    attention: bool = option(False, "attend to all past timesteps, above the last layer")


@dataclass(frozen=True)
class TrainingConfig:
    epochs: int = option(20, "passes over the training split, at most")
    patience: int = option(3, "stop after so many epochs without a better validation")
    batch_size: int = option(16, "parallel streams the training split is cut into")
    bptt: int = option(32, "timesteps in a window of truncated backpropagation through time")
    state_reset: float = option(0.02, "chance that a stream starts a window from its first states")
    learning_rate: float = option(4e-3, "peak of the schedule: a short linear rise, then a cosine down to 0")
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW")
    clip_norm: float = option(1.0, "largest global norm of the gradient")
    precision: str = option("float32", "of products while training: float32, or bfloat16, for processors that have it")
    time_limit: float | None = option(None, "end training after so many seconds; the schedule then follows the clock")
    checkpoint_seconds: float = option(180.0, "save a checkpoint this often within an epoch, and after each")
    diagnose: bool = option(False, "tell TensorBoard after each epoch how far back gradients reach, for some seconds more")
    seed: int = option(1, "seed of weights, dropout and order; the same seed gives the same result on one kind of CPU")


@dataclass(frozen=True)
class Config:
    task: str = option("next-word", f"{', '.join(TASKS)}, or a task of your own as package.module:Class")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    forecast: ForecastConfig = field(default_factory=ForecastConfig)
    next_note: NextNoteConfig = field(default_factory=NextNoteConfig)
    translate: TranslateConfig = field(default_factory=TranslateConfig)
    text: TextConfig = field(default_factory=TextConfig)
    long_range: LongRangeConfig = field(default_factory=LongRangeConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)

    @property
    def both_ways(self) -> bool:
        """Whether the model reads a sequence back too."""
        return self.task == "translate" or self.classify.both_ways

    def check(self) -> Config:
        """Returns itself.

        Raises:
            UsageError: a value is out of its range.
        """
        d, m, t = self.data, self.model, self.training
        require(known(self.task), "task", f"one of {', '.join(TASKS)}, or package.module:Class", self.task)
        require(
            m.cell in CELL_NAMES or ":" in m.cell, "cell", f"one of {', '.join(CELL_NAMES)}, or package.module:Class", m.cell
        )
        require(m.initialization in INITIALIZATIONS, "initialization", f"one of {', '.join(INITIALIZATIONS)}", m.initialization)
        require(t.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", t.precision)
        for name, whole in {**dataclasses.asdict(m), **dataclasses.asdict(t), "min_count": d.min_count}.items():
            if isinstance(whole, int) and not isinstance(whole, bool) and name != "seed":
                require(whole >= 1, name, "a whole number of at least 1", whole)
        for name, most in (("units", WIDEST), ("embedding", WIDEST), ("layers", DEEPEST)):
            require(getattr(m, name) <= most, name, f"at most {most}", getattr(m, name))
        for group, name in (
            (m, "dropout"),
            (m, "recurrent_dropout"),
            (m, "zoneout"),
            (d, "test_fraction"),
            (t, "state_reset"),
            (t, "weight_decay"),
        ):
            require(0 <= getattr(group, name) < 1, name, "at least 0 and below 1", getattr(group, name))
        require(
            0 < d.validation_fraction < 1 - d.test_fraction,
            "validation_fraction",
            "above 0, and some training text left",
            d.validation_fraction,
        )
        for name, amount in (
            ("learning_rate", t.learning_rate),
            ("clip_norm", t.clip_norm),
            ("time_limit", 1.0 if t.time_limit is None else t.time_limit),
        ):
            require(0 < amount < float("inf"), name, "a number above 0", amount)
        for name, kind in _groups():
            if hasattr(kind, "check"):
                getattr(self, name).check()
        for name, fits, expected in (
            ("residual", not self.both_ways, "left out where a model reads both ways"),
            ("residual", m.layers > 1, "left out of a model of one layer"),
            ("attention", not self.both_ways, "left out where a model reads both ways"),
            ("learned_start", self.task != "translate", "left out: a translation starts from what its source ends in"),
            ("learned_start", t.state_reset > 0, "left out with --state-reset 0: no window would begin with it"),
        ):
            require(fits or not getattr(m, name), name, expected, True)
        for name, kind in _groups():
            tasks = SHARED.get(name, {name.replace("_", "-")} & set(TASKS))
            if tasks and self.task not in tasks and getattr(self, name) != kind():
                flags = [f"--{item.name.replace('_', '-')}" for item in fields(kind)]
                are, them = ("is", "it") if len(flags) == 1 else ("are", "them")
                raise UsageError(
                    f"{', '.join(flags)} {are} for the task {' or '.join(tasks)} alone: leave {them} out, or say "
                    f"--task {next(iter(tasks))}. Received: the task {self.task}"
                )
        require(0 <= t.seed < 2**32, "seed", "from 0 to 4294967295", t.seed)
        return self


def defaults(task: str, own_data: bool, chosen: Mapping[str, Any] = NOTHING) -> Config:
    """The settings of a task, for data that people bring or for its default data, beside what is chosen of its own group."""
    from seqapp.tasks import task_of  # which is made of what is here

    return task_of(task).defaults(own_data, chosen)


def known(task: object) -> bool:
    """Whether a task has a name that there may be: a class of the user's own has a colon in it."""
    return isinstance(task, str) and (task in TASKS or ":" in task)


def _groups() -> Iterator[tuple[str, type]]:
    hints = typing.get_type_hints(Config)
    return ((f.name, hints[f.name]) for f in fields(Config) if dataclasses.is_dataclass(hints[f.name]))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every field; a flag that is not given leaves no value behind."""
    parser.add_argument(
        "--task", default=argparse.SUPPRESS, metavar="TASK", help=Config.__dataclass_fields__["task"].metadata["help"]
    )
    for name, group in _groups():
        section = parser.add_argument_group(name)
        hints = typing.get_type_hints(group)
        for item in fields(group):
            flag, text = f"--{item.name.replace('_', '-')}", item.metadata["help"]
            if item.default is not None:
                text += f" (default: {item.default})"
            if hints[item.name] is bool:
                section.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
                continue
            kind = _plain_type(hints[item.name])
            metavar = {int: "N", float: "X", str: item.name.upper()}[kind]
            section.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _plain_type(hint: Any) -> type:
    """The one type of `T` or `T | None`."""
    options = [t for t in typing.get_args(hint) if t is not type(None)] if isinstance(hint, types.UnionType) else [hint]
    return typing.cast(type, options[0])


def build(flags: dict[str, Any], base: dict[str, Any] | None = None) -> Config:
    """The defaults of the task and its data, overridden by `base` (the content of a JSON file), overridden by the flags given.

    Raises:
        UsageError: an unknown key, a value of the wrong type, or one out of its range.
    """
    base = base or {}
    task = flags.get("task", base.get("task", Config.task))
    require(known(task), "task", f"one of {', '.join(TASKS)}, or package.module:Class", task)
    given = {name: {item.name: flags[item.name] for item in fields(group) if item.name in flags} for name, group in _groups()}
    kept, group = base.get(task.replace("-", "_"), {}), given.get(task.replace("-", "_"), {})
    chosen = {**(kept if isinstance(kept, dict) else {}), **group}
    config = _override(defaults(task, True, chosen), base)
    if flags.get("data", config.data.data) is None:
        config = _override(defaults(task, False, chosen), base)
    for name, values in given.items():
        config = replace(config, **{name: replace(getattr(config, name), **values)})
    return replace(config, task=task).check()


def _override(current: Any, values: object) -> Any:
    if not isinstance(values, dict):
        raise UsageError(f"A group of settings must be a JSON object. Received: {values!r}")
    hints = typing.get_type_hints(type(current))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise UsageError(f"Unknown setting {key!r}: expected one of {', '.join(hints)}.")
        if dataclasses.is_dataclass(hints[key]):
            changes[key] = _override(getattr(current, key), value)
        else:
            if type(value) is int and abs(value) >= LARGEST:
                raise UsageError(
                    f"The setting {key!r} must be below {LARGEST}. Received: a number of {value.bit_length()} bits"
                )
            changes[key] = float(value) if _plain_type(hints[key]) is float and type(value) is int else value
            if not isinstance(changes[key], hints[key]) or (isinstance(value, bool) and hints[key] is not bool):
                raise UsageError(f"The setting {key!r} must be of type {hints[key]}. Received: {value!r}")
    return replace(current, **changes)


def read_json(path: Path) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        UsageError: the file is missing or is not a JSON object.
    """
    try:
        content = json_of(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give the path of a JSON file.") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object. Received: {type(content).__name__}")
    return content
