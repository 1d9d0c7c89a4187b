"""The SavedModel of a trained run from C, with the headers and libraries of the TensorFlow wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export.__main__ import main as export
from seqapp.run import Run
from seqapp.step import KerasStepper, log_softmax

SOURCE = Path(__file__).with_name("saved_model.c")
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
TIMESTEPS = 128


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler, made = shutil.which("gcc") or shutil.which("cc"), tmp_path_factory.mktemp("c") / "saved_model"
    if compiler is None:
        pytest.skip("there is no C compiler: install gcc")
    # GNU's other linker takes 10 seconds over the half million symbols of these libraries, gold takes 2.
    linker = ["-fuse-ld=gold"] if shutil.which("ld.gold") else []
    folder = tf.sysconfig.get_lib()
    libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    command = [compiler, *STRICT, "-isystem", tf.sysconfig.get_include(), str(SOURCE), "-o", str(made), *linker, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def run(trained: Callable[..., Run]) -> Run:
    return trained("--cell", "lstm")


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "bundle"
    assert export([str(run.path), "--out", str(path), "--format", "saved_model"]) == 0
    return path


def names_of(bundle: Path, signature: str) -> dict[str, str]:
    """What the graph calls each input and output of a signature: C knows no signatures."""
    (file,) = json.loads((bundle / "manifest.json").read_text("utf-8"))["files"]
    sides = file["graph_names"][signature]
    return {**sides["inputs"], **sides["outputs"]}


def stream_names(bundle: Path) -> list[str]:
    names = names_of(bundle, "step")
    declared = json.loads((bundle / "manifest.json").read_text("utf-8"))["states"]
    states = [names[state[side]] for state in declared for side in ("input", "output")]
    return [names["tokens"], names["logits"], *states]


def called(*command: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=300)


def test_the_same_numbers_as_keras(run: Run, bundle: Path, program: Path) -> None:
    tokens = run.tokens("test")[:TIMESTEPS]
    done = called(program, "stream", bundle / "saved_model", *stream_names(bundle), given=" ".join(map(str, tokens)))
    assert done.returncode == 0, done.stderr
    keras = KerasStepper(run.load_model())
    logits, states = keras.sequence(tokens[None], keras.initial_states(1))
    found = np.array(done.stdout.split(), np.float64)
    size, allowed = logits.shape[-1], json.loads((bundle / "manifest.json").read_text("utf-8"))["parity"][0]
    wanted = log_softmax(logits[0, -1].astype(np.float64))
    np.testing.assert_allclose(log_softmax(found[:size]), wanted, rtol=0, atol=allowed["tolerance"])
    np.testing.assert_allclose(found[size:], np.concatenate(states, 1)[0], rtol=0, atol=allowed["state_tolerance"])


@pytest.mark.parametrize(
    "text", ["Are you", "", "Größer, ΚΑΛΟΣ: hardly a word of it is known, and it is long."], ids=["known", "empty", "long"]
)
def test_text(text: str, bundle: Path, program: Path) -> None:
    """The same words and probabilities as the signature gives in Python."""
    folder = bundle / "saved_model"
    wanted = tf.saved_model.load(str(folder)).signatures["serve"](text=tf.constant([text]))
    names = names_of(bundle, "serve")
    done = called(program, "text", folder, names["text"], text, names["words"], names["probabilities"])
    assert done.returncode == 0, done.stderr
    lines, words = done.stdout.splitlines(), [word.decode() for word in wanted["words"][0].numpy()]
    assert lines[: len(words)] == words
    np.testing.assert_allclose(np.array(lines[len(words) :], np.float64), wanted["probabilities"][0], rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("step_tokens", "step_tokens: a tensor has a name such as step_tokens:0"),
        ("step_tokens:1", "step_tokens:1: the graph has no such tensor"),
        ("tokens:0", "tokens:0: the graph has no such tensor"),
        ("sequence_tokens:0", "running the model: "),
    ],
)
def test_a_wrong_name(wrong: str, message: str, bundle: Path, program: Path) -> None:
    names = [wrong if name == "step_tokens:0" else name for name in stream_names(bundle)]
    assert_fails(called(program, "stream", bundle / "saved_model", *names, given="1"), message)


def test_other_errors(bundle: Path, program: Path, tmp_path: Path) -> None:
    names = stream_names(bundle)
    assert_fails(called(program, "stream", tmp_path, *names, given="1"), f"{tmp_path}: Could not find SavedModel")
    assert_fails(called(program, "stream", bundle / "saved_model", *names), "standard input: there are no numbers of tokens")
    assert_fails(called(program, "stream", bundle / "saved_model", *names[:-1], given="1"), "usage: ")
    assert_fails(called(program), "usage: ")


def assert_fails(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert f"saved_model: {message}" in done.stderr
