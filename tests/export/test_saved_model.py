"""SavedModels: TensorFlow alone runs them, on numbers and, with a vocabulary, on text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from export.network import Network
from export.saved_model import write_saved_model
from export.spec import Spec
from seqapp.step import KerasStepper, log_softmax
from seqapp.vocabulary import Vocabulary
from tests.export.conftest import filled, model_of, of_features, states_of

VOCABULARY = Vocabulary.learn(["we are late , are we not ? yes , we are late again"], "word", True)

RUN_WITHOUT_KERAS = """
import sys
for name in ("keras", "seqapp", "export"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
folder, given, made = sys.argv[1:]
signatures, feed = tf.saved_model.load(folder).signatures, dict(np.load(given))
assert sorted(signatures) == ["prefill", "sequence", "serve", "step"]
results = {}
for name in ("prefill", "sequence", "step"):
    tokens = feed["tokens"][:, 0] if name == "step" else feed["tokens"]
    states = {key: tf.constant(value) for key, value in feed.items() if key != "tokens"}
    for key, value in signatures[name](tokens=tf.constant(tokens), **states).items():
        results[f"{name}_{key}"] = value.numpy()
for key, value in signatures["serve"](text=tf.constant(["we are", "late"])).items():
    results[f"serve_{key}"] = value.numpy().astype("U" if key == "words" else "f")
np.savez(made, **results)
"""


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.of(model_of(len(VOCABULARY), cell="lstm", layers=2))


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "saved_model"
    write_saved_model(network, Spec.of(network), path, VOCABULARY)
    return path


@pytest.fixture(scope="module")
def made(network: Network, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that has neither Keras nor this project makes of it; the tokens and states it was given too."""
    work = tmp_path_factory.mktemp("work")
    tokens = np.random.default_rng(7).integers(0, len(VOCABULARY), (3, 20)).astype(np.int32)
    states = {f"state_{i}_in": state for i, state in enumerate(states_of(network, 3))}
    np.savez(work / "given.npz", tokens=tokens, **states)
    command = [sys.executable, "-c", RUN_WITHOUT_KERAS, str(folder), str(work / "given.npz"), str(work / "made.npz")]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**np.load(work / "made.npz"), "tokens": tokens, "states": list(states.values())}


def test_runs_where_keras_and_this_project_are_missing(network: Network, made: dict[str, Any]) -> None:
    reference, tokens, states = KerasStepper(network), made["tokens"], made["states"]
    logits, last = reference.sequence(tokens, states)
    for name, (wanted, after) in {
        "sequence": (logits, last),
        "prefill": (logits[:, -1], last),
        "step": reference.step(tokens[:, 0], states),
    }.items():
        np.testing.assert_allclose(made[f"{name}_logits"], wanted, rtol=1e-5, atol=1e-5)
        for i, state in enumerate(after):
            np.testing.assert_allclose(made[f"{name}_state_{i}_out"], state, rtol=1e-5, atol=1e-5)


def test_serves_text(network: Network, made: dict[str, Any]) -> None:
    reference = KerasStepper(network)
    for row, text in enumerate(("we are", "late")):
        tokens = np.array([[VOCABULARY.end_number, *VOCABULARY.numbers(VOCABULARY.prompt(text))]])
        logits, _ = reference.sequence(tokens, reference.initial_states(1))
        p = np.exp(log_softmax(logits[0, -1].astype(np.float64)))
        best = [number for number in np.argsort(-p) if number != VOCABULARY.unknown_number][:5]
        assert list(made["serve_words"][row]) == [VOCABULARY.tokens[number] for number in best]
        np.testing.assert_allclose(made["serve_probabilities"][row], p[best], rtol=1e-4)


def test_holds_each_weight_once_and_as_trained(network: Network, folder: Path) -> None:
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    stored = {checkpoint.get_tensor(name).tobytes() for name in names}
    assert stored >= {weight.tobytes() for weight in network.model.get_weights()}
    data = folder / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size <= 4 * network.model.count_params() + 5000


def test_a_model_of_features_serves_no_text(tmp_path: Path) -> None:
    network = Network.of(of_features(layers.GRU(6, return_sequences=True), layers.BatchNormalization(), layers.Dense(4)))
    write_saved_model(network, Spec.of(network), tmp_path / "x")
    signatures = tf.saved_model.load(str(tmp_path / "x")).signatures
    assert sorted(signatures) == ["prefill", "sequence", "step"]
    x = np.random.default_rng(1).normal(size=(2, 9, 8)).astype(np.float32)
    found = signatures["sequence"](features=tf.constant(x), state_0_in=tf.zeros((2, 6)))
    np.testing.assert_allclose(found["outputs"], np.asarray(network.model(x)), rtol=1e-5, atol=1e-5)


def test_inner_names_are_short_and_gradients_those_of_the_operators(tmp_path: Path) -> None:
    """Keras gives silu a gradient of its own, whose functions TensorFlow would save too."""
    network = Network.of(of_features(layers.SimpleRNN(6, "silu", return_sequences=True), layers.Dense(4, "silu")))
    write_saved_model(network, Spec.of(network), tmp_path / "x")
    content = SavedModel.FromString((tmp_path / "x" / "saved_model.pb").read_bytes())
    names = [node.name for f in content.meta_graphs[0].graph_def.library.function for node in f.node_def]
    assert len(names) > 100 and max(map(len, names)) < 5
    written = str(tf.saved_model.experimental.read_fingerprint(str(tmp_path / "x")))
    write_fingerprint(str(tmp_path / "x"))
    assert str(tf.saved_model.experimental.read_fingerprint(str(tmp_path / "x"))) == written

    step = (loaded := tf.saved_model.load(str(tmp_path / "x"))).signatures["step"]
    x, before = tf.random.stateless_normal((2, 8), (1, 2)), tf.zeros((2, 6))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        found, wanted = step(features=x, state_0_in=before)["outputs"], network.model(x[:, None])[:, 0]
    np.testing.assert_allclose(tape.gradient(found, x), tape.gradient(wanted, x), rtol=1e-4, atol=1e-5)
    tf.saved_model.save(loaded, str(tmp_path / "again"), loaded.signatures)
    again = tf.saved_model.load(str(tmp_path / "again")).signatures["step"](features=x, state_0_in=before)["outputs"]
    np.testing.assert_array_equal(again, found)


def test_a_later_change_of_the_model_is_not_in_the_file(tmp_path: Path) -> None:
    model = of_features(layers.GRU(6))
    network = Network.of(model)
    write_saved_model(network, Spec.of(network), tmp_path / "x")
    x, before = np.ones((1, 5, 8), np.float32), np.asarray(model(np.ones((1, 5, 8))))
    filled(model, seed=6)
    found = tf.saved_model.load(str(tmp_path / "x")).signatures["prefill"](features=tf.constant(x), state_0_in=tf.zeros((1, 6)))
    np.testing.assert_allclose(found["outputs"], before, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(model(x)) - before).max() > 1e-2
