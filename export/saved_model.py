"""SavedModels: TensorFlow's own format, which needs neither Keras nor this project to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from export.graphs import plain_functions
from export.spec import Spec


def write_saved_model(model: Any, spec: Spec, path: Path) -> None:
    """Writes the model to the directory `path`."""
    save(model, plain_functions(model, spec), path)


def save(model: Any, functions: dict[str, Any], path: Path) -> None:
    """Writes concrete functions as the signatures of a SavedModel, with the variables of the model they use."""
    module = tf.Module()
    # A tf.Module does not see into a Keras 3 model: without the bare variables the file would have no weights.
    module.variables_of_model = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(path), signatures=functions)
