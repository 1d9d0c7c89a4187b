"""A model file from elsewhere: what it names is not run, what it declares is not believed, and each is refused by name."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from seqapp import model_file
from seqapp.cells import GRUCell
from seqapp.errors import UsageError
from seqapp.model import SequenceModel
from seqapp.run import Run
from seqapp.vocabulary import Vocabulary

VOCABULARY = Vocabulary.learn(["one two three"], "word", lower=True)
CONFIG = {"task": "next-word", "data": {"data": "a.txt", "test_fraction": 0.1}, "model": {"units": 5, "embedding": 4}}
MUCH = 100 << 20  # bytes: Keras needs some megabytes for the model of these tests
Members = dict[str, bytes]
SCRIPT = (
    "from pathlib import Path\nPath({marker!r}).touch()\n\n\nclass Layer:\n    def __init__(self, **options):\n        pass\n"
)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """What a model file holds that is right."""
    model = SequenceModel(len(VOCABULARY), [GRUCell(5)], 4)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    model.save(path := tmp_path_factory.mktemp("model") / "model.keras")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: Members) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return made.getvalue()


def run_of(folder: Path, content: bytes) -> Run:
    run = Run(folder / "run")
    run.path.mkdir()
    run.config_file.write_text(json.dumps(CONFIG), "utf-8")
    VOCABULARY.save(run.path / "vocabulary.json")
    run.model_file.write_bytes(content)
    return run


def config_with(cell: Any) -> Callable[[Members], Members]:
    """The file with another cell in its configuration."""

    def change(members: Members) -> Members:
        config = json.loads(members["config.json"])
        config["config"]["cells"] = [cell]
        return {**members, "config.json": json.dumps(config).encode()}

    return change


def in_config(**changes: Any) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        config = json.loads(members["config.json"])
        inner = config["config"]["cells"][0]["config"]
        inner.update({name: value for name, value in changes.items() if name in inner})
        config.update({name: value for name, value in changes.items() if name not in inner})
        return {**members, "config.json": json.dumps(config).encode()}

    return change


def named(module: str | None, name: Any, config: Any, registered: str | None = None) -> Callable[[Members], Members]:
    return config_with({"module": module, "class_name": name, "config": config, "registered_name": registered})


def in_weights(change: Callable[[h5py.File, str], object]) -> Callable[[Members], Members]:
    """The file after a change of its weights, which is told the name of the first of them."""

    def changed(members: Members) -> Members:
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            change(file, names[0])
        return {**members, "model.weights.h5": stream.getvalue()}

    return changed


def replaced(make: Callable[[h5py.File, str, tuple[int, ...]], object]) -> Callable[[Members], Members]:
    def change(file: h5py.File, name: str) -> None:
        shape = file[name].shape
        del file[name]
        make(file, name, shape)

    return in_weights(change)


def virtual(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", shape)
    file.create_virtual_dataset(name, layout)


def nested(depth: int) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        inner = b'{"a":' * depth + b"1" + b"}" * depth
        return {**members, "config.json": members["config.json"].rstrip()[:-1] + b',"more":' + inner + b"}"}

    return change


class Payload:
    """Whose pickle makes a file."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.marker),))


