"""The card's examples for models that read both ways: real names, and code that runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.card import card
from export.sequence_snippets import sequence_snippets
from tests.export.conftest import CLASSES, TAGS, Exported
from tests.export.engines import opened_whole

LANGUAGES = ["Python", "Kotlin", "Swift", "C++", "JavaScript"]
WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "seqapp", "export"):
    sys.modules[name] = None
exec(sys.stdin.read())
"""


def block_of(folder: Path, language: str) -> str:
    found = re.search(rf"### {re.escape(language)}\n\n```\w+\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("bundle", ["tagger_bundle", "classifier_bundle"])
def test_python_runs_as_it_stands(bundle: str, request: pytest.FixtureRequest) -> None:
    it: Exported = request.getfixturevalue(bundle)
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    code = block_of(it.folder, "Python")
    done = subprocess.run(command, input=code, cwd=it.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tokens = np.array([[0, 1, 2], [3, 4, 0]], np.int32)
    inputs = tokens if it is request.getfixturevalue("tagger_bundle") else np.zeros((2, 3, 8), np.float32)
    wanted = opened_whole(it.folder / "model.tflite")(inputs, np.array([3, 2]))
    printed = np.array([float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", done.stdout)])
    np.testing.assert_allclose(printed, wanted.ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_sizes_are_those_of_the_files(language: str, tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    tags, classes = (block_of(it.folder, language) for it in (tagger_bundle, classifier_bundle))
    for code in (tags, classes):
        assert all(name in code for name in ("lengths", "logits", "model.onnx" if language == "JavaScript" else "model.tflite"))
        assert not re.search(r"state_\d|\bstep\b|prefill", code)
    assert "tokens" in tags and "features" not in tags
    assert "features" in classes
    if language not in ("Python", "Kotlin"):
        assert "1, count" in tags and "1, count, 8" in classes
    if language in ("Kotlin", "C++"):  # which must know how large the result is
        numbers = {"Kotlin": "FloatArray({})", "C++": "{} numbers"}[language]
        assert numbers.format(TAGS) in tags and numbers.format(CLASSES) in classes
    each = {"Kotlin": "Array(tokens.size) {", "C++": "for each timestep"}.get(language, "")
    assert each in tags and (not each or each not in classes)


def test_the_card_says_what_the_signature_takes_and_gives(tagger_bundle: Exported, classifier_bundle: Exported) -> None:
    for it, given, made in (
        (tagger_bundle, "`tokens` int32 [batch, time]", f"[batch, time, {TAGS}]"),
        (classifier_bundle, "`features` float32 [batch, time, 8]", f"[batch, {CLASSES}]"),
    ):
        text = (it.folder / "README.md").read_text("utf-8")
        assert f"`sequence` takes {given}, `lengths` int32 [batch], and gives `logits` float32 {made}." in text
        assert "sequence, µs a timestep" in text
        assert "`step`" not in text and "state" not in text.split("## How to run it")[1]
        rows = re.findall(r"^\| (\S*?) \|.*\| (\d+) \|$", text, re.MULTILINE)
        assert [name for name, _ in rows] == [file["path"] for file in it.content["files"]]


def without(content: dict[str, Any], *formats: str) -> dict[str, Any]:
    return {**content, "files": [file for file in content["files"] if file["format"] not in formats]}


def test_there_is_code_for_the_formats_that_there_are(classifier_bundle: Exported) -> None:
    content = classifier_bundle.content
    assert list(sequence_snippets(content)) == LANGUAGES
    assert list(sequence_snippets(without(content, "onnx"))) == LANGUAGES[:-1]
    assert list(sequence_snippets(without(content, "tflite"))) == ["JavaScript"]
    assert "```" not in card(without(content, "tflite", "onnx"))


def test_an_output_of_another_name(tagger_bundle: Exported) -> None:
    content = {**tagger_bundle.content, "signatures": {"sequence": dict(tagger_bundle.content["signatures"]["sequence"])}}
    (output,) = content["signatures"]["sequence"]["outputs"]
    content["signatures"]["sequence"]["outputs"] = [{**output, "name": "tag_logits"}]
    for _, _, code in sequence_snippets(content).values():
        assert "tag_logits" in code
