"""A manifest read, and a bundle's files checked, with every damage refused in one line."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.reading import File, checked, coder_of, files_of, read, spec_of, translation_spec_of, vocabulary_of
from export.spec import Spec, State, TranslationSpec
from seqapp.beam_search import Search
from seqapp.errors import UsageError
from seqapp.vocabulary import Vocabulary
from tests.conftest import refused

WEIGHTS = bytes(range(256))


def tensor(name: str, dtype: str, *shape: str | int) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def signature(source: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """With two states, as an LSTM has them."""
    return {
        side: [first, *(tensor(f"state_{i}_{end}", "float32", "batch", 4) for i in range(2))]
        for side, first, end in (("inputs", source, "in"), ("outputs", result, "out"))
    }


CONTENT: dict[str, Any] = {
    "task": "next-word",
    "signatures": {
        "step": signature(tensor("tokens", "int32", "batch"), tensor("logits", "float32", "batch", 9)),
        "sequence": signature(tensor("tokens", "int32", "batch", "time"), tensor("logits", "float32", "batch", "time", 9)),
    },
    "states": [
        {"input": f"state_{i}_in", "output": f"state_{i}_out", "layer": 0, "role": "hc"[i], "initial": value}
        for i, value in enumerate((0.5, "first.npy"))
    ],
    "vocabulary": {"path": "vocabulary.json", "size": 9, "sha256": hashlib.sha256(b"[]").hexdigest()},
    "files": [
        {
            "path": "model.tflite",
            "format": "tflite",
            "precision": "float32",
            "bytes": 256,
            "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
            "signatures": ["step", "sequence"],
        }
    ],
}
FEATURES = {
    **CONTENT,
    "signatures": {
        "step": signature(tensor("features", "float32", "batch", 3), tensor("outputs", "float32", "batch", 2)),
        "prefill": signature(tensor("features", "float32", "batch", "time", 3), tensor("outputs", "float32", "batch", 2)),
    },
}

LENGTHS = tensor("lengths", "int32", "batch")
TAGS: dict[str, Any] = {
    "signatures": {
        "sequence": {
            "inputs": [tensor("tokens", "int32", "batch", "time"), LENGTHS],
            "outputs": [tensor("logits", "float32", "batch", "time", 5)],
        }
    },
    "states": [],
    "files": CONTENT["files"],
}
CLASSES: dict[str, Any] = {
    **TAGS,
    "signatures": {
        "sequence": {
            "inputs": [tensor("features", "float32", "batch", "time", 3), LENGTHS],
            "outputs": [tensor("outputs", "float32", "batch", 2)],
        }
    },
}

MEMORY = tensor("memory", "float32", "batch", "time", 6)
STATES = {end: [tensor(f"state_{i}_{end}", "float32", "batch", 3 + i) for i in range(2)] for end in ("in", "out")}
VOCABULARIES = {
    "source": Vocabulary.learn(["a b c"], "symbol", False),
    "target": Vocabulary.learn(["a b c d e f g"], "word", True),
}


def kept(side: str) -> bytes:
    return json.dumps(asdict(VOCABULARIES[side])).encode()


TRANSLATOR: dict[str, Any] = {
    "signatures": {
        "encode": {
            "inputs": [tensor("tokens", "int32", "batch", "time"), LENGTHS],
            "outputs": [MEMORY, *STATES["out"]],
        },
        "decode_step": {
            "inputs": [tensor("tokens", "int32", "batch"), MEMORY, LENGTHS, *STATES["in"]],
            "outputs": [
                tensor("logits", "float32", "batch", 9),
                tensor("attention", "float32", "batch", "time"),
                *STATES["out"],
            ],
        },
    },
    "states": [
        {"input": f"state_{i}_in", "output": f"state_{i}_out", "layer": i, "role": "h", "initial_from": "encode"}
        for i in range(2)
    ],
    "translation": {
        "beam": 4,
        "length_penalty": 0.5,
        "longest": 20,
        **{
            side: {
                "path": f"{side}.json",
                "bytes": len(kept(side)),
                "sha256": hashlib.sha256(kept(side)).hexdigest(),
                "unit": VOCABULARIES[side].unit,
                "normalization": list(VOCABULARIES[side].normalization),
            }
            for side in VOCABULARIES
        },
    },
    "files": [{**CONTENT["files"][0], "signatures": ["encode", "decode_step"]}],
}
TRANSLATOR = json.loads(json.dumps(TRANSLATOR))  # each tensor by itself: a change of one is not one of the others


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle")
    (path / "manifest.json").write_text(json.dumps(CONTENT), "utf-8")
    (path / "model.tflite").write_bytes(WEIGHTS)
    (path / "vocabulary.json").write_bytes(b"[]")
    np.save(path / "first.npy", np.array([1, -2, 3, 0.25], np.float32))
    for side in VOCABULARIES:
        (path / f"{side}.json").write_bytes(kept(side))
    return path


def changed(content: dict[str, Any], value: Any, *where: str | int) -> dict[str, Any]:
    content = deepcopy(content)
    place: Any = content
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return content


def all_of(bundle: Path, content: dict[str, Any]) -> None:
    """All that a runtime reads of a manifest."""
    spec_of(bundle, content)
    for file in (*files_of(bundle, content), vocabulary_of(bundle, content)):
        if file:
            checked(bundle, file)


def all_of_translator(bundle: Path, content: dict[str, Any]) -> None:
    spec = translation_spec_of(bundle, content)
    coder_of(bundle, content, spec)
    for file in files_of(bundle, content):
        checked(bundle, file)


def test_a_manifest_says_what_the_exporter_declared(bundle: Path) -> None:
    first, second = State(0, 0, "h", (0.5,) * 4), State(1, 0, "c", (1.0, -2.0, 3.0, 0.25))
    assert read(bundle) == CONTENT
    assert spec_of(bundle, CONTENT) == Spec(9, (first, second))
    assert spec_of(bundle, FEATURES) == Spec(2, (first, second), features=3, output="outputs")
    np.testing.assert_array_equal(spec_of(bundle, CONTENT).initial_states(2)[1], [[1, -2, 3, 0.25]] * 2)


def test_a_manifest_of_what_reads_both_ways(bundle: Path) -> None:
    assert spec_of(bundle, TAGS) == Spec(5, (), both_ways=True)
    assert spec_of(bundle, CLASSES) == Spec(2, (), features=3, output="outputs", both_ways=True, last_only=True)


def test_a_manifest_of_an_encoder_decoder(bundle: Path) -> None:
    spec = translation_spec_of(bundle, TRANSLATOR)
    assert spec == TranslationSpec(9, 6, (State(0, 0, "h", (0.0,) * 3), State(1, 1, "h", (0.0,) * 4)))
    coder = coder_of(bundle, TRANSLATOR, spec)
    assert (coder.source, coder.target) == (VOCABULARIES["source"], VOCABULARIES["target"])
    assert coder.settings == Search(4, 0.5, 20)
    (file,) = files_of(bundle, TRANSLATOR)
    assert file.signatures == ("encode", "decode_step")


def test_a_manifest_of_the_other_kind_says_what_to_load_it_with(bundle: Path) -> None:
    refused(lambda: spec_of(bundle, TRANSLATOR), f"{bundle} holds an encoder-decoder", "load_translator")
    for content in (CONTENT, FEATURES, TAGS, CLASSES):
        refused(lambda content=content: translation_spec_of(bundle, content), "holds no encoder-decoder", "runtime.load")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("float32", ("signatures", "encode", "inputs", 1, "dtype")),
        (["batch"], ("signatures", "encode", "inputs", 0, "shape")),
        (["batch", "time", 5], ("signatures", "encode", "outputs", 0, "shape")),
        (["batch", 4], ("signatures", "encode", "outputs", 1, "shape")),
        ([], ("signatures", "encode", "outputs")),
        (["batch", "time", 5], ("signatures", "decode_step", "inputs", 1, "shape")),
        (["batch", 4], ("signatures", "decode_step", "inputs", 3, "shape")),
        (["batch", "time", 9], ("signatures", "decode_step", "outputs", 0, "shape")),
        (["batch", 10], ("signatures", "decode_step", "outputs", 0, "shape")),
        (["batch", "nine"], ("signatures", "decode_step", "outputs", 0, "shape")),
        ("looked", ("signatures", "decode_step", "outputs", 1, "name")),
        ("state_9_in", ("states", 0, "input")),
        ([], ("states",)),
        (None, ("translation",)),
        (True, ("translation", "source")),
        ("4", ("translation", "beam")),
        ("much", ("translation", "length_penalty")),
        (0.5, ("translation", "longest")),
        (3, ("translation", "target", "path")),
        (None, ("files", 0, "signatures")),
    ],
)
def test_a_damaged_manifest_of_an_encoder_decoder(value: Any, where: tuple[str | int, ...], bundle: Path) -> None:
    damaged = changed(TRANSLATOR, value, *where)
    refused(lambda: all_of_translator(bundle, damaged), "manifest.json is damaged (", "copy it again, or export again")


@pytest.mark.parametrize(
    ("value", "where", "part"),
    [
        ("0" * 64, ("translation", "source", "sha256"), "source.json was changed"),
        (5, ("translation", "target", "bytes"), "target.json has"),
        ("none.json", ("translation", "target", "path"), "There is no file"),
        ("../source.json", ("translation", "source", "path"), "is not in the bundle"),
        ("subword", ("translation", "target", "unit"), "target.json cannot be read as a model of subwords"),
        (TRANSLATOR["translation"]["source"], ("translation", "target"), "9 outputs, and 5 tokens of a target"),
    ],
    ids=["changed", "shortened", "missing", "outside", "of another unit", "of another size"],
)
def test_a_vocabulary_of_a_translator_that_is_not_the_exported_one(
    value: Any, where: tuple[str | int, ...], part: str, bundle: Path
) -> None:
    refused(lambda: all_of_translator(bundle, changed(TRANSLATOR, value, *where)), part)


@pytest.mark.parametrize("content", [TAGS, CLASSES], ids=["tags", "classes"])
@pytest.mark.parametrize(
    ("value", "where"),
    [
        (["batch", "time"], ("inputs", 1, "shape")),
        (["time"], ("inputs", 1, "shape")),
        ([1], ("inputs", 1, "shape")),
        ([], ("inputs", 1, "shape")),
        ("float32", ("inputs", 1, "dtype")),
        ("counts", ("inputs", 1, "name")),
        (["batch"], ("inputs", 0, "shape")),
        ("int64", ("inputs", 0, "dtype")),
        ("words", ("inputs", 0, "name")),
        (["batch", 1, 5], ("outputs", 0, "shape")),
        (["time", 5], ("outputs", 0, "shape")),
        (["batch", "time"], ("outputs", 0, "shape")),
        ([], ("outputs",)),
        ([], ("inputs",)),
        ([{"name": "tokens", "dtype": "int32", "shape": ["batch", "time"]}], ("inputs",)),
    ],
)
def test_a_damaged_manifest_of_what_reads_both_ways(
    value: Any, where: tuple[str | int, ...], content: dict[str, Any], bundle: Path
) -> None:
    damaged = changed(content, value, "signatures", "sequence", *where)
    refused(lambda: spec_of(bundle, damaged), "manifest.json is damaged (", "copy it again, or export again")


def test_states_of_what_reads_both_ways_are_damage(bundle: Path) -> None:
    refused(lambda: spec_of(bundle, {**TAGS, "states": CONTENT["states"]}), "manifest.json is damaged (")


def test_files(bundle: Path) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    held = ("step", "sequence")
    assert files_of(bundle, CONTENT) == [File("model.tflite", 256, digest, "tflite", "float32", signatures=held)]
    assert vocabulary_of(bundle, CONTENT) == File("vocabulary.json", None, hashlib.sha256(b"[]").hexdigest())
    assert vocabulary_of(bundle, changed(CONTENT, None, "vocabulary")) is None
    all_of(bundle, CONTENT)
    assert checked(bundle, File("model.tflite")) == bundle / "model.tflite"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff{}", b"[" * 100_000])
def test_a_damaged_manifest(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused(lambda: read(tmp_path), "manifest.json is damaged (", "copy it again, or export again")


def test_no_manifest(bundle: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", bundle / "model.tflite"):
        refused(lambda path=path: read(path), f"{path} is no bundle", "python -m export")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({}, ("signatures",)),
        ("int64", ("signatures", "step", "inputs", 0, "dtype")),
        (["batch", "nine"], ("signatures", "step", "outputs", 0, "shape")),
        (["batch", 5], ("signatures", "step", "outputs", 1, "shape")),
        ([1, 4], ("signatures", "step", "inputs", 1, "shape")),
        (["batch", 9], ("signatures", "sequence", "outputs", 0, "shape")),
        ("state_0_out", ("states", 1, "output")),
        ("state_1_in", ("states", 0, "input")),
        ([], ("states",)),
        (None, ("states", 0, "initial")),
        (float("nan"), ("states", 0, "initial")),
        (1e39, ("states", 0, "initial")),
        (10**400, ("states", 0, "initial")),
        ("vocabulary.json", ("states", 0, "initial")),
        ("none.npy", ("states", 0, "initial")),
        ("wide.npy", ("states", 0, "initial")),
        ("objects.npy", ("states", 0, "initial")),
        ("../first.npy", ("states", 0, "initial")),
        ([5], ("vocabulary",)),
        ({}, ("vocabulary",)),
        ({}, ("files", 0)),
        (None, ("files", 0, "sha256")),
        (None, ("files", 0, "bytes")),
    ],
)
def test_a_manifest_that_does_not_fit_together(value: Any, where: tuple[str | int, ...], bundle: Path) -> None:
    np.save(bundle / "wide.npy", np.zeros((1, 4), np.float32))
    np.save(bundle / "objects.npy", np.array([{}, {}, {}, {}]), allow_pickle=True)
    refused(lambda: all_of(bundle, changed(CONTENT, value, *where)))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.parametrize(("manifest", "reading"), [(CONTENT, all_of), (TRANSLATOR, all_of_translator)], ids=["step", "encode"])
@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_one_line(manifest: dict[str, Any], reading: Any, bundle: Path, data: st.DataObject) -> None:
    """Any value of the manifest replaced by any other, or left out: it is read, or refused."""
    content = deepcopy(manifest)
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
        if not place[key] or not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(VALUES)
    try:
        reading(bundle, content)
    except UsageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../model.tflite", "inner/../model.tflite", "/etc/hostname", "a\0b", "link", "folder/model"]
)
def test_a_path_that_leads_elsewhere(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    (tmp_path / "model.tflite").write_bytes(WEIGHTS)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model").write_bytes(WEIGHTS)
    (copy / "link").symlink_to(tmp_path / "model.tflite")
    (copy / "folder").symlink_to(tmp_path / "outside")
    (copy / "model.tflite").write_bytes(WEIGHTS)
    (copy / "inner").mkdir()
    refused(lambda: checked(copy, File(name)))
    refused(lambda: checked(copy, File(str(copy / "model.tflite"))), "not in the bundle")
    (copy / "inner" / "link").symlink_to("../model.tflite")
    assert checked(copy, File("inner/link", 256)).read_bytes() == WEIGHTS


def test_a_bundle_may_be_reached_through_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert checked(tmp_path / "current", File("model.tflite", 256)).read_bytes() == WEIGHTS


def test_a_file_that_is_not_the_exported_one(tmp_path: Path) -> None:
    file = File("model.tflite", 256, hashlib.sha256(WEIGHTS).hexdigest())
    path = tmp_path / "model.tflite"
    refused(lambda: checked(tmp_path, file), "There is no file", "model.tflite", "copy")
    path.write_bytes(WEIGHTS[:-1])
    refused(lambda: checked(tmp_path, file), "has 255 bytes and should have 256")
    for flipped in range(0, 256, 51):
        path.write_bytes(WEIGHTS[:flipped] + bytes([WEIGHTS[flipped] ^ 1]) + WEIGHTS[flipped + 1 :])
        refused(lambda: checked(tmp_path, file), "was changed", "SHA-256", str(file.sha256))
    path.write_bytes(WEIGHTS)
    assert checked(tmp_path, file) == path
