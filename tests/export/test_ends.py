"""Classifiers of whole sequences in the stock engines: padded, in chunks and step by step, they are Keras on each one alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import ops
from onnx import TensorProto, helper

from export import graphs, tflite, validate
from export.artifact import ARTIFACTS
from export.conversion import _fitting
from export.network import Network
from export.onnx_graph import operators, write_onnx
from export.reference import Reference
from export.saved_model import write_saved_model
from export.source import Source
from export.spec import Spec
from seqapp.cells import CELLS
from seqapp.classifier import Classifier
from seqapp.classify import Classified, classified_by, figures, log_probabilities
from seqapp.sequences import Sequences
from seqapp.step import Array
from tests.export.conftest import OwnCell, filled

V, C, F = 19, 4, 3
MEAN, VARIANCE = [2.0, -50.0, 0.0], [0.25, 400.0, 1.0]
NAMES = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}
KINDS = {**CELLS, "own": OwnCell}
Named = dict[str, Array]
Engine = dict[str, Callable[[Named], Named]]


@dataclass(frozen=True)
class Member:
    """A classifier by its cell, its depth and its inputs."""

    cell: str
    depth: int
    inputs: str

    def __str__(self) -> str:
        return f"{self.cell}-{self.depth}-{self.inputs}"

    def build(self) -> Classifier:
        cells = [KINDS[self.cell](units) for units in (8, 6)[: self.depth]]
        of_tokens = {"vocabulary_size": V, "embedding": 5} if self.inputs == "tokens" else {"mean": MEAN, "variance": VARIANCE}
        return filled(Classifier(C, cells, **of_tokens))

    def samples(self, batch: int, timesteps: int, seed: int = 1) -> Array:
        rng = np.random.default_rng(seed)
        if self.inputs == "tokens":
            return rng.integers(0, V, (batch, timesteps)).astype(np.int32)
        return (rng.normal(size=(batch, timesteps, F)) * np.sqrt(VARIANCE) + MEAN).astype(np.float32)

    def padded(self, lengths: tuple[int, ...], timesteps: int) -> Array:
        """Sequences of these lengths, behind each of them what is none of it."""
        x = self.samples(len(lengths), timesteps)
        garbage = np.flip(x, 1) if self.inputs == "tokens" else np.full_like(x, 1e3)
        for row, other, length in zip(x, garbage, lengths, strict=True):
            row[length:] = other[length:]
        return x


ALL = [Member(cell, depth, inputs) for cell in KINDS for depth in (1, 2) for inputs in ("tokens", "features")]
# Each cell once with tokens and once with features, the depths in turn; ONNX, which is written soonest, has them all.
FEW = [Member(cell, 1 + (i + j) % 2, inputs) for i, cell in enumerate(KINDS) for j, inputs in enumerate(("tokens", "features"))]
CASES = [
    pytest.param((member, format), id=f"{member}-{format}", marks=[] if often else pytest.mark.matrix)
    for member in ALL
    for format in NAMES
    for often in [member in FEW[::3] if format != "onnx" else member in FEW]
]


class Subject:
    """A classifier, and what Keras makes of it."""

    def __init__(self, member: Member) -> None:
        self.member, self.model = member, member.build()
        self.network = Network.of(self.model)
        self.spec = Spec.of(self.network)

    @cached_property
    def classified(self) -> Classified:
        return classified_by(self.model)

    def alone(self, x: Array) -> Array:
        """The logits (C,) of one sequence, by the Keras model."""
        return self.classified(x[None], np.array([len(x)], np.int32))[0]

    def states(self, x: Array) -> list[Array]:
        """The states (U,) after one sequence, by the cells, one timestep after the other."""
        if self.model.vocabulary_size:
            x = np.asarray(self.model.first.embeddings)[x]
        else:
            x = ((x - MEAN) / np.sqrt(VARIANCE)).astype(np.float32)
        return [np.asarray(state)[0] for state in self._last(x[:, None])]

    @cached_property
    def _last(self) -> Any:
        cells = [layer.cell for layer in self.model.ahead]

        def step(states: Any, x: Any) -> Any:
            after = []
            for cell, before in zip(cells, states, strict=True):
                x, own = cell(x, before)
                after.append(list(own))
            return after

        @tf.function(autograph=False, reduce_retracing=True)
        def last(x: Any) -> Any:
            first = [[tf.zeros((1, size)) for size in cell.state_size] for cell in cells]
            return [state[-1] for state in tf.nest.flatten(tf.scan(step, x, first))]

        return last.get_concrete_function(
            tf.TensorSpec([None, 1, self.model.first.output_dim if self.model.vocabulary_size else F])
        )

    def write(self, format: str, path: Path) -> Path:
        if format == "tflite":
            path.write_bytes(tflite.float32(self.network, self.spec))
        else:
            {"saved_model": write_saved_model, "onnx": write_onnx}[format](self.network, self.spec, path)
        return path


def opened(format: str, path: Path) -> Engine:
    """The signatures of a file in its stock engine: named arrays to named arrays."""
    if format == "tflite":
        interpreter = Interpreter(str(path), num_threads=1)
        runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        return {name: lambda feed, runner=runner: dict(runner(**feed)) for name, runner in runners.items()}
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return {"sequence": lambda feed: dict(zip(names, session.run(names, feed), strict=True))}
    loaded = tf.saved_model.load(str(path))
    return {name: lambda feed, name=name: _by_tensorflow(loaded.signatures[name], feed) for name in loaded.signatures}


def _by_tensorflow(function: Any, feed: Named) -> Named:
    return {key: value.numpy() for key, value in function(**{k: tf.constant(v) for k, v in feed.items()}).items()}


@dataclass(frozen=True)
class Case:
    subject: Subject
    format: str
    engine: Engine

    @property
    def member(self) -> Member:
        return self.subject.member

    def first(self, batch: int) -> list[Array]:
        return [np.zeros((batch, state.size), np.float32) for state in self.subject.spec.states]

    def sequence(self, x: Array, lengths: Any, states: list[Array]) -> tuple[Array, list[Array]]:
        return self._run("sequence", {self.member.inputs: x, "lengths": np.array(lengths, np.int32)}, states)

    def step(self, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        """By the signature; the one of an ONNX file, which with one timestep is the step too."""
        if "step" not in self.engine:
            return self.sequence(x[:, None], [1] * len(x), states)
        return self._run("step", {self.member.inputs: x}, states)

    def _run(self, signature: str, feed: Named, states: list[Array]) -> tuple[Array, list[Array]]:
        result = self.engine[signature]({**feed, **{f"state_{i}_in": state for i, state in enumerate(states)}})
        return result["class_logits"], [result[f"state_{i}_out"] for i in range(len(states))]


def assert_same(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


def assert_ends(case: Case, x: Array, lengths: Any, found: tuple[Array, list[Array]]) -> None:
    """Logits and states are those of each sequence alone."""
    logits, states = found
    assert logits.shape == (len(lengths), C)
    for row, length in enumerate(lengths):
        assert_same(logits[row], case.subject.alone(x[row, :length]))
        for state, wanted in zip(states, case.subject.states(x[row, :length]), strict=True):
            assert_same(state[row], wanted)


@pytest.fixture(scope="module")
def subject_of() -> Callable[[Member], Subject]:
    made: dict[Member, Subject] = {}
    return lambda member: made.setdefault(member, made.get(member) or Subject(member))


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, subject_of: Callable[[Member], Subject], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    member, format = request.param
    subject = subject_of(member)
    return Case(subject, format, opened(format, subject.write(format, tmp_path_factory.mktemp("ends") / NAMES[format])))


class TestEveryFile:
    @pytest.mark.parametrize("lengths", [(1,), (7,), (100,), (7, 3, 1), (1, 100, 7)], ids=str)
    def test_padded_sequences_are_those_alone(self, case: Case, lengths: tuple[int, ...]) -> None:
        for timesteps in (max(lengths), max(lengths) + 2):
            x = case.member.padded(lengths, timesteps)
            assert_ends(case, x, lengths, case.sequence(x, lengths, case.first(len(lengths))))

    def test_what_stands_behind_a_sequence_is_not_read(self, case: Case) -> None:
        lengths = (4, 6, 2)
        x = case.member.padded(lengths, 8)
        other = x.copy()
        for row, length in zip(other, lengths, strict=True):
            row[length:] = row[0]
        one, two = (case.sequence(given, lengths, case.first(3)) for given in (x, other))
        for a, b in zip([one[0], *one[1]], [two[0], *two[1]], strict=True):
            np.testing.assert_array_equal(a, b)

    def test_chunks_are_the_whole_at_every_cut(self, case: Case) -> None:
        """The states carry a sequence on; the second chunks are of different lengths."""
        x, lengths = case.member.samples(3, 9), np.array([9, 8, 9])
        whole = case.sequence(x, lengths, case.first(3))
        for cut in range(1, 8):
            _, states = case.sequence(x[:, :cut], [cut] * 3, case.first(3))
            logits, after = case.sequence(x[:, cut:], lengths - cut, states)
            for found, wanted in zip([logits, *after], [whole[0], *whole[1]], strict=True):
                assert_same(found, wanted)

    def test_steps_are_the_sequence_at_every_timestep(self, case: Case) -> None:
        x, states = case.member.samples(3, 6), case.first(3)
        for t in range(6):
            logits, states = case.step(x[:, t], states)
            wanted, wanted_states = case.sequence(x, [t + 1] * 3, case.first(3))
            for found, other in zip([logits, *states], [wanted, *wanted_states], strict=True):
                assert_same(found, other)

    def test_states_that_come_in_matter(self, case: Case) -> None:
        x, fresh = case.member.samples(2, 5), case.first(2)
        before, _ = case.sequence(x, [5, 3], fresh)
        for i in range(len(fresh)):
            states = [np.full_like(state, 0.7) if i == j else state for j, state in enumerate(fresh)]
            assert np.abs(case.sequence(x, [5, 3], states)[0] - before).max() > 1e-3

    def test_the_signatures_are_those_of_ends(self, case: Case) -> None:
        named = {name for name in case.engine if name != "serve"}
        assert named == ({"sequence"} if case.format == "onnx" else {"step", "sequence"})


SMALL = Member("gru", 2, "tokens")


@pytest.mark.parametrize("format", list(NAMES))
def test_around_the_blocks_of_loops(format: str, subject_of: Callable[[Member], Subject], tmp_path: Path) -> None:
    subject = subject_of(SMALL)
    case = Case(subject, format, opened(format, subject.write(format, tmp_path / NAMES[format])))
    large, small = graphs.BLOCKS
    ends = [(small - 1, small, small + 1), (small + 1, 1, 2 * small + 1), (large + 1, large, large - 1), (1, large + small, 2)]
    for lengths in (*ends, (large + 99, small, 2 * large + 1)):
        x = SMALL.padded(lengths, max(lengths))
        assert_ends(case, x, lengths, case.sequence(x, lengths, case.first(3)))


def test_the_spec_of_ends() -> None:
    spec = Spec.of(Network.of(Member("lstm", 1, "features").build()))
    assert (spec.takes_lengths, spec.last_only, spec.both_ways, spec.output) == (True, True, False, "class_logits")
    assert list(spec.signatures) == ["step", "sequence"]
    step, sequence = spec.signatures.values()
    assert [(t.name, t.dtype, t.shape) for t in sequence.inputs] == [
        ("features", "float32", ("batch", "time", F)),
        ("lengths", "int32", ("batch",)),
        *((f"state_{i}_in", "float32", ("batch", 8)) for i in range(2)),
    ]
    assert [t.name for t in step.inputs] == ["features", "state_0_in", "state_1_in"]
    for signature in (step, sequence):
        assert [(t.name, t.shape) for t in signature.outputs] == [
            ("class_logits", ("batch", C)),
            ("state_0_out", ("batch", 8)),
            ("state_1_out", ("batch", 8)),
        ]


def test_a_label_for_each_timestep_needs_no_lengths() -> None:
    spec = Spec.of(Network.of(filled(Classifier(C, [CELLS["gru"](8)], [], V, 5, each_timestep=True))))
    assert not spec.takes_lengths and not spec.last_only
    assert list(spec.signatures) == ["step", "sequence", "prefill"]


@pytest.mark.parametrize(("cell", "operator"), [("plain", "RNN"), ("lstm", "LSTM"), ("gru", "GRU"), ("own", "Scan")])
def test_onnx_keeps_its_operators(cell: str, operator: str, subject_of: Callable[[Member], Subject], tmp_path: Path) -> None:
    path = subject_of(Member(cell, 2, "tokens")).write("onnx", tmp_path / "model.onnx")
    assert operators(path)[operator] == 2


# What validation finds.

TRUTH = Member("lstm", 1, "tokens")


@pytest.fixture(scope="module")
def truth(subject_of: Callable[[Member], Subject]) -> tuple[Subject, Reference]:
    """A classifier, and 60 sequences with the classes that it gives to most of them."""
    subject, rng = subject_of(TRUTH), np.random.default_rng(2)
    x = [TRUTH.samples(1, int(n), seed=i)[0] for i, n in enumerate(rng.integers(2, 30, 60))]
    labels = [np.int32(subject.alone(one).argmax() if i % 4 else i // 4 % C) for i, one in enumerate(x)]
    return subject, Reference(subject.network, np.concatenate(x), examples=Sequences(x, labels))


def verdict(truth: tuple[Subject, Reference], format: str, path: Path) -> validate.Verdict:
    reference = truth[1]
    (artifact,) = (a for a in ARTIFACTS if a.path == NAMES[format])
    source = Source("classify", reference, reference.inputs, classes=tuple("abcd"))
    return validate.validate(_fitting(source, [artifact])[0], path, reference)


def topics(found: validate.Verdict) -> list[str]:
    return [text.split(" differ")[0].split(" is ")[0] for text in found.failures]


LOGS, STATES, STEP_LOGS, LOSS = "sequence: log-probabilities", "sequence: states", "step: log-probabilities", "its perplexity"


@pytest.mark.parametrize("format", list(NAMES))
def test_a_good_file_passes(format: str, truth: tuple[Subject, Reference], tmp_path: Path) -> None:
    subject, reference = truth
    found = verdict(truth, format, subject.write(format, tmp_path / NAMES[format]))
    assert found.failures == []
    assert [parity.signature for parity in found.parity] == ["step", "sequence"]
    examples = reference.examples
    assert examples is not None
    logs = np.stack(log_probabilities(subject.classified, examples))
    wanted = figures(logs, np.array(examples.labels))
    assert 0.6 < wanted["accuracy"]["value"] < 0.95
    for name in ("accuracy", "nats_per_label"):
        assert found.metrics[name]["value"] == pytest.approx(wanted[name]["value"], abs=1e-5)
        assert found.metrics[name]["count"] == 60


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """An ONNX file with a change made to it."""
    file = onnx.load(path)
    change(file)
    path.write_bytes(file.SerializeToString())
    return path


def ignore_lengths(file: onnx.ModelProto) -> None:
    """As if each sequence were as long as the longest."""
    for node in file.graph.node:
        node.input[:] = ["whole" if name == "lengths" else name for name in node.input]
    nodes = [
        helper.make_node("Shape", ["tokens"], ["shape"], start=1, end=2),
        helper.make_node("Shape", ["lengths"], ["rows"]),
        helper.make_node("Cast", ["shape"], ["one_length"], to=TensorProto.INT32),
        helper.make_node("Expand", ["one_length", "rows"], ["whole"]),
    ]
    kept = list(file.graph.node)
    del file.graph.node[:]
    file.graph.node.extend([*nodes, *kept])


def run_on_behind_the_end(file: onnx.ModelProto) -> None:
    """The outputs are right, and the states are those of the padding."""
    (node,) = [node for node in file.graph.node if node.op_type == "LSTM"]
    assert node.input[4] == "lengths"
    node.input[4] = ""


@pytest.mark.parametrize(
    ("change", "wanted"), [(ignore_lengths, [LOGS, STATES, LOSS]), (run_on_behind_the_end, [STATES])], ids=["lengths", "states"]
)
def test_an_end_that_is_missed(
    change: Callable[[onnx.ModelProto], None], wanted: list[str], truth: tuple[Subject, Reference], tmp_path: Path
) -> None:
    path = changed(truth[0].write("onnx", tmp_path / "model.onnx"), change)
    assert topics(verdict(truth, "onnx", path)) == wanted


def test_states_of_the_padding_in_tflite(
    truth: tuple[Subject, Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = graphs._loop
    monkeypatch.setattr(graphs, "_loop", lambda stage, x, states, left=None: loop(stage, x, states))
    assert topics(verdict(truth, "tflite", truth[0].write("tflite", tmp_path / "model.tflite"))) == [STATES]


def test_classes_that_are_swapped(truth: tuple[Subject, Reference], tmp_path: Path) -> None:
    subject = Subject(TRUTH)
    for weight in (subject.model.head.kernel, subject.model.head.bias):
        weight.assign(ops.take(weight, [1, 0, 2, 3], axis=-1))
    found = topics(verdict(truth, "onnx", subject.write("onnx", tmp_path / "model.onnx")))
    assert found == [STEP_LOGS, LOGS, LOSS]
