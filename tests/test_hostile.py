"""Runs and bundles from elsewhere: they run no code, read nothing outside, take no more memory than their size accounts for."""

from __future__ import annotations

import hashlib
import io
import json
import marshal
import pickle
import resource
import shutil
import sys
import types
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import onnx_file, runtime
from export.__main__ import main as export_main
from seqapp import model_file
from seqapp.cells import CELLS
from seqapp.cli import open_run
from seqapp.errors import UsageError
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.model_file import LAYERS
from seqapp.run import Run, write_json
from seqapp.tasks import TASKS, task_of
from tests.conftest import refused

MEMORY = 1 << 20  # kilobytes that may be taken more than before: what was looked at may be as large as `untrusted.FREE`
OPENED: list[str] = []
WATCH = [False]


def watch(event: str, given: tuple[Any, ...], watching: list[bool] = WATCH, opened: list[str] = OPENED) -> None:
    # A hook stays until the interpreter has ended, longer than the names of this module: it keeps what it needs itself.
    if watching[0] and event == "open" and isinstance(given[0], (str, bytes)):
        opened.append(given[0] if isinstance(given[0], str) else given[0].decode("utf-8", "replace"))


sys.addaudithook(watch)


class World:
    """A folder with a run or a bundle of an attacker's, and what they want: to make `sentinel`, or to read `secret`."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path
        self.sentinel, self.secret = folder / "sentinel", folder / "outside" / "secret"
        self.secret.parent.mkdir()
        self.secret.write_text('["a"]\n' * 100, "utf-8")
        (folder / "evil.py").write_text(f"open({str(self.sentinel)!r}, 'w').close()\nclass Cell: pass\n", "utf-8")

    def code(self) -> Any:
        return compile(f"open({str(self.sentinel)!r}, 'w').close()", "evil", "exec")

    def pickled(self) -> Any:
        """An object that makes the sentinel when it is unpickled."""
        world = self

        class Payload:
            def __reduce__(self) -> Any:
                return exec, (world.code().co_consts and f"open({str(world.sentinel)!r}, 'w').close()",)

        return Payload()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(tmp_path)
    made = World(tmp_path, tmp_path / "given")
    loaded = types.ModuleType("hostile_loaded")  # a module that is there already, with a function that a file may name
    loaded.boom = lambda *_, **__: made.sentinel.touch()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hostile_loaded", loaded)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    OPENED.clear()
    yield made
    WATCH[0] = False
    assert not made.sentinel.exists(), "code was executed"
    assert "evil" not in sys.modules, "a module was imported because a file names it"
    assert not [name for name in OPENED if "outside" in name or Path(name).resolve().is_relative_to(made.secret.parent)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def rezipped(path: Path, **changes: Callable[[bytes], bytes]) -> None:
    """A model file with some members changed."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    names = {"config": "config.json", "weights": "model.weights.h5"}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            change = next((change for key, change in changes.items() if names[key] == name), None)
            new.writestr(name, change(content) if change else content)


def config(world: World, change: Callable[[dict[str, Any]], object]) -> None:
    def changed(content: bytes) -> bytes:
        change(found := json.loads(content))
        return json.dumps(found).encode()

    rezipped(world.path / "model.keras", config=changed)


def cell(world: World, module: str | None, name: str, inner: Any, registered: str | None = None) -> None:
    """Puts another object in the place of the cell."""
    item = {"module": module, "class_name": name, "config": inner, "registered_name": registered}
    config(world, lambda content: content["config"].update(cells=[item]))


def weights(world: World, change: Callable[[Any], object]) -> None:
    def changed(content: bytes) -> bytes:
        with h5py.File(made := io.BytesIO(content), "r+") as file:
            change(file)
        return made.getvalue()

    rezipped(world.path / "model.keras", weights=changed)


def first(file: Any) -> tuple[Any, str]:
    return file["embedding/vars"], "0"


def replaced(file: Any, **how: Any) -> None:
    group, name = first(file)
    del group[name]
    group.create_dataset(name, **how)


def elsewhere(file: Any, world: World) -> None:
    group, name = first(file)
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape=shape, dtype="f4", external=[(str(world.secret), 0, h5py.h5f.UNLIMITED)])


def linked(file: Any, world: World) -> None:
    group, name = first(file)
    del group[name]
    group[name] = h5py.ExternalLink(str(world.secret), "/a")


def link(path: Path, to: Path) -> None:
    path.unlink()
    path.symlink_to(to)


def settings(world: World, **changes: Any) -> None:
    path = world.path / "config.json"
    content = json.loads(path.read_text("utf-8"))
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    write_json(path, content)