PICKLE = "MARKER"  # where it stands, a pickle is put that would make the marker
LAMBDA = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {}}}}
PLAIN = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}}
# What is done to the file; words of the message.
ATTACKS: dict[str, tuple[Callable[[Members], Members], tuple[str, ...]]] = {
    "a layer with code": (config_with(LAMBDA), ("names 'Lambda' of keras.layers", "not known")),
    "code as a function": (named("builtins", "__lambda__", {"value": "4w==", "defaults": None}), ("'__lambda__'",)),
    "a command": (named("os", "system", {"command": "touch MARKER"}), ("names 'system' of os",)),
    "a command as a function": (named("builtins", "function", "system", "function"), ("names 'system'",)),
    "a process": (named("subprocess", "Popen", {"args": ["touch", "MARKER"]}), ("'Popen' of subprocess",)),
    "evaluation": (named("builtins", "eval", {"source": "open('MARKER', 'w')"}), ("'eval' of builtins",)),
    "a module that is there": (named("a_module_of_tests", "Layer", {}), ("'Layer' of a_module_of_tests",)),
    "a module under a known name": (named("a_module_of_tests", "Layer", {}, "Layer"), ("'Layer' of a_module_of_tests",)),
    "a module that looks like Keras's": (named("keras.src.a", "Layer", {}), ("'Layer' of keras.src.a",)),
    "a name without a module": (named(None, "Lambda", {}), ("'Lambda'",)),
    "a layer that loads a graph": (named("keras.layers", "TFSMLayer", {"filepath": "/tmp"}), ("'TFSMLayer'",)),
    "a layer that calls Torch": (named("keras.layers", "TorchModuleWrapper", {"module": "MARKER"}), ("'TorchModuleWrapper'",)),
    "a layer that reads a file": (
        named("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
        ("'StringLookup' of keras.layers",),
    ),
    "a function that downloads": (named("keras.utils", "get_file", {"origin": "file:///etc/passwd"}), ("'get_file'",)),
    "a class that is none": (named("os", ["system"], {}), ("which is no class",)),
    "a cell of a billion units": (in_config(units=10**9), ("model with", "numbers, and its model.weights.h5 has")),
    "a cell of too many digits": (in_config(units=10**400), ("is damaged",)),
    "a cell of no number": (in_config(units=float("nan")), ("is damaged",)),
    "deep brackets": (nested(150_000), ("nested too deeply",)),
    "depth that JSON still reads": (nested(400), ("nested too deeply",)),
    "more objects than in any model": (in_config(more=[PLAIN] * 3000), ("more objects",)),
    "no model": (lambda members: {**members, "config.json": b"[1]"}, ("names no model",)),
    "no JSON": (lambda members: {**members, "config.json": b"\x80\x04"}, ("is damaged",)),
    "a pickle for a configuration": (lambda members: {**members, "config.json": PICKLE.encode()}, ("is damaged",)),
    "a pickle for weights": (lambda members: {**members, "model.weights.h5": PICKLE.encode()}, ("weights.h5 is damaged",)),
    "a pickle beside them": (lambda members: {**members, "model.weights.npz": PICKLE.encode()}, ("should hold",)),
    "a file for a folder outside": (lambda members: {**members, "../out.txt": b"a"}, ("should hold", "../out.txt")),
    "a zip bomb": (lambda members: {**members, "model.weights.h5": bytes(300 << 20)}, ("would unpack to",)),
    "a large configuration": (lambda members: {**members, "config.json": b" " * (20 << 20)}, ("larger than that of any",)),
    "weights that are not numbers": (in_weights(lambda file, name: file[name].__setitem__(..., np.nan)), ("not all finite",)),
    "weights behind a link outside": (
        replaced(lambda file, name, _: file.__setitem__(name, h5py.ExternalLink("/etc/passwd", "a"))),
        ("link",),
    ),
    "weights behind a link": (replaced(lambda file, name, _: file.__setitem__(name, h5py.SoftLink("/a"))), ("link",)),
    "weights in another file": (
        replaced(lambda file, name, shape: file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, 10**4)])),
        ("in another file",),
    ),
    "weights in a view of another file": (replaced(virtual), ("in another file",)),
    "weights of a huge shape": (
        replaced(lambda file, name, _: file.create_dataset(name, (10**6, 10**6), "f4", chunks=(64, 64))),
        ("says that", "has the shape (1000000, 1000000)"),
    ),
}  # fmt: skip


def attack(name: str, members: Members, marker: Path) -> tuple[bytes, tuple[str, ...]]:
    """The file, with the path of the marker where it is named, and words of the message."""
    change, words = ATTACKS[name]
    payload = pickle.dumps(Payload(str(marker)))
    changed = {
        name: payload
        if content == PICKLE.encode()
        else content.replace(b"MARKER", str(marker).encode())
        if name == "config.json"
        else content
        for name, content in change(members).items()
    }
    return archive(changed), words


def test_what_is_right_is_taken(members: Members, tmp_path: Path) -> None:
    assert run_of(tmp_path, archive(members)).load_model().count_params() > 0
    assert model_file.numbers_of(members["model.weights.h5"]) > 100


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_files_are_refused(name: str, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, modules = tmp_path / "marker", tmp_path / "modules"
    modules.mkdir()
    (modules / "a_module_of_tests.py").write_text(SCRIPT.format(marker=str(marker)), "utf-8")
    monkeypatch.syspath_prepend(str(modules))
    content, words = attack(name, members, marker)
    run = run_of(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError) as error:
            run.load_model()
        assert tracemalloc.get_traced_memory()[1] < MUCH
    finally:
        tracemalloc.stop()
    for part in (str(run.model_file), *words):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    assert "a_module_of_tests" not in sys.modules
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "model.keras", "vocabulary.json"]


def test_how_a_file_was_compiled_is_not_read(members: Members, tmp_path: Path) -> None:
    content = in_config(compile_config={"optimizer": {"module": "os", "class_name": "system", "config": {}}})(members)
    run_of(tmp_path, archive(content)).load_model()


def test_a_pickle_is_no_archive(tmp_path: Path) -> None:
    run = run_of(tmp_path, pickle.dumps(Payload(str(tmp_path / "marker"))))
    with pytest.raises(UsageError, match=r"model.keras is damaged \(it is no archive\)"):
        run.load_model()
    assert not (tmp_path / "marker").exists()


def test_the_payload_would_work(tmp_path: Path) -> None:
    """Otherwise the tests above would pass whatever was done."""
    pickle.loads(pickle.dumps(Payload(str(tmp_path / "marker"))))
    assert (tmp_path / "marker").exists()


def test_names_are_looked_at_where_safe_mode_is_off(members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone may have switched it off for the process."""
    monkeypatch.setattr("keras.src.saving.serialization_lib.in_safe_mode", lambda: False)
    content, words = attack("a layer with code", members, tmp_path / "marker")
    with pytest.raises(UsageError, match=words[0]):
        run_of(tmp_path, content).load_model()
