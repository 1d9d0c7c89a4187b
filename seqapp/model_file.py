"""Models as Keras keeps them: what a file names and declares is looked at before Keras makes anything of it."""

from __future__ import annotations

import io
import math
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqapp.errors import need
from seqapp.untrusted import DEEPEST, RATIO, check_archive, json_of, words_of

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = ("metadata.json", CONFIG, WEIGHTS)
LARGEST = 16 << 20  # bytes of a configuration
MOST = 2000  # objects in it
SLACK = 1 << 16  # numbers that a model may have and its file need not: seeds and carried states
# What of Keras may be named: layers and cells that compute, and nothing that reads a file, loads a graph or holds code.
LAYERS = frozenset(
    [
        "Activation",
        "Add",
        "AdditiveAttention",
        "AlphaDropout",
        "Attention",
        "Average",
        "AveragePooling1D",
        "BatchNormalization",
        "Bidirectional",
        "Concatenate",
        "Conv1D",
        "Conv1DTranspose",
        "Cropping1D",
        "Dense",
        "DepthwiseConv1D",
        "Dot",
        "Dropout",
        "EinsumDense",
        "ELU",
        "Embedding",
        "Flatten",
        "GaussianDropout",
        "GaussianNoise",
        "GlobalAveragePooling1D",
        "GlobalMaxPooling1D",
        "GroupNormalization",
        "GRU",
        "GRUCell",
        "Identity",
        "InputLayer",
        "Layer",
        "LayerNormalization",
        "LeakyReLU",
        "LSTM",
        "LSTMCell",
        "Masking",
        "Maximum",
        "MaxPooling1D",
        "Minimum",
        "MultiHeadAttention",
        "Multiply",
        "Normalization",
        "Permute",
        "PReLU",
        "ReLU",
        "RepeatVector",
        "Rescaling",
        "Reshape",
        "RMSNormalization",
        "RNN",
        "SeparableConv1D",
        "SimpleRNN",
        "SimpleRNNCell",
        "Softmax",
        "SpatialDropout1D",
        "StackedRNNCells",
        "Subtract",
        "TimeDistributed",
        "UnitNormalization",
        "UpSampling1D",
        "ZeroPadding1D",
    ]
)
MODULES = ("keras.initializers", "keras.regularizers", "keras.constraints", "keras.dtype_policies")  # all their classes
FUNCTIONS = frozenset(
    [
        "elu",
        "exponential",
        "gelu",
        "leaky_relu",
        "linear",
        "relu",
        "relu6",
        "selu",
        "sigmoid",
        "silu",
        "softmax",
        "softplus",
        "softsign",
        "tanh",
    ]
)


class UnknownName(ValueError):
    """A file names what is neither Keras's own nor of a module that was imported."""


def load(path: Path) -> Any:
    """The model of a file, whose classes are imported already; not compiled.

    Raises:
        ValueError: what it names, declares or holds is not that of a model of ours.
        Exception: whatever Keras's parts raise for a file that is damaged.
    """
    keras = need("keras", "train")
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path.stat().st_size)
        names = archive.namelist()
        if sorted(names) != sorted(MEMBERS):
            raise ValueError(f"it should hold {', '.join(MEMBERS)}, and holds {', '.join(names[:6])}")
        if archive.getinfo(CONFIG).file_size > LARGEST:
            raise ValueError(f"its {CONFIG} is larger than that of any model")
        config = json_of(archive.read(CONFIG).decode("utf-8"))
        check_names(config, keras.saving.get_custom_objects())
        kept = numbers_of(archive.read(WEIGHTS))
    check_size(config, kept)
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    for variable in model.weights:
        if not bool(keras.ops.all(keras.ops.isfinite(keras.ops.cast(variable, "float32")))):
            raise ValueError(f"its weights {variable.path} are not all finite numbers")
    return model