def bomb(world: World) -> None:
    with zipfile.ZipFile(world.path / "model.keras", "a", zipfile.ZIP_DEFLATED) as file, file.open("bomb", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))


def deep(content: bytes) -> bytes:
    return content.replace(b'"cells": [', b'"cells": [' + b"[" * 100_000 + b"]" * 100_000 + b", ", 1)


def sums(world: World, name: str) -> None:
    write_json(world.path / "checksums.json", {name: hashlib.sha256(world.secret.read_bytes()).hexdigest()})


def lambda_of(world: World) -> dict[str, Any]:
    code = b64encode(marshal.dumps(world.code())).decode()
    function = {"class_name": "__lambda__", "config": {"value": [code, None, None]}}
    return {"name": "a", "function": function, "arguments": {}}


# What is done to a run, and what is said of it.
RUNS: dict[str, tuple[Callable[[World], object], tuple[str, ...]]] = {
    "pickled tokens": (
        lambda w: np.save(w.path / "test_tokens.npy", np.array([w.pickled()], object)),
        ("test_tokens.npy", "Python objects"),
    ),
    "a pickle for a model": (
        lambda w: (w.path / "model.keras").write_bytes(pickle.dumps(w.pickled())),
        ("model.keras", "no archive"),
    ),
    "a lambda": (lambda w: cell(w, "keras.layers", "Lambda", lambda_of(w)), ("model.keras", "'Lambda'")),
    "a lambda alone": (
        lambda w: cell(w, None, "__lambda__", lambda_of(w)["function"]["config"]),
        ("model.keras", "'__lambda__'"),
    ),
    "a class of a module elsewhere": (lambda w: cell(w, "evil", "Cell", {}), ("model.keras", "'Cell' of evil")),
    "a module of Keras's family": (lambda w: cell(w, "keras_hub.evil", "Cell", {}), ("model.keras", "of keras_hub.evil")),
    "a function of a module elsewhere": (lambda w: cell(w, "evil", "function", "Cell"), ("model.keras", "'Cell' of evil")),
    "a layer that loads a graph": (
        lambda w: cell(w, "keras.layers", "TFSMLayer", {"filepath": str(w.secret.parent), "call_endpoint": "serve"}),
        ("model.keras", "'TFSMLayer'"),
    ),
    "a layer that reads a file": (
        lambda w: cell(w, "keras.layers", "StringLookup", {"vocabulary": str(w.secret)}),
        ("model.keras", "'StringLookup'"),
    ),
    "a function of Keras's that fetches": (
        lambda w: cell(w, "keras.utils", "function", "get_file", "keras.utils>get_file"),
        ("model.keras", "'get_file'"),
    ),
    "a cell of a module elsewhere": (
        lambda w: (settings(w, model={"cell": "evil:Cell"}), cell(w, "evil", "Cell", {})),
        ("uses a cell of its own", "--import evil, if you trust it"),
    ),
    "a task of a module elsewhere": (lambda w: settings(w, task="evil:Cell"), ("evil:Cell", "--import evil")),
    "a function for a task": (lambda w: settings(w, task="hostile_loaded:boom"), ("hostile_loaded:boom",)),
    "a checksum of a file above": (lambda w: sums(w, "../outside/secret"), ("checksums.json", "not in the run")),
    "a checksum of an absolute name": (lambda w: sums(w, str(w.secret)), ("checksums.json", "not in the run")),
    "a link to a file": (lambda w: link(w.path / "vocabulary.json", w.secret), ("vocabulary.json", "link")),
    "a link to a folder": (lambda w: (w.path / "checkpoint").symlink_to(w.secret.parent), ("checkpoint", "link")),
    "very many units": (
        lambda w: config(w, lambda content: content["config"]["cells"][0]["config"].update(units=10**9)),
        ("model.keras", "numbers, and its model.weights.h5 has"),
    ),
    "very many tokens": (
        lambda w: config(w, lambda content: content["config"].update(vocabulary_size=10**12)),
        ("model.keras", "numbers, and its model.weights.h5 has"),
    ),
    "very many tokens on the disk": (
        lambda w: (w.path / "test_tokens.npy").write_bytes(
            (w.path / "test_tokens.npy").read_bytes().replace(b"'shape': (", b"'shape': (99999999", 1)[:-8]
        ),
        ("test_tokens.npy", "the shape"),
    ),
    "weights that unpack": (
        lambda w: weights(w, lambda file: replaced(file, shape=(10**6, 10**5), chunks=(1000, 1000), compression="gzip")),
        ("model.keras", "has not so much"),
    ),
    "weights in another file": (lambda w: weights(w, lambda file: elsewhere(file, w)), ("model.keras", "another file")),
    "a link to weights": (lambda w: weights(w, lambda file: linked(file, w)), ("model.keras", "a link")),
    "a zip bomb": (bomb, ("model.keras", "would unpack to")),
    "a member too many": (
        lambda w: zipfile.ZipFile(w.path / "model.keras", "a").writestr("assets/../../x", "a"),
        ("model.keras", "it should hold"),
    ),
    "weights that are no numbers": (
        lambda w: weights(w, lambda file: file["embedding/vars/0"].__setitem__(0, np.nan)),
        ("model.keras", "not all finite"),
    ),
    "a deep model": (lambda w: rezipped(w.path / "model.keras", config=deep), ("model.keras", "nested too deeply")),
    "deep settings": (
        lambda w: (w.path / "config.json").write_text('{"task": ' + "[" * 100_000, "utf-8"),
        ("config.json", "nested too deeply"),
    ),
    "a cell within a cell within": (
        lambda w: config(w, lambda content: content["config"].update(cells=content["config"]["cells"] * 5000)),
        ("model.keras", "more objects"),
    ),
    "settings of another kind": (lambda w: settings(w, model={"units": 10**30}), ("units",)),
    "very many units in the settings": (lambda w: settings(w, model={"units": 10**9}), ("--units must be at most",)),
    "a pattern that takes years": (
        lambda w: (w.path / "vocabulary.json").write_text(
            json.dumps({**json.loads((w.path / "vocabulary.json").read_text("utf-8")), "token_pattern": "(a+)+$"}), "utf-8"
        ),
        ("vocabulary.json", "token_pattern"),
    ),
}  # fmt: skip


