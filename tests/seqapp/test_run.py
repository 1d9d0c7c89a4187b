"""The run directory: what it holds, and what is said where it does not."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from seqapp.cells import GRUCell
from seqapp.classifier import Classifier
from seqapp.config import Config, build
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from seqapp.run import Run, check_target, replacing, write_json
from seqapp.vocabulary import Vocabulary

VOCABULARY = Vocabulary.learn(["one two three, one two. four?"], "word", lower=True)
CONFIG = build({"data": "text.txt", "units": 5, "embedding": 4, "test_fraction": 0.1})


def write_run(path: Path, config: Config = CONFIG, cell: Any = None, vocabulary: Vocabulary = VOCABULARY) -> Run:
    """A run directory as training leaves it, of a model with random weights."""
    run = Run(path)
    path.mkdir()
    write_json(run.config_file, dataclasses.asdict(config))
    vocabulary.save(path / "vocabulary.json")
    model = SequenceModel(len(VOCABULARY), [cell or GRUCell(5)], 4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    model.save(run.model_file)
    for name in ("train", "validation", "test"):
        np.save(path / f"{name}_tokens.npy", np.arange(6, dtype=np.int32))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run")


def test_a_run_holds_what_was_written(run: Run) -> None:
    opened = Run.open(str(run.path))
    assert opened == run
    assert opened.config == CONFIG
    assert opened.vocabulary == VOCABULARY
    np.testing.assert_array_equal(opened.tokens("validation"), np.arange(6))
    model = opened.load_model()
    tokens = np.array([[0, 3, 2], [1, 1, 4]], np.int32)
    rng = np.random.default_rng(0)
    other = SequenceModel(len(VOCABULARY), [GRUCell(5)], 4)
    other.set_weights([rng.normal(size=weight.shape) for weight in other.get_weights()])
    np.testing.assert_allclose(model(tokens)[0], other(tokens)[0], rtol=1e-6)


@pytest.mark.parametrize(("fraction", "part"), [(0.1, "test"), (0.0, "validation")])
def test_results_are_measured_on_the_held_out_part(fraction: float, part: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", build({"data": "text.txt", "test_fraction": fraction}))
    assert run.held_out == part


def test_metrics(run: Run) -> None:
    write_json(run.path / "metrics.json", {"test": {"perplexity": 3.5}})
    assert run.metrics == {"test": {"perplexity": 3.5}}
    (run.path / "metrics.json").unlink()
    with pytest.raises(UsageError, match=r"holds no metrics.json, .*--resume"):
        _ = run.metrics


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no run directory .*none: give one that seqapp.train made"):
        Run.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="There is no run directory"):
        Run.open(tmp_path / "file")


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no run directory, it has no config.json"):
        Run.open(tmp_path)


def test_an_unfinished_run(run: Run) -> None:
    run.model_file.unlink()
    with pytest.raises(UsageError, match=r"holds no model.keras, .*--resume"):
        Run.open(run.path)


@pytest.mark.parametrize("task", ["classification", None])
def test_a_run_of_another_task(run: Run, task: str | None) -> None:
    write_json(run.config_file, {"task": task})
    with pytest.raises(
        UsageError, match=r"is a run of the task .*: this command knows next-word, next-character, next-note, classify"
    ):
        _ = Run.open(run.path).config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is not JSON"),
        ('{"task": "next-word", "modle": {}}', "Unknown setting 'modle'"),
        ('{"task": "next-word", "model": {"units": 0}}', "--units must be"),
    ],
)
def test_a_damaged_config(run: Run, content: str, message: str) -> None:
    run.config_file.write_text(content, "utf-8")
    with pytest.raises(UsageError, match=message):
        _ = Run.open(run.path).config


def test_the_vocabulary_of_another_unit(run: Run) -> None:
    Vocabulary.learn(["abc"], "character", lower=False).save(run.path / "vocabulary.json")
    with pytest.raises(UsageError, match=r"mixes tasks: its config.json says next-word, .* unit 'character'"):
        _ = Run.open(run.path).vocabulary


def test_a_vocabulary_of_another_size(run: Run) -> None:
    Vocabulary.learn(["one two"], "word", lower=True).save(run.path / "vocabulary.json")
    with pytest.raises(UsageError, match=rf"the vocabulary has 4 tokens and the model {len(VOCABULARY)}; .*restore vocabulary"):
        Run.open(run.path).load_model()


def write_classifier(path: Path, size: int | None) -> Run:
    """A run of the task `classify`, of texts with so many tokens or of series."""
    run = Run(path)
    path.mkdir()
    write_json(run.config_file, dataclasses.asdict(build({"task": "classify", "data": "data.tsv"})))
    features = {} if size else {"mean": [0.0], "variance": [1.0]}
    Classifier(2, [GRUCell(5)], [], size, 4, **features).save(run.model_file)
    return run


def test_a_run_of_series_has_no_vocabulary(tmp_path: Path) -> None:
    run = Run.open(write_classifier(tmp_path / "run", None).path)
    assert run.config.task == "classify"
    assert run.load_model().classes == 2


def test_a_classifier_of_characters_is_no_mixture(tmp_path: Path) -> None:
    vocabulary = Vocabulary.learn(["abc"], "character", lower=False)
    run = write_classifier(tmp_path / "run", len(vocabulary))
    vocabulary.save(run.path / "vocabulary.json")
    assert Run.open(run.path).vocabulary == vocabulary
    assert run.load_model().vocabulary_size == len(vocabulary)


def test_a_classifier_with_a_vocabulary_of_another_size(tmp_path: Path) -> None:
    run = write_classifier(tmp_path / "run", 8)
    VOCABULARY.save(run.path / "vocabulary.json")
    with pytest.raises(UsageError, match=rf"the vocabulary has {len(VOCABULARY)} tokens and the model 8; .*restore vocabulary"):
        Run.open(run.path).load_model()


def test_a_missing_vocabulary(run: Run) -> None:
    (run.path / "vocabulary.json").unlink()
    with pytest.raises(UsageError, match=r"There is no .*vocabulary.json"):
        Run.open(run.path).load_model()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(run: Run, kept: float) -> None:
    content = run.model_file.read_bytes()
    run.model_file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UsageError, match=r"model.keras is damaged \(.*\): restore it, or train again"):
        Run.open(run.path).load_model()


@pytest.mark.parametrize("place", [0.3, 0.6])
def test_a_model_with_a_damaged_middle(run: Run, place: float) -> None:
    content = bytearray(run.model_file.read_bytes())
    start = int(len(content) * place)
    content[start : start + 200] = bytes(byte ^ 0x5A for byte in content[start : start + 200])
    run.model_file.write_bytes(bytes(content))
    with pytest.raises(UsageError, match=r"model.keras is damaged"):
        Run.open(run.path).load_model()


OWN_CELL = '''
import keras
from seqapp.cells import GRUCell
from seqapp.classifier import Classifier

@keras.saving.register_keras_serializable(package="own_cells")
class Mine(GRUCell):
    """A cell of the user's own."""
