"""Settings: defaults, files and flags."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from seqapp.config import (
    CELL_NAMES,
    TASKS,
    Config,
    DataConfig,
    ModelConfig,
    TrainingConfig,
    add_flags,
    build,
    defaults,
    read_json,
)
from seqapp.errors import UsageError
from seqapp.task_config import ClassifyConfig, DigitsConfig, LongRangeConfig


def parsed(*argv: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(argv))


def test_no_flag_leaves_no_value() -> None:
    assert parsed() == {}


def test_every_field_is_a_flag() -> None:
    argv = ["--task", "next-character"]
    for group in (DataConfig, ModelConfig, TrainingConfig, ClassifyConfig):
        for field in dataclasses.fields(group):
            name = f"--{field.name.replace('_', '-')}"
            argv += [name] if isinstance(field.default, bool) else [name, "lstm" if field.name == "cell" else "1"]
    names = {
        field.name for group in (DataConfig, ModelConfig, TrainingConfig, ClassifyConfig) for field in dataclasses.fields(group)
    }
    assert set(parsed(*argv)) == {"task", *names}


def test_flags_have_the_types_of_their_fields() -> None:
    flags = parsed("--units", "7", "--dropout", "0.5", "--data", "3", "--no-tied", "--time-limit", "60")
    assert flags == {"units": 7, "dropout": 0.5, "data": "3", "tied": False, "time_limit": 60.0}
    assert [type(value) for value in flags.values()] == [int, float, str, bool, float]


@pytest.mark.parametrize("task", TASKS)
def test_the_defaults_of_a_task_and_its_data(task: str) -> None:
    assert build({"task": task}) == build({}, {"task": task}) == defaults(task, own_data=False)
    own = defaults(task, own_data=True)
    own = dataclasses.replace(own, data=dataclasses.replace(own.data, data="a.txt"))
    assert build({"task": task, "data": "a.txt"}) == build({"task": task}, {"data": {"data": "a.txt"}}) == own
    assert build({"data": "a.txt"}, {"task": task, "data": {"data": "b.txt"}}) == own
    assert own != defaults(task, own_data=False)


def test_the_first_task_is_the_next_word() -> None:
    assert build({}) == defaults("next-word", own_data=False)


def test_the_tasks_differ() -> None:
    assert build({}).data.lower
    assert not build({"task": "next-character"}).data.lower


def test_the_form_is_of_running_text_alone() -> None:
    for task in ("next-word", "next-character"):
        assert build({"task": task, "form": "recipe"}).text.form == "recipe"
        assert build({"task": task}).text.form == "text"
    message = "^--form is for the task next-word or next-character alone: leave it out, or say --task next-word"
    for task in TASKS[2:]:
        assert build({"task": task, "form": "text"}) == build({"task": task})
        with pytest.raises(UsageError, match=f"{message}. Received: the task {task}$"):
            build({"task": task, "form": "conversation"})
    with pytest.raises(UsageError, match=r"^--form must be one of text, conversation, recipe\. Received: poem$"):
        build({"form": "poem"})


def test_settings_of_older_runs_are_read() -> None:
    content = dataclasses.asdict(build({}))
    del content["text"]
    assert build({}, json.loads(json.dumps(content))) == build({})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("own_data", [False, True])
def test_defaults_are_within_their_range(task: str, own_data: bool) -> None:
    config = defaults(task, own_data)
    assert config.check() is config
    assert (config.task, config.data.data) == (task, None)


def test_flags_go_before_the_file_and_the_file_before_the_task() -> None:
    file = {"task": "next-character", "data": {"lower": True}, "model": {"units": 5, "layers": 2}}
    config = build({"units": 7}, file)
    assert (config.task, config.data.lower, config.model.units, config.model.layers) == ("next-character", True, 7, 2)
    assert config.training == defaults("next-character", own_data=False).training
    other = build({"task": "next-word", "lower": False}, file)
    assert (other.task, other.data.lower, other.model.units) == ("next-word", False, 5)


def test_json_round_trip(tmp_path: Path) -> None:
    config = build(parsed("--task", "next-character", "--data", "é", "--time-limit", "9", "--no-tied", "--seed", "0"))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)), "utf-8")
    assert build({}, read_json(tmp_path / "config.json")) == config
    assert build({}, json.loads(json.dumps(dataclasses.asdict(build({}))))) == build({})


def test_a_whole_number_does_for_a_fraction() -> None:
    config = build({}, {"training": {"learning_rate": 1, "time_limit": 60}})
    assert (config.training.learning_rate, config.training.time_limit) == (1.0, 60.0)
    assert isinstance(config.training.learning_rate, float)
    assert build({}, {"training": {"time_limit": None}}).training.time_limit is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"unit": 3}, "Unknown setting 'unit': expected one of task, data, model, training"),
        ({"model": {"unit": 3}}, "Unknown setting 'unit': expected one of cell, activation, units"),
        ({"model": 3}, "A group of settings must be a JSON object. Received: 3"),
        ({"model": {"units": 3.0}}, "The setting 'units' must be of type .*int.* Received: 3.0"),
        ({"model": {"units": "3"}}, "The setting 'units' must be of type .*int.* Received: '3'"),
        ({"model": {"units": True}}, "The setting 'units' must be of type .*int.* Received: True"),
        ({"model": {"units": None}}, "The setting 'units' must be of type .*int.* Received: None"),
        ({"model": {"tied": 1}}, "The setting 'tied' must be of type .*bool.* Received: 1"),
        ({"model": {"dropout": True}}, "The setting 'dropout' must be of type .*float.* Received: True"),
        ({"model": {"cell": ["gru"]}}, "The setting 'cell' must be of type .*str"),
        ({"data": {"data": 3}}, "The setting 'data' must be of type str | None. Received: 3"),
        ({"training": {"time_limit": "long"}}, "The setting 'time_limit' must be of type float | None"),
        (
            {"task": "next-move"},
            "--task must be one of next-word, next-character, next-note, classify, forecast, translate, adding, copy-memory, "
            "digits, or package.module:Class. Received: next-move",
        ),
        ({"task": None}, "--task must be one of"),
        ({"model": {"residual": True}}, "--residual must be left out of a model of one layer. Received: True"),
        ({"task": "translate", "model": {"residual": True}}, "--residual must be left out where a model reads both ways"),
        (
            {"task": "translate", "model": {"learned_start": True}},
            "--learned-start must be left out: a translation starts from",
        ),
        (
            {"task": "classify", "model": {"attention": True}, "classify": {"both_ways": True}},
            "--attention must be left out where a model reads both ways. Received: True",
        ),
    ],
)
def test_files_that_are_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build({}, content)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("task", ["word", ""]),
        ("cell", ["rnn", "", "LSTM"]),
        ("units", [0, -1]),
        ("layers", [0]),
        ("embedding", [0]),
        ("epochs", [0]),
        ("patience", [0]),
        ("batch_size", [0]),
        ("bptt", [0]),
        ("min_count", [0]),
        ("dropout", [-0.1, 1.0, NAN]),
        ("recurrent_dropout", [-0.1, 1.0, NAN]),
        ("zoneout", [-0.1, 1.0, NAN]),
        ("test_fraction", [-0.1, 1.0, NAN]),
        ("validation_fraction", [0.0, -0.1, 0.95, 1.0, NAN]),
        ("state_reset", [-0.1, 1.0, NAN]),
        ("weight_decay", [-0.1, 1.0, NAN]),
        ("learning_rate", [0.0, -1.0, INFINITE, NAN]),
        ("clip_norm", [0.0, -1.0, INFINITE, NAN]),
        ("time_limit", [0.0, -1.0, INFINITE, NAN]),
        ("seed", [-1, 2**32]),
    ],
)
def test_values_out_of_range(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')} must be .*Received: {value}$"):
            build({name: value})


@pytest.mark.parametrize(
    "flags",
    [
        {"units": 1, "layers": 1, "embedding": 1, "epochs": 1, "patience": 1, "batch_size": 1, "bptt": 1, "min_count": 1},
        {"dropout": 0.0, "recurrent_dropout": 0.99, "state_reset": 0.0, "weight_decay": 0.0, "test_fraction": 0.0},
        {"validation_fraction": 0.94, "seed": 0},
        {"seed": 2**32 - 1, "cell": "my.cells:Mine", "time_limit": 0.1},
        *({"cell": name} for name in CELL_NAMES),
    ],
)
def test_values_within_their_range(flags: dict[str, Any]) -> None:
    config = build(flags)
    values = {**dataclasses.asdict(config.data), **dataclasses.asdict(config.model), **dataclasses.asdict(config.training)}
    assert {name: values[name] for name in flags} == flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"unit": "syllable"}, "^--unit must be word or character. Received: syllable$"),
        ({"unit": ""}, "^--unit must be word or character"),
        ({"fold": -1}, "^--fold must be a whole number of at least 0. Received: -1$"),
    ],
)
def test_values_of_classify_out_of_range(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build({"task": "classify", **flags})


@pytest.mark.parametrize("task", [task for task in TASKS if task != "classify"])
@pytest.mark.parametrize("flags", [{"unit": "character"}, {"both_ways": True}, {"fold": 1}])
def test_the_flags_of_classify_are_for_no_other_task(task: str, flags: dict[str, Any]) -> None:
    assert build({"task": "classify", **flags}).classify != ClassifyConfig()
    for given, file in (({"task": task, **flags}, None), ({}, {"task": task, "classify": flags})):
        with pytest.raises(UsageError, match=rf"--unit, --both-ways, --fold are for .* Received: the task {task}"):
            build(given, file)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"horizon": 0}, "^--horizon must be a whole number of at least 1. Received: 0$"),
        ({"season": 0}, "^--season must be a whole number of at least 1. Received: 0$"),
        ({"long_season": -1}, "^--long-season must be a whole number of at least 0. Received: -1$"),
        (
            {"task": "classify", "horizon": 3},
            "^--horizon, .*--target are for the task forecast alone: leave them out.* Received: the task classify",
        ),
    ],
)
def test_settings_of_a_forecast_out_of_their_range(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build({"task": "forecast", **flags})


def test_classify_has_a_group_of_its_own() -> None:
    flags = parsed("--task", "classify", "--unit", "character", "--both-ways", "--fold", "3", "--data", "a.tsv")
    assert flags == {"task": "classify", "unit": "character", "both_ways": True, "fold": 3, "data": "a.tsv"}
    config = build(flags)
    assert config.classify == ClassifyConfig("character", True, 3)
    assert build({}, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert build({"both_ways": False, "fold": 0}, {"task": "classify", "classify": {"both_ways": True}}).classify == (
        ClassifyConfig("character")
    )


@pytest.mark.parametrize("task", ["adding", "copy-memory"])
def test_the_length_of_what_is_drawn(task: str) -> None:
    config = build(parsed("--task", task, "--length", "9", "--examples", "50"))
    assert config.long_range == LongRangeConfig(9, 50)
    assert build({}, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    for flags, message in (
        ({"length": 1}, "^--length must be a whole number of at least 2. Received: 1$"),
        ({"examples": 0}, "^--examples must be a whole number of at least 1. Received: 0$"),
    ):
        with pytest.raises(UsageError, match=message):
            build({"task": task, **flags})
    for other in set(TASKS) - {"adding", "copy-memory"}:
        message = f"^--length, --examples are for the task adding or copy-memory alone.* Received: the task {other}$"
        with pytest.raises(UsageError, match=message):
            build({"task": other, "length": 9})


def test_what_of_an_image_is_a_timestep() -> None:
    assert build(parsed("--task", "digits", "--by", "pixel")).digits == DigitsConfig("pixel")
    with pytest.raises(UsageError, match=r"^--by must be row or pixel. Received: column$"):
        build({"task": "digits", "by": "column"})
    with pytest.raises(UsageError, match=r"^--by is for the task digits alone: leave it out, .* Received: the task adding$"):
        build({"task": "adding", "by": "pixel"})


def test_own_texts_are_read_by_words_and_the_default_ones_by_characters() -> None:
    own, default = build({"task": "classify", "data": "a.tsv"}), build({"task": "classify"})
    assert (own.classify.unit, own.data.lower) == ("word", True)
    assert (default.classify.unit, default.data.lower) == ("character", False)


def test_no_training_text_left() -> None:
    with pytest.raises(UsageError, match="above 0, and some training text left"):
        build({"validation_fraction": 0.5, "test_fraction": 0.5})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().task = "next-character"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"config.json is not JSON \("),
        (b"", r"config.json is not JSON \("),
        (b"\xff", r"config.json is not JSON \("),
        (b"[1]", r"config.json must hold a JSON object. Received: list"),
    ],
)
def test_a_file_that_is_no_json_object(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_json(tmp_path / "config.json")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"none.json cannot be read \(No such file or directory\): give the path of a JSON file"
    ):
        read_json(tmp_path / "none.json")
