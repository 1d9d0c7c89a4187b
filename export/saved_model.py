"""SavedModels: TensorFlow's own format, which needs neither Keras nor this project to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from export.graphs import plain_functions
from export.network import Network
from export.spec import Spec
from export.stages import Recurrent
from export.text_graph import TextGraph, serve_function
from seqapp.vocabulary import Vocabulary

BESIDE = "loc:@"


def write_saved_model(
    network: Network, spec: Spec, path: Path, vocabulary: Vocabulary | None = None, classes: Sequence[str] = ()
) -> None:
    """Writes the model to the directory `path`; with a vocabulary, there is a signature `serve` for text too.

    Of a classifier, `serve` gives its `classes`; one that gives a class of each timestep has none.
    """
    functions, text = plain_functions(network, spec), None
    if vocabulary and (not classes or spec.last_only):
        text = TextGraph(vocabulary)
        functions["serve"] = serve_function(text, _after_each(network), classes).get_concrete_function()
    write(network, functions, path, text)


def write(network: Any, functions: dict[str, Any], path: Path, text: Any = None) -> None:
    """Writes concrete functions to the directory `path`, their nodes by short names."""
    save(network, functions, path, text)
    _shorten_names(path)


def _after_each(network: Network) -> Callable[[Any, Any], Any]:
    """The output (B, V) after the last token of each row of tokens (B, T), which has a length of its own."""

    def last(tokens: Any, lengths: Any) -> Any:
        if network.both_ways:
            return network.finish(network.sequences(Recurrent.whole, tokens, lengths))
        y, _ = network.run(Recurrent.whole, tokens, network.initial_states(tf.shape(tokens)[0]))
        return network.finish(tf.gather(y, lengths - 1, batch_dims=1))

    return last


def save(network: Any, functions: dict[str, Any], path: Path, text: Any = None) -> None:
    """Writes concrete functions as the signatures of a SavedModel, with the variables and tables that they use."""
    module = tf.Module()
    module.text = text
    # A tf.Module does not see into a Keras 3 model: without the bare variables the file would have no weights.
    module.variables_of_model = [variable.value for variable in network.variables]
    save_module(module, functions, path)


def save_module(module: Any, functions: dict[str, Any], path: Path) -> None:
    """Writes functions of a module as the signatures of a SavedModel.

    Raises:
        OSError: it cannot be written; TensorFlow has errors of its own for that.
    """
    # Without the functions of custom gradients (silu has one, for a little memory): those of the operators are as right, and
    # TensorFlow would save the gradients of gradients too, for those who train a SavedModel.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    try:
        tf.saved_model.save(module, str(path), signatures=functions, options=options)
    except tf.errors.OpError as error:
        raise OSError(None, error.message.rpartition("; ")[2], str(path)) from None


def _shorten_names(path: Path) -> None:
    """Numbers the nodes inside functions: paths of layers, at each use, are up to half of a graph.

    Nothing outside refers to them. The main graph, whose names languages without signatures use, stays as it is.
    """
    file = path / "saved_model.pb"
    content = SavedModel.FromString(file.read_bytes())
    for function in content.meta_graphs[0].graph_def.library.function:
        names = {node.name: f"n{number}" for number, node in enumerate(function.node_def)}
        for node in function.node_def:
            node.name = names[node.name]
            node.input[:] = [_renamed(name, names) for name in node.input]
            node.attr.pop("_gradient_op_type", None)
            if "_class" in node.attr:  # "loc:@" and the node on whose device this one runs
                places = [place.decode().removeprefix(BESIDE) for place in node.attr["_class"].list.s]
                node.attr["_class"].list.s[:] = [f"{BESIDE}{names.get(name, name)}".encode() for name in places]
        function.ret.update({key: _renamed(output, names) for key, output in function.ret.items()})
        function.signature.control_output[:] = [names.get(name, name) for name in function.signature.control_output]
        run = {names.get(key, key): names[name] for key, name in function.control_ret.items()}
        function.control_ret.clear()
        function.control_ret.update(run)
    file.write_bytes(content.SerializeToString(deterministic=True))
    write_fingerprint(str(path))


def _renamed(reference: str, names: dict[str, str]) -> str:
    """`node:output:0`, or `^node` for its having run; an argument of the function keeps its name."""
    control, (name, *output) = reference.startswith("^"), reference.removeprefix("^").split(":")
    return "^" * control + ":".join([names.get(name, name), *output])


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
