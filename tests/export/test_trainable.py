"""Trainable TFLite files: built-in operators that train as Keras does, and learn a text where they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import ops

from export import trainable
from export.flatbuffer import BUILTIN, operators, read
from export.network import Network
from export.runners import declared
from export.spec import Spec
from export.trainable import RESTORE, SAVE, STEP, TRAIN, Learner, check_trainable, named, signatures, write_trainable
from seqapp.config import ModelConfig
from seqapp.errors import RunFailed, UsageError
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.run import Run
from seqapp.step import Array, KerasStepper, log_softmax

VOCABULARY, UNITS, WINDOW = 61, 16, 5
MODELS = [("plain", 2), ("lstm", 1), ("gru", 2), ("cifg", 1)]
each_model = pytest.mark.parametrize(("cell", "layers"), MODELS)
STREAM = np.random.default_rng(3).integers(0, VOCABULARY, 1000).astype(np.int32)

FileOf = Callable[[str, int], Path]

LEARN_WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "seqapp", "export"):
    sys.modules[name] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter
file, given, made = sys.argv[1:]
feed, first, second = dict(np.load(given)), Interpreter(file), Interpreter(file)
states = {key: value for key, value in feed.items() if key.startswith("state")}
step = {"tokens": feed["tokens"][:, 0], **states}
losses = [first.get_signature_runner("train")(**feed)["loss"] for _ in range(5)]
second.get_signature_runner("restore")(**first.get_signature_runner("save")())
logits = [interpreter.get_signature_runner("step")(**step)["logits"] for interpreter in (first, second)]
np.savez(made, losses=losses, learned=logits[0], restored=logits[1])
"""