def used(path: Path) -> None:
    """All that evaluation, generation and export read of a run."""
    WATCH[0] = True
    run = open_run(str(path), [])
    task_of(run.config.task)
    _ = run.vocabulary, run.metrics, run.tokens("test")
    run.load_model()
    build_model(run.config.model, len(run.vocabulary))


@pytest.fixture(scope="module")
def own(trained: Callable[..., Run]) -> Run:
    return trained()


def test_the_run_itself_is_taken(own: Run) -> None:
    used(own.path)
    WATCH[0] = False


@pytest.mark.parametrize("attack", RUNS)
def test_hostile_runs(attack: str, own: Run, world: World) -> None:
    shutil.copytree(own.path, world.path)
    (world.path / "checksums.json").unlink()
    make, words = RUNS[attack]
    make(world)
    refused(lambda: used(world.path), *words)


def test_what_keras_itself_would_load_of_these() -> None:
    """The list of what may be named has no layer that Keras's own safe mode needs to stop."""
    assert all(hasattr(keras.layers, name) for name in LAYERS)
    assert not LAYERS & {
        "Lambda",
        "TFSMLayer",
        "JaxLayer",
        "FlaxLayer",
        "TorchModuleWrapper",
        "StringLookup",
        "TextVectorization",
    }
    assert task_of("next-word") is TASKS["next-word"]


