"""C++ source of a file for microcontrollers: the file as an array, and what a firmware must know of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from export import arena
from export.micro import registered, shape_of
from export.snippets import camel
from export.spec import STEP, Spec, State, TensorSpec

SUFFIXES = (".h", ".cc")


def write_source(path: Path, spec: Spec) -> None:
    """Writes the C++ header and source of a file beside it."""
    content, name = path.read_bytes(), namespace(path.name)
    for suffix, text in zip(SUFFIXES, (header(name, content, spec), c_array(name, content)), strict=True):
        path.with_suffix(suffix).write_text(text, "utf-8")


def namespace(file: str) -> str:
    """The C++ namespace of a file, by its name in the bundle."""
    return re.sub(r"\W", "_", file.removesuffix(".tflite"))


def c_array(name: str, content: bytes) -> str:
    """The C++ source that defines a file as the array `name::kModel`."""
    rows = (",".join(map(str, content[i : i + 24])) for i in range(0, len(content), 24))
    array = ",\n".join(rows)
    return f"""\
// {name} for TensorFlow Lite Micro, as a file; the header says the rest.
namespace {name} {{
extern const unsigned char kModel[];
alignas({arena.ALIGNMENT}) const unsigned char kModel[] = {{
{array}}};
}}  // namespace {name}
"""


def header(name: str, content: bytes, spec: Spec) -> str:
    """The C++ header for `c_array`: all that a firmware needs to know, and a function that registers the operators.

    `name` is a C++ name. It wants C++11 and no header of TFLM.
    """
    signature, methods = spec.signatures[STEP], registered(content)
    tensors = "\n".join([*_numbered("Input", signature.inputs), *_numbered("Output", signature.outputs)])
    initial = "\n".join(f"constexpr float kState{s.number}Initial[{s.size}] = {{{_values(s)}}};" for s in spec.states)
    calls = " &&\n         ".join(f"resolver.{method}() == 0" for method in methods)
    return f"""\
// {name} for TensorFlow Lite Micro: one timestep a call, batch 1. Made by python -m export.
#ifndef {name.upper()}_H_
#define {name.upper()}_H_

#include <cstddef>

namespace {name} {{

extern const unsigned char kModel[];  // for tflite::GetModel
constexpr std::size_t kModelSize = {len(content)};

// Bytes, aligned to {arena.ALIGNMENT}: what TFLM's reference kernels take on a 64-bit machine. Pointers of 32 bits need less,
// kernels that are tuned for a device may need more: arena_used_bytes() of the interpreter tells.
constexpr std::size_t kArenaSize = {arena.arena_size(content)};

// Numbers of the inputs and outputs. They share the arena: before each timestep write every input, after it copy what you need
// of the outputs, every state first of all, to memory of your own.
{tensors}

// What the states hold before the first timestep.
{initial}

// tflite::MicroMutableOpResolver<kOperators> resolver; AddOperators(resolver) says whether all were registered.
constexpr unsigned int kOperators = {len(methods)};

template <typename Resolver>
bool AddOperators(Resolver& resolver) {{
  return {calls};
}}

}}  // namespace {name}

#endif
"""


def _numbered(side: str, tensors: Sequence[TensorSpec]) -> Iterator[str]:
    for number, tensor in enumerate(tensors):
        yield f"constexpr int k{side}{camel(tensor.name)} = {number};  // {tensor.dtype} {shape_of(tensor)}"


def _values(state: State) -> str:
    """The initializer of an array of float; what it leaves out is zero."""
    return ", ".join(f"{value!r}f" for value in state.initial) if any(state.initial) else ""
