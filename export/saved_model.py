"""SavedModels: TensorFlow's own format, which needs neither Keras nor this project to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from export.graphs import plain_functions
from export.network import Network
from export.spec import Spec
from export.stages import Recurrent
from export.text_graph import TextGraph, serve_function
from seqapp.vocabulary import Vocabulary


def write_saved_model(network: Network, spec: Spec, path: Path, vocabulary: Vocabulary | None = None) -> None:
    """Writes the model to the directory `path`; with a vocabulary, there is a signature `serve` for text too."""
    functions, text = plain_functions(network, spec), None
    if vocabulary:
        text = TextGraph(vocabulary)
        functions["serve"] = serve_function(text, _after_each(network)).get_concrete_function()
    save(network, functions, path, text)


def _after_each(network: Network) -> Callable[[Any, Any], Any]:
    """The output (B, V) after the last token of each row of tokens (B, T), which has a length of its own."""

    def last(tokens: Any, lengths: Any) -> Any:
        y, _ = network.run(Recurrent.whole, tokens, network.initial_states(tf.shape(tokens)[0]))
        return network.finish(tf.gather(y, lengths - 1, batch_dims=1))

    return last


def save(network: Network, functions: dict[str, Any], path: Path, text: Any = None) -> None:
    """Writes concrete functions as the signatures of a SavedModel, with the variables and tables that they use."""
    module = tf.Module()
    module.text = text
    # A tf.Module does not see into a Keras 3 model: without the bare variables the file would have no weights.
    module.variables_of_model = [variable.value for variable in network.variables]
    tf.saved_model.save(module, str(path), signatures=functions)


def graph_names(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """What the graph calls the inputs and outputs of each signature, for languages that know no signatures, such as C."""
    content = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return {
        name: {
            "inputs": {key: tensor.name for key, tensor in sorted(signature.inputs.items())},
            "outputs": {key: tensor.name for key, tensor in sorted(signature.outputs.items())},
        }
        for name, signature in sorted(content.meta_graphs[0].signature_def.items())
        if not name.startswith("__")
    }
