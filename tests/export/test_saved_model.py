"""SavedModels: TensorFlow alone runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export.saved_model import write_saved_model
from export.spec import Spec
from seqapp.config import ModelConfig
from seqapp.job import build_model
from seqapp.model import SequenceModel
from seqapp.step import KerasStepper

RUN_WITHOUT_KERAS = """
import sys
for name in ("keras", "seqapp", "export"):
    sys.modules[name] = None
import numpy as np
import tensorflow as tf
folder, given, made = sys.argv[1:]
signatures, feed = tf.saved_model.load(folder).signatures, dict(np.load(given))
assert sorted(signatures) == ["sequence", "step"]
results = {}
for name in signatures:
    tokens = feed["tokens"] if name == "sequence" else feed["tokens"][:, 0]
    states = {key: tf.constant(value) for key, value in feed.items() if key != "tokens"}
    for key, value in signatures[name](tokens=tf.constant(tokens), **states).items():
        results[f"{name}_{key}"] = value.numpy()
np.savez(made, **results)
"""


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    """Large weights, no two alike."""
    made = build_model(ModelConfig(cell="lstm", layers=2, units=16, embedding=12), 37)
    rng = np.random.default_rng(5)
    made.set_weights([rng.normal(0, 0.4, weight.shape) for weight in made.get_weights()])
    return made


@pytest.fixture(scope="module")
def folder(model: SequenceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "saved_model"
    write_saved_model(model, Spec.of(model), path)
    return path


def test_runs_where_keras_and_this_project_are_missing(model: SequenceModel, folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    tokens = rng.integers(0, 37, (3, 20)).astype(np.int32)
    states = [rng.normal(0, 3, (3, size)).astype(np.float32) for size in model.state_sizes]
    np.savez(tmp_path / "given.npz", tokens=tokens, **{f"state_{i}_in": state for i, state in enumerate(states)})
    command = [sys.executable, "-c", RUN_WITHOUT_KERAS, str(folder), str(tmp_path / "given.npz"), str(tmp_path / "made.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made, reference = np.load(tmp_path / "made.npz"), KerasStepper(model)
    for name, (logits, after) in {
        "sequence": reference.sequence(tokens, states),
        "step": reference.step(tokens[:, 0], states),
    }.items():
        np.testing.assert_allclose(made[f"{name}_logits"], logits, rtol=1e-5, atol=1e-5)
        for i, state in enumerate(after):
            np.testing.assert_allclose(made[f"{name}_state_{i}_out"], state, rtol=1e-5, atol=1e-5)


def test_holds_each_weight_once_and_as_trained(model: SequenceModel, folder: Path) -> None:
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = [name for name in checkpoint.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    stored = {checkpoint.get_tensor(name).tobytes() for name in names}
    assert stored >= {weight.tobytes() for weight in model.get_weights()}
    data = folder / "variables" / "variables.data-00000-of-00001"
    assert data.stat().st_size <= 4 * model.count_params() + 5000