@pytest.mark.parametrize("name", CELLS)
def test_models_of_ours_are_taken(name: str, tmp_path: Path) -> None:
    cells = [CELLS[name](5, learned_start=name != "attention"), CELLS[name](5)]
    model = SequenceModel(7, cells, 4)
    model.save(tmp_path / "model.keras")
    for a, b in zip(model_file.load(tmp_path / "model.keras").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def bundle(own: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    assert export_main([str(own.path), "--out", str(path), "--format", "tflite", "onnx"]) == 0
    return path


def manifest(world: World, change: Callable[[dict[str, Any]], object]) -> None:
    path = world.path / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def renewed(world: World) -> None:
    """Makes the sizes and checksums of a manifest those of the files that it names."""

    def change(content: dict[str, Any]) -> None:
        for entry in [*content["files"], content["vocabulary"]]:
            file = world.path / entry["path"]
            if file.is_file():
                entry.update(bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())

    manifest(world, change)


def onnx_path(world: World) -> Path:
    return sorted(world.path.glob("*.onnx"))[0]


def of_files(world: World, name: str) -> None:
    def change(content: dict[str, Any]) -> None:
        for entry in content["files"]:
            entry.update(
                path=name, bytes=world.secret.stat().st_size, sha256=hashlib.sha256(world.secret.read_bytes()).hexdigest()
            )

    manifest(world, change)


def all_onnx(world: World, change: Callable[[Any], object]) -> None:
    for path in world.path.glob("*.onnx"):
        model = onnx.load(str(path))
        change(model)
        path.write_bytes(model.SerializeToString())
    renewed(world)


def external(model: Any, location: str) -> None:
    tensor = model.graph.initializer[0]
    for kind in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(kind)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def not_numbers(model: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            found = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(found, np.nan), tensor.name))


def start(world: World, content: Callable[[Path], object]) -> None:
    content(world.path / "first.npy")
    manifest(world, lambda c: c["states"][0].update(initial="first.npy"))


def wide(content: dict[str, Any], width: int) -> None:
    for signature in content["signatures"].values():
        for tensor in [*signature["inputs"], *signature["outputs"]]:
            if tensor["name"].startswith("state_0"):
                tensor["shape"][-1] = width


HEAD = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
BUNDLES: dict[str, tuple[Callable[[World], object], tuple[str, ...]]] = {
    "a file above": (lambda w: of_files(w, "../outside/secret"), ("'../outside/secret'", "not in the bundle")),
    "a file of an absolute name": (lambda w: of_files(w, str(w.secret)), ("secret", "not in the bundle")),
    "a vocabulary above": (
        lambda w: manifest(w, lambda c: c["vocabulary"].update(path="../outside/secret")),
        ("'../outside/secret'", "not in the bundle"),
    ),
    "a link to a file": (lambda w: link(w.path / "vocabulary.json", w.secret), ("vocabulary.json", "not in the bundle")),
    "a link to a folder": (
        lambda w: ((w.path / "more").symlink_to(w.secret.parent), of_files(w, "more/secret")),
        ("more/secret", "not in the bundle"),
    ),
    "a manifest that is a link": (lambda w: link(w.path / "manifest.json", w.secret), ("manifest.json", "not in the bundle")),
    "a pickled first state": (
        lambda w: start(w, lambda path: np.save(path, np.array([w.pickled()], object))),
        ("manifest.json", "Python objects"),
    ),
    "a first state without end": (lambda w: start(w, lambda path: path.write_bytes(HEAD)), ("manifest.json", "the shape")),
    "a very wide state": (lambda w: manifest(w, lambda c: wide(c, 10**10)), ("manifest.json", "width of 10000000000")),
    "very many states": (lambda w: manifest(w, lambda c: c.update(states=c["states"] * 10**5)), ("manifest.json", "states")),
    "a deep manifest": (
        lambda w: (w.path / "manifest.json").write_text('{"files": ' + "[" * 100_000, "utf-8"),
        ("manifest.json", "nested too deeply"),
    ),
    "weights in a file above": (
        lambda w: all_onnx(w, lambda model: external(model, "../outside/secret")),
        (".onnx", "in another file"),
    ),
    "weights in a file of an absolute name": (
        lambda w: all_onnx(w, lambda model: external(model, str(w.secret))),
        (".onnx", "in another file"),
    ),
    "weights that are no numbers": (lambda w: all_onnx(w, not_numbers), (".onnx", "finite")),
    "a pickle for a model": (
        lambda w: ([path.write_bytes(pickle.dumps(w.pickled())) for path in w.path.glob("*.onnx")], renewed(w)),
        (".onnx", "refuses"),
    ),
}  # fmt: skip


def test_the_bundle_itself_is_taken(bundle: Path) -> None:
    for engine in ("onnx", "litert"):
        assert runtime.load(bundle, engine).predict("how are")


@pytest.mark.parametrize("attack", BUNDLES)
def test_hostile_bundles(attack: str, bundle: Path, world: World) -> None:
    shutil.copytree(bundle, world.path)
    make, words = BUNDLES[attack]
    make(world)
    WATCH[0] = True
    refused(lambda: runtime.load(world.path, "onnx"), *words)


def test_files_of_another_format_are_no_onnx(tmp_path: Path) -> None:
    tensor = helper.make_tensor("a", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Constant", [], ["b"], value=tensor)
    graph = helper.make_graph([node], "g", [], [], [tensor])
    model = helper.make_model(graph)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    onnx_file.check(tmp_path / "a.onnx")
    inner = model.graph.node[0].attribute[0].t
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="a")
    for content in (model.SerializeToString(), b"\0\0\0\0ORTM", b"\x0a\xff", b"\x0b", b"\xff" * 20):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"file|early"):
            onnx_file.check(tmp_path / "a.onnx")


def test_an_error_is_one_line_whatever_it_tells() -> None:
    assert str(UsageError("a\nb\x1b[2J\ud800")) == "a b\\x1b[2J\\ud800"
    assert len(str(UsageError("a" * 10**6))) < 2100