@keras.saving.register_keras_serializable(package="test_trainable")
class Own(keras.layers.Layer):
    """A cell of everything: its own normalization, slices of weights and of tensors, activations right behind a product."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.state_size, self.output_size = units, [units, 3], units

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.mix = self.add_weight(shape=(input_shape[-1] + self.units, self.units), name="mix")
        self.turn = self.add_weight(shape=(self.units + 1, self.units), name="turn")
        self.trace = self.add_weight(shape=(self.units, 3), name="trace")
        self.shift = self.add_weight(shape=(self.units,), trainable=False, name="shift")
        self.unused = self.add_weight(shape=(2,), name="unused")
        self.norm = keras.layers.LayerNormalization()
        self.norm.build((None, self.units))

    def call(self, inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        h = ops.relu(ops.matmul(ops.concatenate([inputs, states[0]], -1), self.mix))
        h = self.norm(h + self.shift)
        h = ops.leaky_relu(h[:, ::-1]) * h[:, :1] + ops.elu(h) / (1 + ops.abs(states[1][:, 0, None]))
        h = ops.softsign(ops.matmul(h, self.turn[1:]) + self.turn[0]) + ops.relu6(h) * ops.reciprocal(2 + ops.square(h))
        return h, [h, ops.tanh(ops.matmul(h, self.trace))]


@keras.saving.register_keras_serializable(package="test_trainable")
class Product(keras.layers.Layer):
    """A cell with a product over its units, whose gradient TensorFlow computes with an operator that LiteRT lacks."""

    state_size, output_size = 4, 4

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.mix = self.add_weight(shape=(input_shape[-1], 4), name="mix")

    def call(self, inputs: Any, states: Any) -> tuple[Any, Any]:
        h = ops.tanh(ops.matmul(inputs, self.mix)) * ops.prod(states[0], -1, keepdims=True)
        return h, [h]


def with_weights(model: SequenceModel, scale: float = 0.4) -> SequenceModel:
    """Large weights, no two alike."""
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, scale, weight.shape) for weight in model.get_weights()])
    return model


@cache
def model_of(cell: str, layers: int) -> SequenceModel:
    """One layer tied to the embedding, two through a projection."""
    embedding = UNITS if layers == 1 else 24
    if cell == "own":
        return with_weights(SequenceModel(VOCABULARY, [Own(UNITS) for _ in range(layers)], embedding))
    return with_weights(build_model(ModelConfig(cell=cell, layers=layers, units=UNITS, embedding=embedding), VOCABULARY))


@pytest.fixture(scope="session")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> FileOf:
    """The file of a model, written once."""
    folder = tmp_path_factory.mktemp("trainable")

    def path_of(cell: str, layers: int) -> Path:
        path = folder / f"{cell}-{layers}.tflite"
        if not path.exists():
            write(model_of(cell, layers), path)
        return path

    return path_of


def write(model: SequenceModel, path: Path, window: int = WINDOW) -> None:
    network = Network.of(model)
    write_trainable(network, Spec.of(network), path, window)


def check(model: SequenceModel, path: Path) -> list[str]:
    network = Network.of(model)
    return list(check_trainable(path, network, Spec.of(network), STREAM))


def runners(path: Path) -> dict[str, Any]:
    interpreter = Interpreter(str(path))
    return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}


def states_of(model: SequenceModel, batch: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {f"state_{i}_in": rng.normal(0, 1, (batch, size)).astype(np.float32) for i, size in enumerate(model.state_sizes)}


def after(result: dict[str, Array]) -> dict[str, Array]:
    return {name.replace("_out", "_in"): value for name, value in result.items() if name.startswith("state")}


def feed(tokens: Array, rate: float, states: dict[str, Array]) -> dict[str, Any]:
    return {"tokens": tokens[None, :-1], "targets": tokens[None, 1:], "learning_rate": np.float32(rate), **states}


@each_model
def test_does_what_tensorflow_does(cell: str, layers: int, file_of: FileOf) -> None:
    assert check(model_of(cell, layers), file_of(cell, layers)) == []


def test_a_cell_of_ones_own_learns_too(file_of: FileOf) -> None:
    assert check(model_of("own", 1), file_of("own", 1)) == []


def test_remedied_cells_learn_too(tmp_path: Path) -> None:
    options = {"normalized": True, "zoneout": 0.1, "residual": True, "learned_start": True, "attention": True}
    config = ModelConfig(cell="lstm", layers=2, units=UNITS, embedding=24, **options)
    model = with_weights(build_model(config, VOCABULARY), scale=0.2)
    write(model, tmp_path / "model.tflite")
    assert check(model, tmp_path / "model.tflite") == []


def test_a_chaotic_model_is_not_refused(tmp_path: Path) -> None:
    """Large weights: ten steps of training make of a rounding what no tolerance holds, one step does not."""
    config = ModelConfig(cell="plain", layers=2, units=UNITS, embedding=24)
    model = with_weights(build_model(config, VOCABULARY), scale=1.0)
    write(model, tmp_path / "model.tflite", window=16)
    assert check(model, tmp_path / "model.tflite") == []


@each_model
def test_needs_built_in_operators_only(cell: str, layers: int, file_of: FileOf) -> None:
    found = operators(file_of(cell, layers).read_bytes())
    assert not found.keys() - BUILTIN
    assert {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"} <= found.keys()


@each_model
def test_holds_each_weight_once(cell: str, layers: int, file_of: FileOf) -> None:
    model, content = model_of(cell, layers), file_of(cell, layers).read_bytes()
    stored = [bytes(buffer.data) for buffer in read(content).buffers if buffer.data is not None]
    learned = [np.asarray(variable.value) for variable in named(Network.of(model)).values()]
    for weight in learned:
        assert sum(data in (weight.tobytes(), weight.T.tobytes()) for data in stored) == 1
    # What is left is for shapes, indices, rows of zeros and the runtime's version.
    assert sum(map(len, stored)) <= sum(weight.nbytes for weight in learned) + 2500


@pytest.mark.parametrize("scale", [0.02, 0.6])
def test_trains_as_keras_with_sgd(scale: float, file_of: FileOf) -> None:
    """The reference shares nothing with the file: the model over whole windows, Keras's own loss and optimizer.

    Small weights make small gradients; of large ones the norm is clipped.
    """
    like = model_of("gru", 2)
    reference = with_weights(type(like).from_config(like.get_config()), scale)
    first = {name: np.array(variable.value) for name, variable in named(Network.of(reference)).items()}
    file, states, rate = runners(file_of("gru", 2)), states_of(like), 0.4
    file[RESTORE](**first)
    carried, optimizer, norms = list(states.values()), keras.optimizers.SGD(rate, global_clipnorm=1.0), []
    for call, tokens in enumerate(STREAM[: 10 * (WINDOW + 1)].reshape(10, -1), 1):
        with tf.GradientTape() as tape:
            logits, carried = reference(tokens[None, :-1], carried)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(tokens[None, 1:], logits)
        gradients = tape.gradient(loss, [variable.value for variable in reference.trainable_variables])
        norms.append(float(tf.linalg.global_norm(gradients)))
        optimizer.apply(gradients, reference.trainable_variables)
        result = file[TRAIN](**feed(tokens, rate, states))
        states = after(result)
        np.testing.assert_allclose(result["loss"], loss, rtol=1e-4)
        for found, wanted in zip(states.values(), carried, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        if call in (1, 10):
            saved = file[SAVE]()
            for name, variable in named(Network.of(reference)).items():
                np.testing.assert_allclose(saved[name], variable.value, rtol=1e-4, atol=2e-6)
    assert max(np.abs(saved[name] - value).max() for name, value in first.items()) > 0.01
    assert max(norms) < 1 if scale < 0.1 else min(norms) > 1


def test_a_target_of_minus_one_does_not_count(file_of: FileOf) -> None:
    model, file, tokens = model_of("lstm", 1), runners(file_of("lstm", 1)), STREAM[: WINDOW + 1]
    states = states_of(model)
    given = feed(tokens, 0.0, states)
    given["targets"] = np.where(np.arange(WINDOW) < 3, given["targets"], -1).astype(np.int32)
    logits, _ = KerasStepper(model).sequence(tokens[None, :3], list(states.values()))
    wanted = -log_softmax(logits[0])[np.arange(3), tokens[1:4]].mean()
    np.testing.assert_allclose(file[TRAIN](**given)["loss"], wanted, rtol=1e-5)
    given["targets"][:], before = -1, file[SAVE]()
    assert file[TRAIN](**{**given, "learning_rate": np.float32(1)})["loss"] == 0
    for name, value in file[SAVE]().items():
        np.testing.assert_array_equal(value, before[name])


def test_step_takes_any_batch_and_what_was_learned(file_of: FileOf) -> None:
    model, file, tokens = model_of("gru", 2), runners(file_of("gru", 2)), STREAM[: WINDOW + 1]
    states = states_of(model, batch=3)
    wanted, _ = KerasStepper(model).step(tokens[:3], list(states.values()))
    np.testing.assert_allclose(file[STEP](tokens=tokens[:3], **states)["logits"], wanted, atol=1e-5)
    losses = [float(file[TRAIN](**feed(tokens, 0.5, states_of(model)))["loss"]) for _ in range(60)]
    assert losses[-1] < losses[0] / 4
    carried, right = states_of(model), 0
    for token, target in pairwise(tokens):
        result = file[STEP](tokens=np.array([token], np.int32), **carried)
        carried, right = after(result), right + (result["logits"].argmax() == target)
    assert right == WINDOW


@pytest.mark.parametrize("first", [TRAIN, STEP, SAVE, RESTORE])
def test_any_signature_may_be_the_first(first: str, file_of: FileOf) -> None:
    """The weights are put in once: not again when another signature is called."""
    model, file, tokens = model_of("cifg", 1), runners(file_of("cifg", 1)), STREAM[: WINDOW + 1]
    trained = {name: np.asarray(variable.value) for name, variable in named(Network.of(model)).items()}
    changed = {name: value + np.float32(0.1) for name, value in trained.items()}
    calls: dict[str, dict[str, Any]] = {
        TRAIN: feed(tokens, 0.5, states_of(model)),
        STEP: {"tokens": tokens[:1], **states_of(model)},
        SAVE: {},
        RESTORE: changed,
    }
    file[first](**calls[first])
    before = changed if first == RESTORE else trained
    for name, value in file[SAVE]().items():
        moved = np.abs(value - before[name]).max()
        assert (moved > 0) if first == TRAIN else (moved == 0)


def test_two_interpreters_share_nothing(file_of: FileOf) -> None:
    one, other = (runners(file_of("lstm", 1)) for _ in range(2))
    before = other[SAVE]()
    one[TRAIN](**feed(STREAM[: WINDOW + 1], 0.5, states_of(model_of("lstm", 1))))
    assert np.abs(one[SAVE]()["lstm_cell_kernel"] - before["lstm_cell_kernel"]).max() > 0
    for name, value in other[SAVE]().items():
        np.testing.assert_array_equal(value, before[name])


def test_learns_where_tensorflow_and_keras_are_missing(tmp_path: Path, file_of: FileOf) -> None:
    model = model_of("gru", 2)
    np.savez(tmp_path / "given.npz", **feed(STREAM[: WINDOW + 1], 0.5, states_of(model)))
    names = [str(file_of("gru", 2)), str(tmp_path / "given.npz"), str(tmp_path / "made.npz")]
    command = [sys.executable, "-c", LEARN_WITHOUT_TENSORFLOW, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    assert (np.diff(made["losses"]) < 0).all()
    np.testing.assert_array_equal(made["learned"], made["restored"])
    untrained, _ = KerasStepper(model).step(STREAM[:1], list(states_of(model).values()))
    assert np.abs(made["learned"] - untrained).max() > 0.1


@each_model
def test_declares_what_it_should(cell: str, layers: int, file_of: FileOf) -> None:
    network = Network.of(model_of(cell, layers))
    found = declared("tflite", file_of(cell, layers))
    wanted = {
        name: {
            side: {t.name: (t.dtype, [-1 if isinstance(axis, str) else axis for axis in t.shape]) for t in tensors}
            for side, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs))
        }
        for name, signature in signatures(network, Spec.of(network), WINDOW).items()
    }
    assert wanted[TRAIN]["inputs"]["targets"] == ("int32", [1, WINDOW])
    assert {
        name: {side: {t["name"]: (t["dtype"], t["shape"]) for t in tensors} for side, tensors in sides.items()}
        for name, sides in found.items()
    } == wanted


def test_names_are_the_same_in_every_process(tmp_path: Path) -> None:
    model = SequenceModel(VOCABULARY, [Own(4), Own(4)], 6)
    model.save(tmp_path / "model.keras")
    others = [keras.saving.load_model(tmp_path / "model.keras"), SequenceModel(VOCABULARY, [Own(4), Own(4)], 6)]
    names = list(named(Network.of(model)))
    assert {"embedding_embeddings", "own_mix", "own_mix_1", "layer_normalization_gamma_1", "dense_kernel"} <= set(names)
    assert not any("shift" in name for name in names)
    for other in others:
        assert {name: v.shape for name, v in named(Network.of(other)).items()} == {
            name: v.shape for name, v in named(Network.of(model)).items()
        }
        assert list(named(Network.of(other))) == names


def test_the_model_itself_stays_as_it_is(file_of: FileOf) -> None:
    model, file = model_of("plain", 2), runners(file_of("plain", 2))
    file[TRAIN](**feed(STREAM[: WINDOW + 1], 1.0, states_of(model)))
    for weight, made in zip(model.get_weights(), model_of.__wrapped__("plain", 2).get_weights(), strict=True):
        np.testing.assert_array_equal(weight, made)


def test_learns_the_text_of_one_person(trained: Callable[..., Run], tmp_path: Path) -> None:
    """Forty lines of somebody who is always late and hungry; measured on lines of theirs that were not trained on."""
    run = trained()
    model, vocabulary = run.load_model(), run.vocabulary
    write_trainable(Network.of(model), Spec.of(Network.of(model)), tmp_path / "model.tflite")
    file = runners(tmp_path / "model.tflite")
    habits = ["late again", "hungry now", "hungry at last", "late tonight"]
    lines = [f"No, {who} not {habits[i % 4]}." for i, who in enumerate(["i am", "we are", "she is"] * 20)]
    mine, unseen = (np.array(vocabulary.encode("\n".join(part)), np.int32) for part in (lines[:40], lines[40:]))
    zero = {state.input: np.zeros((1, state.size), np.float32) for state in Spec.of(Network.of(model)).states}
    before = nats(file, unseen, zero)
    for _ in range(2):
        states = zero
        for start in range(0, len(mine) - trainable.WINDOW, trainable.WINDOW):
            states = after(file[TRAIN](**feed(mine[start : start + trainable.WINDOW + 1], 0.1, states)))
    assert nats(file, unseen, zero) < before - 0.5


def nats(file: dict[str, Any], tokens: Array, states: dict[str, Array]) -> float:
    """Mean nats per token over a text, by the file's own steps."""
    total = 0.0
    for token, target in pairwise(tokens):
        result = file[STEP](tokens=np.array([token], np.int32), **states)
        states, total = after(result), total - log_softmax(result["logits"][0])[target]
    return total / (len(tokens) - 1)


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "begin": lambda x: x[1:],
    "end": lambda x: x[:, :-1],
    "stride": lambda x: x[:, 1::2],
    "backwards": lambda x: x[:, ::-1],
    "backwards in part": lambda x: x[:, 3:0:-2],
    "one": lambda x: x[2],
    "the last one": lambda x: x[:, -1],
    "new axis": lambda x: x[:, None, 1:3],
    "ellipsis": lambda x: x[..., 1:],
    "ellipsis amid others": lambda x: tf.reshape(x, [4, 1, 5])[1:, ..., None, 2:4],
    "everything": lambda x: x[:],
    "nothing": lambda x: x[4:],
    "relu": tf.nn.relu,
    "relu6": lambda x: tf.nn.relu6(4 * x),
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "elu": tf.nn.elu,
    "softsign": tf.nn.softsign,
    "reciprocal": tf.math.reciprocal,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_tensorflows_without_its_operators(name: str) -> None:
    wanted, kinds = gradient(OPERATIONS[name], {})
    assert any(kind.endswith("Grad") for kind in kinds)
    found, kinds = gradient(OPERATIONS[name], trainable.OWN_NAMES)
    assert not any(kind.endswith("Grad") for kind in kinds)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def gradient(operation: Callable[[Any], Any], names: dict[str, str]) -> tuple[Array, list[str]]:
    with tf.Graph().as_default() as graph, graph.gradient_override_map(names):
        x = tf.constant(np.random.default_rng(2).normal(0, 2, (4, 5)).astype(np.float32))
        (found,) = tf.gradients(tf.reduce_sum(tf.exp(0.3 * operation(x))), x)
        with tf.compat.v1.Session() as session:
            return session.run(found), [node.type for node in graph.get_operations()]


