"""The C++ source of files for microcontrollers, and the card's example of it, compiled and run without TFLM."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import arena, firmware, micro
from export.network import Network
from export.snippets import camel, snippets
from export.spec import STEP, Spec
from tests.export.engines import operators
from tests.export.micro_files import PLAIN, micro_of, network_of, odd_micro, odd_network

STRICT = ["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

# A resolver of all methods, each of which says that it was called; the one of a number fails.
RESOLVER = """
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
struct Resolver {
  unsigned int failing, calls;
  TfLiteStatus Called(const char* name) {
    std::printf(" %s", name);
    return ++calls == failing ? kTfLiteError : kTfLiteOk;
  }
METHODS
};
"""
MAIN = """
#include <cstdint>
#include <cstdio>
#include "model.micro.h"
#include "model.micro.int8.h"
#include "model.micro.h"
RESOLVER
#define SHOW(name, value) std::printf("%s %.9g\\n", name, static_cast<double>(value))
#define ALL(name)                                                                       \\
  SHOW(#name ".kModelSize", name::kModelSize);                                          \\
  SHOW(#name ".kArenaSize", name::kArenaSize);                                          \\
  SHOW(#name ".kOperators", name::kOperators);                                          \\
  SHOW(#name ".address", reinterpret_cast<std::uintptr_t>(name::kModel) % 16);          \\
  for (unsigned int failing = 0; failing <= name::kOperators; ++failing) {              \\
    Resolver resolver = {failing, 0};                                                   \\
    std::printf(#name ".failing%u", failing);                                           \\
    std::printf(name::AddOperators(resolver) ? " true\\n" : " false\\n");               \\
  }                                                                                     \\
  std::FILE* name##_file = std::fopen(#name, "wb");                                     \\
  std::fwrite(name::kModel, 1, name::kModelSize, name##_file);                          \\
  std::fclose(name##_file)

template <std::size_t count>
void Show(const char* name, const float (&values)[count]) {
  std::printf("%s", name);
  for (float value : values) std::printf(" %.9g", static_cast<double>(value));
  std::printf("\\n");
}

int main() {
  ALL(model_micro);
  ALL(model_micro_int8);
SHOWN
}
"""

# TFLM's headers with all that a firmware meets: Invoke shows the first number of each input, and makes outputs 101, 102, ...
STUBS = {
    "micro_interpreter.h": """
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <type_traits>
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { static Model model; return &model; }
class MicroOpResolver {};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, std::uint8_t*, std::size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  template <class T> T* typed_input_tensor(int index) {
    inputs_ = std::max(inputs_, index + 1);
    whole_[index] = std::is_same<T, std::int32_t>::value;
    return reinterpret_cast<T*>(given_[index]);
  }
  template <class T> T* typed_output_tensor(int index) { return reinterpret_cast<T*>(made_[index]); }
  TfLiteStatus Invoke() {
    ++steps_;
    for (int i = 0; i < inputs_; ++i)
      std::printf("%.9g ", whole_[i] ? *reinterpret_cast<std::int32_t*>(given_[i]) : double(*given_[i]));
    for (int i = 0; i < 8; ++i) std::fill_n(made_[i], 512, 100.0f * steps_ + i);
    std::printf("\\n");
    return kTfLiteOk;
  }
 private:
  int inputs_ = 0, steps_ = 0;
  bool whole_[8];
  float given_[8][512], made_[8][512];
};
}  // namespace tflite
""",
    "micro_mutable_op_resolver.h": """
#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite {
template <unsigned int count>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
METHODS
};
}  // namespace tflite
""",
}
TOKENS_AND_ROWS = {
    "tokens": "const std::int32_t tokens[] = {1, 2};",
    "rows": "const float rows[][8] = {{1, 1, 1, 1, 1, 1, 1, 1}, {2, 2, 2, 2, 2, 2, 2, 2}};",
}


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("g++") or shutil.which("c++")
    if found is None:
        pytest.skip("there is no C++ compiler: install g++")
    return found


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def methods(body: str) -> str:
    """All that a resolver has."""
    return "\n".join(f"  TfLiteStatus {method}() {{ {body.replace('NAME', method)} }}" for method in micro.OPERATORS.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of two files: features in float32, with a first state that was learned, and tokens in int8."""
    path = tmp_path_factory.mktemp("firmware")
    for name, content, network in (
        ("model.micro.tflite", odd_micro(), odd_network()),
        ("model.micro.int8.tflite", micro_of(PLAIN, "int8"), network_of(PLAIN)),
    ):
        (path / name).write_bytes(content)
        firmware.write_source(path / name, Spec.of(network))
    return path


SHOWN = {
    "model_micro": [
        *("kInputFeatures", "kInputState0In", "kInputState1In", "kInputState2In"),
        *("kOutputOutputs", "kOutputState0Out", "kOutputState1Out", "kOutputState2Out"),
    ],
    "model_micro_int8": ["kInputTokens", "kInputState0In", "kOutputLogits", "kOutputState0Out"],
}


@pytest.fixture(scope="module")
def told(folder: Path, compiler: str) -> dict[str, list[str]]:
    """What a program says of the two headers; it writes the arrays into files."""
    constants = [f"{name}::{constant}" for name, found in SHOWN.items() for constant in found]
    initial = [f"model_micro::kState{i}Initial" for i in range(3)] + ["model_micro_int8::kState0Initial"]
    shown = [f'  SHOW("{c.replace("::", ".")}", {c});' for c in constants]
    shown += [f'  Show("{c.replace("::", ".")}", {c});' for c in initial]
    resolver = RESOLVER.replace("METHODS", methods('return Called("NAME");'))
    (folder / "main.cc").write_text(MAIN.replace("RESOLVER", resolver).replace("SHOWN", "\n".join(shown)))
    sources = ["main.cc", "model.micro.cc", "model.micro.int8.cc"]
    run(compiler, *STRICT, *sources, "-o", "main", folder=folder)
    lines = run(folder / "main", folder=folder).splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


NAMES = {"model_micro": "model.micro.tflite", "model_micro_int8": "model.micro.int8.tflite"}
each_name = pytest.mark.parametrize("name", NAMES)


@each_name
def test_the_array_is_the_file(name: str, folder: Path, told: dict[str, list[str]]) -> None:
    content = (folder / NAMES[name]).read_bytes()
    assert (folder / name).read_bytes() == content
    assert told[f"{name}.kModelSize"] == [str(len(content))]
    assert told[f"{name}.kArenaSize"] == [str(arena.arena_size(content))]


@each_name
def test_the_array_is_aligned(name: str, folder: Path, told: dict[str, list[str]], compiler: str) -> None:
    """By its declaration: a compiler may align it by chance."""
    assert told[f"{name}.address"] == ["0"]
    source = NAMES[name].replace(".tflite", ".cc")
    text = f'#include "{source}"\nstatic_assert(__alignof__({name}::kModel) == 16, "it is aligned");\n'
    (folder / "aligned.cc").write_text(text)
    run(compiler, *STRICT, "-fsyntax-only", "aligned.cc", folder=folder)


def test_numbers_of_inputs_and_outputs(told: dict[str, list[str]]) -> None:
    """In the order of the signature, which is the file's."""
    for name, constants in SHOWN.items():
        inputs = [constant for constant in constants if constant.startswith("kInput")]
        for found in (inputs, constants[len(inputs) :]):
            assert [told[f"{name}.{constant}"] for constant in found] == [[str(i)] for i in range(len(found))]


def test_what_each_tensor_is(folder: Path) -> None:
    text = (folder / "model.micro.h").read_text("ascii")
    assert "constexpr int kInputFeatures = 0;  // float32 [1, 8]\n" in text
    assert "constexpr int kOutputState2Out = 3;  // float32 [1, 8]\n" in text
    assert "constexpr int kInputTokens = 0;  // int32 [1]\n" in (folder / "model.micro.int8.h").read_text("ascii")


def test_first_states(told: dict[str, list[str]]) -> None:
    first = odd_network().model.layers[-1].cell.first.numpy()
    assert len(set(first)) == 6
    np.testing.assert_array_equal(np.array(told["model_micro.kState0Initial"], np.float32), first)
    assert told["model_micro.kState1Initial"] == ["0"] * 6
    assert told["model_micro.kState2Initial"] == ["1"] * 8
    assert told["model_micro_int8.kState0Initial"] == ["0"] * 48


@each_name
def test_operators_are_registered(name: str, folder: Path, told: dict[str, list[str]]) -> None:
    """Each once and no other, up to one that fails."""
    wanted = sorted("Add" + "".join(map(str.capitalize, code.split("_"))) for code in operators(folder / NAMES[name]))
    assert told[f"{name}.kOperators"] == [str(len(wanted))]
    *called, done = told[f"{name}.failing0"]
    assert (sorted(called), done) == (wanted, "true")
    for failing in range(1, len(wanted) + 1):
        assert told[f"{name}.failing{failing}"] == [*called[:failing], "false"]


def test_names() -> None:
    assert firmware.namespace("model.micro.int8.tflite") == "model_micro_int8"
    assert camel("state_10_out") == "State10Out"
    assert camel("class-logits") == "ClassLogits"


def card(spec: Spec) -> dict[str, Any]:
    """What the card's examples read of a manifest."""
    step = {
        side: [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in getattr(spec.signatures[STEP], side)]
        for side in ("inputs", "outputs")
    }
    return {
        "signatures": {STEP: step},
        "states": [{"input": state.input, "output": state.output, "initial": 0.0} for state in spec.states],
        "files": [{"format": "tflite", "precision": "float32", "profile": "micro"}],
    }


def program(code: str) -> str:
    """The example as a function that runs two timesteps and shows the last result."""
    includes = "".join(re.findall(r"^#include .*\n", code, re.MULTILINE))
    body = re.sub(r"^#include .*\n", "", code, flags=re.MULTILINE)
    (given,) = re.findall(r"for \(auto token : (\w+)\)", code)
    return f'{includes}\nint main() {{\n{TOKENS_AND_ROWS[given]}\n{body}\nstd::printf("%.9g\\n", double(*result));\n}}\n'


@pytest.mark.parametrize(
    ("network", "content"),
    [(lambda: network_of(PLAIN), lambda: micro_of(PLAIN, "float32")), (odd_network, odd_micro)],
    ids=["tokens", "features"],
)
def test_the_cards_example(network: Callable[[], Network], content: Callable[[], bytes], compiler: str, tmp_path: Path) -> None:
    """With the names of the header it runs: the first states come in, then each state that came out, under its own number."""
    spec, headers = Spec.of(network()), tmp_path / "tensorflow" / "lite" / "micro"
    (tmp_path / "model.micro.tflite").write_bytes(content())
    firmware.write_source(tmp_path / "model.micro.tflite", spec)
    headers.mkdir(parents=True)
    for name, text in STUBS.items():
        (headers / name).write_text(text.replace("METHODS", methods("return kTfLiteOk;")))
    ((_, (profile, block, code)),) = snippets(card(spec)).items()
    assert (profile, block) == ("micro", "cpp")
    (tmp_path / "example.cc").write_text(program(code))
    run(compiler, *STRICT, "-I.", "example.cc", "model.micro.cc", "-o", "example", folder=tmp_path)
    *steps, (result,) = [[*map(float, line.split())] for line in run(tmp_path / "example", folder=tmp_path).splitlines()]
    first = [np.float32(state.initial[0]) for state in spec.states]
    assert steps == [[1, *(pytest.approx(value) for value in first)], [2, *(101 + i for i in range(len(first)))]]
    assert result == 200
