"""Bundles at work in LiteRT and ONNX Runtime: they say what Keras says, in any number of streams, without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import seqapp.generate
from export.__main__ import main as export_main
from export.flatbuffer import only
from export.runtime import ENGINES, Model, load
from export.session import Session
from seqapp.decoding import Sampling, sample
from seqapp.run import Run
from seqapp.step import KerasStepper, log_softmax
from seqapp.stream import Stream
from seqapp.words import Words
from tests.conftest import refused
from tests.export.conftest import Exported, tokens_of
from tests.export.engines import opened_whole

Trained = Callable[..., Run]
SEED = 3


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return trained("--cell", "lstm")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "bundle"
    assert export_main([str(run.path), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def reference(run: Run) -> KerasStepper:
    return KerasStepper(run.load_model())


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(engine: str, bundle: Path) -> Model:
    return load(bundle, engine)


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((bundle / "manifest.json").read_text("utf-8"))
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content), "utf-8")


def add(bundle: Path, content: bytes, name: str, format: str, precision: str) -> None:
    """Puts a file and its entry into a bundle, in the place of one of the same name."""
    (bundle / name).write_bytes(content)
    entry = {"path": name, "format": format, "precision": precision, "bytes": len(content)}
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    rewrite(bundle, lambda c: c.update(files=[*(f for f in c["files"] if f["path"] != name), entry]))


@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(0.8), Sampling(1.2, top_k=20, top_p=0.9)], ids=str)
def test_500_tokens_are_those_of_keras(sampling: Sampling, run: Run, reference: KerasStepper, bundle: Path) -> None:
    vocabulary, prompt = run.vocabulary, run.vocabulary.prompt("Are they")
    numbers = vocabulary.numbers([vocabulary.end, *prompt])
    stream = sample(reference, numbers, sampling, np.random.default_rng(SEED), [vocabulary.unknown_number])
    wanted = [vocabulary.tokens[number] for number in islice(stream, 500)]
    assert len(set(wanted)) > 10
    for engine in ENGINES:
        session = load(bundle, engine).session()
        session.feed("Are they")
        found = session.generate(500, sampling.temperature, sampling.top_k, sampling.top_p, seed=SEED)
        assert vocabulary.join(prompt) + found == vocabulary.join([*prompt, *wanted])


def test_the_command_says_the_same(run: Run, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for prompt in ("are they", "are they late?\n  "):
        assert seqapp.generate.main([str(run.path), "--prompt", prompt, "--length", "50", "--seed", "5"]) == 0
        session = model.session()
        session.feed(prompt)
        assert (prompt.rstrip(" ") + session.generate(50, seed=5)).strip("\n") + "\n" == capsys.readouterr().out


def test_predictions_are_those_of_keras(run: Run, reference: KerasStepper, model: Model) -> None:
    vocabulary = run.vocabulary
    for text in ("", "Are they", "Yes, they are late now.\n", "zebra " * 700):
        numbers = vocabulary.numbers([vocabulary.end, *vocabulary.prompt(text)])
        logits, _ = reference.sequence(np.array([numbers], np.int32), reference.initial_states(1))
        p = np.exp(log_softmax(logits[0, -1].astype(np.float64)))
        found = model.predict(text, top=len(vocabulary))
        wanted = {token: p[number] for number, token in enumerate(vocabulary.tokens) if token != vocabulary.unknown}
        assert dict(found) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert found[:3] == model.predict(text)


def test_suggestions_are_those_of_keras(run: Run, reference: KerasStepper, model: Model) -> None:
    words, stream = Words(run.vocabulary), Stream(reference, run.vocabulary)
    for text in ("", "Are they l", "Yes, they are", "yes, they are late now.\nare yo"):
        found, wanted = model.suggest(text, top=5), words.after(stream, text, 5)
        assert dict(found) == pytest.approx(dict(wanted), rel=1e-4, abs=1e-6)
    assert model.suggest("are yo", 1) == model.suggest("are yo")[:1]
    assert model.suggest("are yo", 1)[0][0] == "you"


def test_pieces_and_the_whole(model: Model) -> None:
    """In an engine the same up to rounding, since a matrix product of many rows may be summed in another order."""
    whole, pieces = model.session(), model.session()
    text = "Are they late today?\nYes, they are late today.\n" * 60
    whole.feed(text)
    for word in text.split(" "):
        pieces.feed(word)
        pieces.feed(" ")
    assert dict(pieces.predict(9)) == pytest.approx(dict(whole.predict(9)), abs=1e-5)
    assert pieces.generate(50, temperature=0) == whole.generate(50, temperature=0)


def test_a_stream_is_saved_and_restored(engine: str, model: Model, bundle: Path) -> None:
    session = model.session()
    session.feed("are they")
    session.generate(7, seed=1)
    saved = session.save()
    wanted = session.predict(), session.generate(20, seed=2)
    for it in (session, model.session(), load(bundle, engine).session()):
        it.restore(saved)
        assert (it.predict(), it.generate(20, seed=2)) == wanted
    session.reset()
    assert session.save() == model.session().save()


def test_a_stream_of_another_file_is_refused(bundle: Path) -> None:
    saved = load(bundle, "litert").session().save()
    refused(lambda: load(bundle, "onnx").session().restore(saved), "another file")


def talk(session: Session, number: int) -> Iterator[object]:
    """A conversation in many turns."""
    for turn in range(25):
        session.feed(["are they late", " today?\n", "no, i am not", " here.\n"][(number + turn) % 4])
        yield session.predict()
        yield session.generate(4 + number, seed=turn)
        if turn % 7 == number % 7:
            saved = session.save()
            session.reset()
            session.feed("you")
            session.restore(saved)


def test_eight_threads(model: Model) -> None:
    alone = [list(talk(model.session(), number)) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda number: list(talk(model.session(), number)), range(8)))
    assert together == alone


def test_taking_turns_in_one_thread(model: Model) -> None:
    alone = [list(talk(model.session(), number)) for number in range(3)]
    turns = zip(*(talk(model.session(), number) for number in range(3)), strict=True)
    assert [list(column) for column in zip(*turns, strict=True)] == alone


CHILD = """
import sys