'''


@pytest.fixture
def own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with a cell of a module that is no longer imported."""
    (tmp_path / "own_cells.py").write_text(OWN_CELL, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    cell = importlib.import_module("own_cells").Mine(5)
    run = write_run(tmp_path / "run", build({"data": "text.txt", "cell": "own_cells:Mine"}), cell)
    monkeypatch.delitem(sys.modules, "own_cells")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "own_cells>Mine")
    return run


def test_a_cell_of_ones_own_needs_its_module(own_run: Run) -> None:
    with pytest.raises(UsageError, match=r"uses a cell of its own, own_cells:Mine: say --import own_cells, if you trust it"):
        Run.open(own_run.path).load_model()
    assert "own_cells" not in sys.modules, "nothing is imported that the user did not name"
    importlib.import_module("own_cells")
    model = Run.open(own_run.path).load_model()
    assert type(model.recurrent[0].cell).__name__ == "Mine"


def test_a_damaged_model_with_a_cell_of_ones_own(own_run: Run) -> None:
    own_run.model_file.write_bytes(own_run.model_file.read_bytes()[:2000])
    importlib.import_module("own_cells")
    with pytest.raises(UsageError, match="is damaged"):
        Run.open(own_run.path).load_model()


def test_missing_tokens(run: Run) -> None:
    (run.path / "train_tokens.npy").unlink()
    with pytest.raises(UsageError, match=r"There is no .*train_tokens.npy: restore it, or train again"):
        run.tokens("train")


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x80\x04."])
def test_damaged_tokens(run: Run, content: bytes) -> None:
    (run.path / "train_tokens.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"train_tokens.npy cannot be read \("):
        run.tokens("train")


def test_truncated_tokens(run: Run) -> None:
    file = run.path / "train_tokens.npy"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UsageError, match=r"train_tokens.npy cannot be read \("):
        run.tokens("train")


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            assert temporary.suffix == ".json"
            temporary.write_text(content, "utf-8")
            written = temporary.stat().st_ino
        assert path.read_text("utf-8") == content
        assert path.stat().st_ino == written, "moved at once, not copied"
    assert names(tmp_path) == ["a.json"]


def test_replacing_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("first", "second"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
        assert names(path) == [content]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_replaces_nothing(directory: bool, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "target"
    path.write_text("old", "utf-8")

    def fail() -> None:
        with replacing(path) as temporary:
            if directory:
                temporary.mkdir()
                (temporary / "part").touch()
            else:
                temporary.write_text("half", "utf-8")
            raise error("full")

    with pytest.raises(error, match="full"):
        fail()
    assert path.read_text("utf-8") == "old"
    assert names(tmp_path) == ["target"]


def test_a_failure_of_the_last_move_keeps_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def stopped(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    def replace() -> None:
        with replacing(path) as temporary:
            temporary.mkdir()

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        replace()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "left", [[".partial-folder"], [".old-folder"], [".old-folder", "folder"], [".partial-folder", "folder"]]
)
def test_what_a_killed_process_left_is_cleared(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").touch()
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["new"]


def test_the_old_directory_comes_back_after_a_kill(tmp_path: Path) -> None:
    """Killed between the two moves, and the next attempt fails."""
    (tmp_path / ".old-folder").mkdir()
    (tmp_path / ".old-folder" / "old").touch()

    def fail() -> None:
        with replacing(tmp_path / "folder"):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["folder"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"text": "é", "values": [1.5, None]})
    assert json.loads(path.read_text("utf-8")) == {"text": "é", "values": [1.5, None]}
    for content in ({"value": float("nan")}, {"value": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert json.loads(path.read_text("utf-8"))["text"] == "é"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("name", ["new", "deep/down/new"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_free_target(name: str, overwrite: bool, tmp_path: Path) -> None:
    check_target(tmp_path / name, "--run", "config.json", overwrite)
    assert names(tmp_path) == [], "nothing is left behind"


def test_a_target_that_is_there(run: Run) -> None:
    before = names(run.path)
    with pytest.raises(UsageError, match=r"exists: name another directory with --run, or replace it with --overwrite"):
        check_target(run.path, "--run", "config.json", overwrite=False)
    check_target(run.path, "--run", "config.json", overwrite=True)
    assert names(run.path) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_run_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.txt").touch()
    else:
        path.touch()
    with pytest.raises(UsageError, match=r"is there but has no config.json, so it is not replaced"):
        check_target(path, "--run", "config.json", overwrite=True)
    assert path.exists()


def test_a_target_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(.*\): name another directory with --out"):
        check_target(tmp_path / "file" / "new", "--out", "manifest.json", overwrite=False)
    assert names(tmp_path) == ["file"]


def test_a_target_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\)"):
        check_target(tmp_path / "deep" / "new", "--run", "config.json", overwrite=False)
    assert names(tmp_path) == []