def test_a_cut_at_a_computed_place_is_refused() -> None:
    def cut(x: Any) -> Any:
        return x[tf.argmax(x[:, 0]) :]

    with pytest.raises(RunFailed, match="cuts at a place that it computes"):
        gradient(cut, trainable.OWN_NAMES)


def test_an_operator_that_is_not_built_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="Cumprod") as caught:
        write(SequenceModel(VOCABULARY, [Product()], 6), tmp_path / "model.tflite", window=2)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_features_are_refused(tmp_path: Path) -> None:
    network = Network.of(keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(4, return_sequences=True)]))
    with pytest.raises(UsageError, match=r"tokens to logits.*features to outputs"):
        write_trainable(network, Spec.of(network), tmp_path / "model.tflite")


def test_check_sees_a_file_that_is_not_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: another rule of training, a restore that does nothing, and then another weight."""
    model, path = model_of.__wrapped__("lstm", 1), tmp_path / "model.tflite"
    monkeypatch.setattr(trainable, "CLIP_NORM", 0.1)
    monkeypatch.setattr(Learner, "restore", lambda self, **given: {"restored": tf.constant(0)})
    write(model, path)
    monkeypatch.undo()
    failures = check(model, path)
    assert any("lstm_cell_kernel after call 1 is off" in failure for failure in failures)
    assert any("the loss of call 10 is off" in failure for failure in failures)
    assert not any("first step" in failure or "loss of call 1 " in failure for failure in failures)
    assert failures[-1].startswith("the step after restore is off by")
    model.set_weights([weight + np.float32(1e-3) for weight in model.get_weights()])
    assert check(model, path)[0].startswith("the first step is off by")