class Blocked:
    tried = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            self.tried.append(name)
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocked())
before = set(sys.modules)
import export.runtime
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names
assert loaded == {{"export", "seqapp", "numpy"}}, loaded
model = export.runtime.load({bundle!r}, engine={engine!r})
session = model.session()
session.feed("are they")
print(session.generate(20, seed=1))
assert Blocked.tried == [], Blocked.tried
assert not {blocked} & set(sys.modules)
"""


def test_numpy_and_the_engine_are_all_that_is_loaded(engine: str, bundle: Path) -> None:
    other = {package for name, (_, package) in ENGINES.items() if name != engine}
    blocked = {"tensorflow", "keras", "onnx", "flatbuffers", "tqdm", "matplotlib"} | other
    code = CHILD.format(blocked=blocked, bundle=str(bundle), engine=engine)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    session = load(bundle, engine).session()
    session.feed("are they")
    assert child.returncode == 0, child.stderr
    assert child.stdout == session.generate(20, seed=1) + "\n"


def test_the_engine_is_chosen(bundle: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {
        engine: bytes.fromhex(hashlib.sha256((bundle / name).read_bytes()).hexdigest())
        for engine, name in (("litert", "model.tflite"), ("onnx", "model.onnx"))
    }
    assert load(bundle).identity == load(str(bundle), "litert").identity == digests["litert"]
    assert load(bundle, "onnx").identity == digests["onnx"]
    rewrite(copied, lambda content: content["files"].pop(1))
    assert load(copied).identity == digests["onnx"]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert load(bundle).identity == digests["onnx"]
    refused(lambda: load(bundle, "litert"), "ai_edge_litert is not installed", "pip install 'seqapp[litert]'")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(lambda: load(bundle, "onnx"), "onnxruntime is not installed", "pip install 'seqapp[onnx]'")
    refused(lambda: load(bundle), "is not installed", "pip install")


def test_what_is_not_there_is_named(bundle: Path, copied: Path) -> None:
    refused(lambda: load(bundle, "saved_model"), "no engine 'saved_model'", "litert, onnx")
    refused(lambda: load(bundle, precision="int9"), "precision 'int9'", "float32 for litert, float32 for onnx")
    add(copied, (copied / "model.onnx").read_bytes(), "model.int8.onnx", "onnx", "int8")
    refused(lambda: load(copied, "litert", "int8"), "'int8' for litert", "There is: float32 for litert.")
    assert load(copied, precision="int8").predict("are they") == load(copied, "onnx").predict("are they")
    rewrite(copied, lambda content: content.update(files=[]))
    refused(lambda: load(copied), "There is: none")


def test_a_file_of_step_alone(run: Run, copied: Path) -> None:
    """As LiteRT's int8 files are: prompts are read step by step."""
    add(copied, only((copied / "model.tflite").read_bytes(), "step"), "model.int8.tflite", "tflite", "int8")
    model, whole = load(copied, "litert", "int8"), load(copied, "litert")
    assert set(model.runner.functions) == {"step"}
    text = "Are they late today?\nYes, they are late today.\n" * 60
    assert dict(model.predict(text)) == pytest.approx(dict(whole.predict(text)), abs=1e-5)
    tokens = run.tokens("test")[:40].reshape(2, 20)
    found, wanted = (it.sequence(tokens, it.initial_states(2)) for it in (model, whole))
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-4)
    for state, expected in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(state, expected, atol=1e-5)