def check_names(config: Any, registered: Any) -> None:
    """Refuses a configuration that names another class or function than Keras's, or those that are registered.

    Keras imports no module of another package, but of its own classes some read files, and others hold code.

    Raises:
        ValueError: it does, or is nested deeper or has more objects than that of any model.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError(f"its {CONFIG} names no model")
    for count, item in enumerate(_objects(config)):
        if count > MOST:
            raise ValueError(f"its {CONFIG} has more objects than that of any model")
        module, name, inner = item.get("module"), item["class_name"], item.get("config")
        full = item.get("registered_name") or name
        if not all(isinstance(word, str) for word in (name, full, module or "")):
            raise ValueError(f"its {CONFIG} names {str(name)[:60]!r}, which is no class")
        known = full in registered and not name.startswith("__")
        known |= module == "keras.layers" and name in LAYERS
        known |= module in MODULES and name[:1].isupper() and name.isalnum()
        known |= module == "keras" and name in ("DTypePolicy", "Functional", "Sequential")
        # As Keras 3.15 names the module of what `keras.Model(inputs, outputs)` makes, and what its layers are called with.
        known |= (module, name) in (("keras.src.models.functional", "Functional"), (None, "__keras_tensor__"))
        if name == "function":
            known = isinstance(inner, str) and (inner in registered or (module == "builtins" and inner in FUNCTIONS))
        if not known:
            what = inner if name == "function" else name
            raise UnknownName(f"its {CONFIG} names {str(what)[:60]!r} of {str(module)[:60]}, which is not known here")


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All that names a class, in any depth."""
    left = [(config, 0)]
    while left:
        item, depth = left.pop()
        if depth > DEEPEST:
            raise ValueError(f"its {CONFIG} is nested too deeply")
        if isinstance(item, dict):
            if "class_name" in item:
                yield item
            # How the whole model was compiled is not read.
            left += [(value, depth + 1) for key, value in item.items() if depth or key != "compile_config"]
        elif isinstance(item, list):
            left += [(value, depth + 1) for value in item]


def numbers_of(content: bytes) -> int:
    """How many numbers weights in HDF5 hold.

    Raises:
        ValueError: they are elsewhere, in another file above all, or would unpack out of all proportion.
    """
    h5py = need("h5py", "train")
    count, refused = 0, ""
    try:
        file = h5py.File(io.BytesIO(content), "r")
    except OSError as error:
        raise ValueError(f"its {WEIGHTS} is damaged: {words_of(error)}") from None
    with file:
        # What is raised within a visit gets lost in h5py's locks: the first word ends the visit, and is told after it.
        def link(name: str, kind: Any) -> str | None:
            return None if isinstance(kind, h5py.HardLink) else f"has a link, {name[:60]!r}, to something else"

        def item(name: str, kind: Any) -> str | None:
            nonlocal count
            if isinstance(kind, h5py.Dataset):
                if kind.external or kind.is_virtual:
                    return f"keeps {name[:60]!r} in another file"
                size = math.prod(kind.shape or (0,))
                if size * kind.dtype.itemsize > RATIO * kind.id.get_storage_size() + SLACK:
                    return f"says that {name[:60]!r} has the shape {kind.shape}, and has not so much"
                count += size
            return None

        refused = file.visititems_links(link) or file.visititems(item) or ""
    if refused:
        raise ValueError(f"its {WEIGHTS} {refused}")
    return count


def check_size(config: dict[str, Any], kept: int) -> None:
    """Refuses a configuration whose model would have more numbers than are kept of it.

    Raises:
        ValueError: how many.
        Exception: whatever Keras's parts raise for what makes no model.
    """
    keras, found = need("keras", "train"), list[int | BaseException]()

    def measure() -> None:
        try:
            # Within this scope variables have shapes and take no memory. Its end would give them their values: it has none,
            # and is gone with the thread that it is of.
            keras.StatelessScope().__enter__()
            model = keras.saving.deserialize_keras_object({**config, "compile_config": None}, safe_mode=True)
            found.append(sum(math.prod(variable.shape) for variable in model.variables))
        except Exception as error:  # which belongs to who asked
            found.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, BaseException):
        raise result
    if result > kept + SLACK:
        raise ValueError(f"its {CONFIG} is of a model with {result:,} numbers, and its {WEIGHTS} has {kept:,}")
