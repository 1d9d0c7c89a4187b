"""A bundle as another program finds it: its manifest read, its files checked before an engine sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from export.artifact import APP
from export.spec import (
    ATTENTION,
    DECODE_STEP,
    ENCODE,
    FEATURES,
    MEMORY,
    SEQUENCE,
    STEP,
    TIME,
    Signature,
    Spec,
    State,
    TranslationSpec,
)
from seqapp import versions
from seqapp.beam_search import Search
from seqapp.errors import UsageError
from seqapp.framing import Framing
from seqapp.subwords import Subwords
from seqapp.translate import SIDES, Coder
from seqapp.untrusted import LONGEST_NAME, inside, json_of, read_npy
from seqapp.vocabulary import Vocabulary

WIDEST = 1 << 22  # numbers in a state or an output, where a manifest may say anything
MOST = 64  # states
LONGEST, BROADEST = 1 << 20, 1 << 10  # tokens, and hypotheses, of a search


@dataclass(frozen=True)
class File:
    """A file as the manifest names it; a size or a checksum that it does not give is not checked."""

    path: str
    bytes: int | None = None
    sha256: str | None = None
    format: str = ""
    precision: str = ""
    profile: str = APP
    signatures: tuple[str, ...] = ()


def read(bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        UsageError: there is none, it is no JSON object, or a newer version made it.
    """
    try:
        text = _inside(bundle, "manifest.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{bundle} is no bundle, it has no manifest.json: make one with python -m export.") from None
    with _damage(bundle):
        content = json_of(text.decode("utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is no JSON object")
    versions.check(bundle, content)
    return content


def spec_of(bundle: Path, content: dict[str, Any]) -> Spec:
    """What the files of a bundle promise, by its manifest.

    Raises:
        UsageError: the manifest is damaged, or its signatures are not those of a model that runs step by step.
    """
    with _damage(bundle):
        if ENCODE in content["signatures"]:
            raise UsageError(
                f"{bundle} holds an encoder-decoder, which has no step: load it with export.runtime.load_translator; "
                "how fast its files are stands in its manifest.json."
            )
        # What takes the lengths of whole sequences has no step.
        signature = content["signatures"].get(STEP) or content["signatures"][SEQUENCE]
        inputs, outputs = ({t["name"]: t["shape"] for t in signature[side]} for side in ("inputs", "outputs"))
        _check_states(content)
        states = tuple(
            State(i, s["layer"], s["role"], _initial(bundle, s, _width(inputs[s["input"]])))
            for i, s in enumerate(content["states"])
        )
        after = {s["output"] for s in content["states"]}
        parts = tuple((name, _width(shape)) for name, shape in outputs.items() if name not in after)
        if not parts:
            raise ValueError("it has no output")
        output = parts[0][0]
        features = _width(inputs[FEATURES]) if FEATURES in inputs else None
        both_ways = STEP not in content["signatures"]
        made = [t["shape"] for t in content["signatures"].get(SEQUENCE, {"outputs": []})["outputs"] if t["name"] == output]
        last_only = bool(made) and TIME not in made[0]
        size = sum(width for _, width in parts)
        spec = Spec(size, states, features, output, both_ways, last_only, parts if len(parts) > 1 else ())
        if [(s["input"], s["output"]) for s in content["states"]] != [(state.input, state.output) for state in states]:
            raise ValueError(f"its states should be named {[state.input for state in states]} and so on, in their order")
        if not spec.signatures.keys() & content["signatures"].keys():
            raise ValueError("it has no signature of a model that runs step by step or over whole sequences")
        way = "over whole sequences" if both_ways else "step by step"
        for name, signature in spec.signatures.items():
            if name in content["signatures"] and _tensors(content["signatures"][name]) != _declared(signature):
                raise ValueError(f"its signature {name} is not that of a model that runs {way}")
        return spec


def translation_spec_of(bundle: Path, content: dict[str, Any]) -> TranslationSpec:
    """What the files of a translator's bundle promise, by its manifest.

    Raises:
        UsageError: the manifest is damaged, or its signatures are not those of an encoder-decoder.
    """
    with _damage(bundle):
        if ENCODE not in content["signatures"]:
            raise UsageError(f"{bundle} holds no encoder-decoder: load it with export.runtime.load.")
        inputs, outputs = (
            {t["name"]: t["shape"] for t in content["signatures"][DECODE_STEP][side]} for side in ("inputs", "outputs")
        )
        _check_states(content)
        states = tuple(
            State(i, s["layer"], s["role"], (0.0,) * _width(inputs[s["input"]])) for i, s in enumerate(content["states"])
        )
        (output,) = outputs.keys() - {s["output"] for s in content["states"]} - {ATTENTION}
        spec = TranslationSpec(_width(outputs[output]), _width(inputs[MEMORY]), states, output)
        if [(s["input"], s["output"]) for s in content["states"]] != [(state.input, state.output) for state in states]:
            raise ValueError(f"its states should be named {[state.input for state in states]} and so on, in their order")
        for name, signature in spec.signatures.items():
            if _tensors(content["signatures"][name]) != _declared(signature):
                raise ValueError(f"its signature {name} is not that of an encoder-decoder")
        return spec


def coder_of(bundle: Path, content: dict[str, Any], spec: TranslationSpec) -> Coder:
    """How texts become the tokens of a translator's bundle, and tokens texts.

    Raises:
        UsageError: the manifest or a vocabulary is damaged, or they do not fit together.
    """
    with _damage(bundle):
        t = content["translation"]
        found: dict[str, Vocabulary | Subwords] = {}
        for side in SIDES:
            path = checked(bundle, File(t[side]["path"], t[side]["bytes"], t[side]["sha256"]))
            subword = t[side]["unit"] == "subword"
            found[side] = Subwords.load(path, tuple(t[side]["normalization"])) if subword else Vocabulary.load(path)
            if found[side].unit != t[side]["unit"]:
                raise ValueError(f"its {side} is cut into {t[side]['unit']}s, and the vocabulary into {found[side].unit}s")
        if len(found["target"]) != spec.output_size:
            raise ValueError(f"it has {spec.output_size} outputs, and {len(found['target'])} tokens of a target")
        if index(t["longest"]) > LONGEST or index(t["beam"]) > BROADEST:
            raise ValueError("its search is larger than that of any model")
        search = Search(index(t["beam"]), float(t["length_penalty"]), index(t["longest"]))
        return Coder(found["source"], found["target"], search)


def files_of(bundle: Path, content: dict[str, Any]) -> list[File]:
    """The model files of a bundle, in the order of its manifest.

    Raises:
        UsageError: the manifest is damaged.
    """
    with _damage(bundle):
        return [
            File(
                f["path"],
                index(f["bytes"]),
                str(f["sha256"]),
                f["format"],
                f["precision"],
                f.get("profile", APP),
                tuple(f.get("signatures", ())),
            )
            for f in content["files"]
        ]


def vocabulary_of(bundle: Path, content: dict[str, Any]) -> File | None:
    """The vocabulary of a bundle, if it has one.

    Raises:
        UsageError: the manifest is damaged.
    """
    with _damage(bundle):
        entry = content.get("vocabulary")
        return None if entry is None else File(entry["path"], entry.get("bytes"), entry.get("sha256"))


def classes_of(bundle: Path, content: dict[str, Any], spec: Spec) -> tuple[str, ...]:
    """What the outputs of a classifier mean, one name each; of another model, nothing.

    Raises:
        UsageError: the manifest is damaged.
    """
    with _damage(bundle):
        classes = tuple(map(str, content.get("classes", ())))
        if classes and len(classes) != spec.output_size:
            raise ValueError(f"it names {len(classes)} classes, and the model has {spec.output_size}")
        return classes


def framing_of(bundle: Path, content: dict[str, Any], spec: Spec) -> Framing | None:
    """How series become the inputs of a forecaster; of another model, None.

    Raises:
        UsageError: the manifest is damaged.
    """
    with _damage(bundle):
        if "forecast" not in content:
            return None
        framing = Framing.from_json(content["forecast"])
        if (framing.width, framing.output_size) != (spec.features, spec.output_size):
            raise ValueError("what it says of forecasts does not fit the model")
        return framing


def checked(bundle: Path, file: File) -> Path:
    """Where a file lies, once it is known to be the one that was exported.

    Raises:
        UsageError: it is missing, changed, or not in the bundle.
    """
    path = _inside(bundle, file.path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}, which the manifest names: copy the whole bundle again, or export again.")
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        raise UsageError(f"{path} has {size} bytes and should have {file.bytes}: copy it again, or export again.")
    if file.sha256 is not None:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            raise UsageError(f"{path} was changed: its SHA-256 is {digest} and should be {file.sha256}; copy it again.")
    return path


def _inside(bundle: Path, name: str) -> Path:
    """The path of a file of the bundle; a manifest must not lead anywhere else, not by a link either."""
    with _damage(bundle):
        path = bundle / name
        if not inside(bundle, name):
            raise UsageError(
                f"The manifest of {bundle} names {name[:LONGEST_NAME]!r}, which is not in the bundle: do not use it."
            )
        return path


def _check_states(content: dict[str, Any]) -> None:
    if len(content["states"]) > MOST:
        raise ValueError(f"it has {len(content['states'])} states, and {MOST} are the most")


def _width(shape: list[Any]) -> int:
    """The last side of a shape.

    Raises:
        ValueError: it is larger than that of any model.
    """
    width = index(shape[-1])
    if not 0 < width <= WIDEST:
        raise ValueError(f"a tensor has a width of {width}, and from 1 to {WIDEST} are possible")
    return width


def _initial(bundle: Path, state: dict[str, Any], size: int) -> tuple[float, ...]:
    """The first state (U,): one number for all units, or an array in a file of the bundle."""
    initial = state["initial"]
    if isinstance(initial, str):
        values = read_npy(checked(bundle, File(initial, sha256=state.get("sha256"))))
    else:
        values = np.full(size, float(initial))
    if values.shape != (size,) or not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ValueError(f"the first state {initial!r} is not {size} finite numbers")
    return tuple(values.astype(np.float32).tolist())


@contextmanager
def _damage(bundle: Path) -> Iterator[None]:
    """Turns whatever reading a damaged manifest can raise into one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"{bundle / 'manifest.json'} is damaged ({words}): copy it again, or export again.") from None


Tensors = dict[str, tuple[str, list[str | int]]]


def _tensors(signature: dict[str, Any]) -> tuple[Tensors, Tensors]:
    inputs, outputs = ({t["name"]: (t["dtype"], t["shape"]) for t in signature[side]} for side in ("inputs", "outputs"))
    return inputs, outputs


def _declared(signature: Signature) -> tuple[Tensors, Tensors]:
    inputs, outputs = ({t.name: (t.dtype, list(t.shape)) for t in side} for side in (signature.inputs, signature.outputs))
    return inputs, outputs