def test_damage_is_found_before_an_engine_sees_it(engine: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.runtime.OPENERS", {})
    path = copied / {"litert": "model.tflite", "onnx": "model.onnx"}[engine]
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    refused(lambda: load(copied, engine), path.name, "was changed")
    path.write_bytes(content[:-1])
    refused(lambda: load(copied, engine), path.name, f"{len(content) - 1} bytes")
    path.unlink()
    refused(lambda: load(copied, engine), "There is no file", path.name)
    path.symlink_to("../elsewhere")
    refused(lambda: load(copied, engine), "not in the bundle")


@pytest.mark.parametrize("content", [b"", b"no model", "half"], ids=repr)
def test_what_the_engine_refuses(engine: str, content: Any, copied: Path) -> None:
    format, name = ENGINES[engine][0], {"litert": "model.tflite", "onnx": "model.onnx"}[engine]
    whole = (copied / name).read_bytes()
    add(copied, whole[: len(whole) // 2] if content == "half" else content, name, format, "float32")
    refused(lambda: load(copied, engine), "The engine refuses", name)


def test_a_manifest_of_another_model(engine: str, copied: Path) -> None:
    """The tensors fit together, and the file is not theirs."""

    def widen(content: dict[str, Any]) -> None:
        tensors = [t for sides in content["signatures"].values() for side in sides.values() for t in side]
        for tensor in tensors:
            tensor["shape"] = [25 if axis == 24 else axis for axis in tensor["shape"]]

    rewrite(copied, widen)
    refused(lambda: load(copied, engine), "The engine refuses")


def test_a_vocabulary_that_is_not_the_exported_one(copied: Path, run: Run) -> None:
    path = copied / "vocabulary.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "tokens": content["tokens"][:-1]}), "utf-8")
    size = len(run.vocabulary)
    refused(lambda: load(copied), "vocabulary.json has", "bytes and should have")
    rewrite(copied, lambda content: content["vocabulary"].pop("bytes"))
    refused(lambda: load(copied), "vocabulary.json was changed")
    rewrite(copied, lambda content: content["vocabulary"].pop("sha256"))
    refused(lambda: load(copied), f"has {size - 1} tokens and the model {size}", "copy")
    path.unlink()
    refused(lambda: load(copied), "There is no file", "vocabulary.json")


def test_a_bundle_without_vocabulary(bundle: Path, copied: Path) -> None:
    rewrite(copied, lambda content: content.pop("vocabulary"))
    model, whole = load(copied), load(bundle)
    assert model.vocabulary is None
    found, wanted = (it.step(np.array([5], np.int32), it.initial_states(1)) for it in (model, whole))
    np.testing.assert_array_equal(found[0], wanted[0])
    for work in (model.session, lambda: model.predict("are they")):
        refused(work, "no vocabulary", "step and sequence")


def features_bundle(path: Path, kernel: Any, recurrent: Any, first: Any) -> None:
    """A bundle of one native RNN that takes features, written by hand: H_t = tanh(W·X_t + R·H_{t-1}), and H_t is its output."""
    units, width = kernel.shape
    ends = {
        "in": [("features", ["batch", "time", width]), ("state_0_in", ["batch", units])],
        "out": [("outputs", ["batch", "time", units]), ("state_0_out", ["batch", units])],
    }
    infos = {end: [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends[end]] for end in ends}
    nodes = [
        helper.make_node("Transpose", ["features"], ["x"], perm=[1, 0, 2]),
        helper.make_node("Unsqueeze", ["state_0_in", "zero"], ["h"]),
        helper.make_node("RNN", ["x", "kernel", "recurrent", "", "", "h"], ["all", "last"], hidden_size=units),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
        helper.make_node("Transpose", ["y"], ["outputs"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["last", "zero"], ["state_0_out"]),
    ]
    weights = {"kernel": kernel[None], "recurrent": recurrent[None], "zero": np.array([0]), "one": np.array([1])}
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "features", infos["in"], infos["out"], initializers)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(file)
    np.save(path / "first.npy", first)
    sides = {
        side: [{"name": name, "dtype": "float32", "shape": shape} for name, shape in ends[end]]
        for side, end in (("inputs", "in"), ("outputs", "out"))
    }
    step = {
        side: [{**t, "shape": [axis for axis in t["shape"] if axis != "time"]} for t in tensors]
        for side, tensors in sides.items()
    }
    state = {"input": "state_0_in", "output": "state_0_out", "layer": 0, "role": "h", "initial": "first.npy"}
    content = {"task": "forecast", "signatures": {"step": step, "sequence": sides}, "states": [state], "files": []}
    (path / "manifest.json").write_text(json.dumps(content), "utf-8")
    add(path, file.SerializeToString(), "model.onnx", "onnx", "float32")


def test_a_bundle_of_features_with_a_learned_first_state(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel, recurrent, first, x = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((2, 3), (2, 2), (2,), (4, 6, 3)))
    features_bundle(tmp_path, kernel, recurrent, first)
    model = load(tmp_path)
    h, wanted = np.tile(first, (4, 1)), []
    for column in np.swapaxes(x, 0, 1):
        h = np.tanh(column @ kernel.T + h @ recurrent.T)
        wanted.append(h)
    result, states = model.sequence(x, model.initial_states(4))
    np.testing.assert_allclose(result, np.stack(wanted, 1), atol=1e-5)
    np.testing.assert_allclose(states[0], h, atol=1e-5)
    result, states = model.step(x[:, 0], model.initial_states(4))
    np.testing.assert_allclose(result, wanted[0], atol=1e-5)
    refused(model.session, "no vocabulary", "features")


def test_sequences_are_those_of_the_engine(engine: str, tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    name, rng = {"litert": "model.tflite", "onnx": "model.onnx"}[engine], np.random.default_rng(0)
    for it, inputs in ((tagger_bundle, tokens_of(3, 20)), (classifier_bundle, rng.normal(size=(3, 20, 8)).astype(np.float32))):
        model, run, lengths = load(it.folder, engine), opened_whole(it.folder / name), np.array([20, 9, 1])
        assert (model.vocabulary, model.initial_states(3)) == (None, [])
        for count in (20, 3, 20):
            given, ends = inputs[:, :count], np.minimum(lengths, count)
            np.testing.assert_array_equal(model.sequences(given, ends), run(given, ends))
            np.testing.assert_array_equal(model.sequences(given.tolist(), ends.tolist()), run(given, ends))


def test_a_smaller_file_that_reads_both_ways(tagger_bundle: Exported) -> None:
    tokens, lengths = tokens_of(2, 20), np.array([20, 9])
    for engine, precision, name in (
        ("litert", "dynamic", "model.dynamic.tflite"),
        ("litert", "float16", "model.float16.tflite"),
        ("onnx", "int8", "model.int8.onnx"),
    ):
        found = load(tagger_bundle.folder, engine, precision).sequences(tokens, lengths)
        np.testing.assert_array_equal(found, opened_whole(tagger_bundle.folder / name)(tokens, lengths))


def test_what_reads_both_ways_has_no_stream(engine: str, tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    for it, given in ((tagger_bundle, "tokens"), (classifier_bundle, "features")):
        model = load(it.folder, engine)
        for work in (model.session, lambda model=model: model.predict("are they")):
            refused(work, f"no vocabulary, it takes {given}", "use its sequences")
        refused(lambda model=model: model.step(np.zeros(1), []), "reads both ways and has no step", "method sequences")


@pytest.mark.parametrize(
    "damage",
    [
        lambda inputs: inputs.pop(),
        lambda inputs: inputs[1].update(shape=["batch", "time"]),
        lambda inputs: inputs[1].update(name="counts"),
    ],
    ids=["no lengths", "lengths of another shape", "lengths of another name"],
)
def test_a_damaged_manifest_of_what_reads_both_ways(
    engine: str, damage: Callable[[Any], object], classifier_bundle: Exported, tagger_bundle: Exported, tmp_path: Path
) -> None:
    for it in (classifier_bundle, tagger_bundle):
        copy = Path(shutil.copytree(it.folder, tmp_path / it.folder.parent.name, ignore=shutil.ignore_patterns("saved_model")))
        rewrite(copy, lambda content: damage(content["signatures"]["sequence"]["inputs"]))
        refused(lambda copy=copy: load(copy, engine), str(copy))
