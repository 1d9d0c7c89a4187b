"""One `step` of a bundle's own model in the languages of its users, with the real names and sizes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from export.arena import ALIGNMENT
from export.artifact import APP, MICRO
from export.spec import STEP


@dataclass(frozen=True)
class Step:
    """What the snippets need to know of a `step`: the input's name and width (None for tokens), states and the outputs."""

    input: str
    features: int | None
    states: tuple[tuple[str, str, int], ...]
    first: tuple[float | str, ...]  # what each state begins with: a number, or the .npy file that ends in its numbers
    outputs: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, content: dict[str, Any]) -> Step:
        sides = {side: {t["name"]: t["shape"] for t in content["signatures"][STEP][side]} for side in ("inputs", "outputs")}
        states = tuple((s["input"], s["output"], int(sides["inputs"][s["input"]][-1])) for s in content["states"])
        (name,) = sides["inputs"].keys() - {state[0] for state in states}
        after, shape = {state[1] for state in states}, sides["inputs"][name]
        outputs = tuple((output, int(shape[-1])) for output, shape in sides["outputs"].items() if output not in after)
        first = tuple(state["initial"] for state in content["states"])
        return cls(name, int(shape[-1]) if len(shape) > 1 else None, states, first, outputs)

    def each(self, line: str, separator: str = "\n", first: tuple[str, str, str] = ("", "", "")) -> str:
        """A line for each state, with its NUMBER, its names IN and OUT, its SIZE, and what it begins with, FIRST: of zeros, of
        another VALUE, and of those at the end of a FILE.
        """
        lines = []
        for i, ((before, after, size), value) in enumerate(zip(self.states, self.first, strict=True)):
            chosen = first[2].replace("FILE", value) if isinstance(value, str) else first[1].replace("VALUE", str(float(value)))
            text = line.replace("FIRST", chosen if value else first[0])
            text = text.replace("NUMBER", str(i)).replace("IN", before).replace("OUT", after).replace("SIZE", str(size))
            lines.append(text)
        return separator.join(lines)

    def result(self, line: str, separator: str = "\n") -> str:
        """A line for each output, with its NAME and WIDTH, and what it is called in the code, VARIABLE and CONSTANT."""
        return separator.join(
            line.replace("VARIABLE", variable(name) if len(self.outputs) > 1 else "result")
            .replace("CONSTANT", camel(name))
            .replace("NAME", name)
            .replace("WIDTH", str(width))
            for name, width in self.outputs
        )


def snippets(content: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """By language: the format, or the profile, that it loads, what its code block is called, and the code."""
    step = Step.of(content)
    makers: dict[str, tuple[str, str, Callable[[Step], str]]] = {
        "Python": ("tflite", "python", _python),
        "Kotlin": ("tflite", "kotlin", _kotlin),
        "Swift": ("tflite", "swift", _swift),
        "C++": ("tflite", "cpp", _cpp),
        "JavaScript": ("onnx", "js", _javascript),
        "C++ on a microcontroller": (MICRO, "cpp", _firmware),
    }
    kinds = {
        file["format"] if file.get("profile", APP) == APP else file["profile"]
        for file in content["files"]
        if file["precision"] == "float32"
    }
    return {name: (kind, block, make(step)) for name, (kind, block, make) in makers.items() if kind in kinds}


def _python(step: Step) -> str:
    inputs = "np.array([token], np.int32)" if step.features is None else "token[None].astype(np.float32)"
    first = "np.zeros((1, SIZE), np.float32)", "np.full((1, SIZE), VALUE, np.float32)", 'np.load("FILE")[None]'
    return f"""import numpy as np
from ai_edge_litert.interpreter import Interpreter

step = Interpreter("model.tflite").get_signature_runner("step")
states = {{{step.each('"IN": FIRST', ", ", first)}}}
for token in {_example(step, "[0, 1, 2]", f"np.zeros((3, {step.features}))")}:
    result = step({step.input}={inputs}, **states)
    states = {{{step.each('"IN": result["OUT"]', ", ")}}}
{step.result('print(result["NAME"][0])')}"""


def _kotlin(step: Step) -> str:
    inputs = "intArrayOf(token)" if step.features is None else "arrayOf(token)"
    read = 'ByteBuffer.wrap(File("FILE").readBytes()).order(ByteOrder.LITTLE_ENDIAN)'
    first = (
        "FloatArray(SIZE)",
        "FloatArray(SIZE) { VALUEf }",
        f"{read}.run {{ position(limit() - 4 * SIZE); asFloatBuffer() }}.let {{ all -> FloatArray(SIZE) {{ all.get() }} }}",
    )
    values = step.each("    val stateNUMBER = Array(1) { FIRST }", first=first)
    return f"""import org.tensorflow.lite.Interpreter

Interpreter(File("model.tflite")).use {{ interpreter ->
{values}
{step.result("    val VARIABLE = Array(1) { FloatArray(WIDTH) }")}
    for (token in {"tokens" if step.features is None else "rows"}) {{
        interpreter.runSignature(
            mapOf<String, Any>("{step.input}" to {inputs}, {step.each('"IN" to stateNUMBER', ", ")}),
            mapOf<String, Any>({step.result('"NAME" to VARIABLE', ", ")}, {step.each('"OUT" to stateNUMBER', ", ")}),
            "step",
        )
    }}
}}"""


def _swift(step: Step) -> str:
    inputs = "withUnsafeBytes(of: token) { Data($0) }" if step.features is None else "token.withUnsafeBytes { Data($0) }"
    floats = "{ Array($0.bindMemory(to: Float32.self)) }"
    first = (
        "Data(count: SIZE * MemoryLayout<Float32>.size)",
        "[Float32](repeating: VALUE, count: SIZE).withUnsafeBytes { Data($0) }",
        'Data(try Data(contentsOf: URL(fileURLWithPath: "FILE")).suffix(SIZE * MemoryLayout<Float32>.size))',
    )
    each = "tokens {  // [Int32]" if step.features is None else "rows {  // [[Float32]]"
    return f"""import TensorFlowLite

let step = try Interpreter(modelPath: "model.tflite").signatureRunner(with: "step")
{step.each("var stateNUMBER = FIRST", first=first)}
for token in {each}
    try step.invoke(with: ["{step.input}": {inputs}, {step.each('"IN": stateNUMBER', ", ")}])
{step.each('    stateNUMBER = try step.output(named: "OUT").data')}
}}
{step.result(f'let VARIABLE = try step.output(named: "NAME").data.withUnsafeBytes {floats}')}"""


def _cpp(step: Step) -> str:
    copied = (
        f'*step->input_tensor("{step.input}")->data.i32 = token;'
        if step.features is None
        else f'std::copy_n(token, {step.features}, step->input_tensor("{step.input}")->data.f);'
    )
    filled = 'std::fill_n(step->input_tensor("IN")->data.f, SIZE, VALUEf);'
    read = 'read(reinterpret_cast<char*>(step->input_tensor("IN")->data.f), 4 * SIZE);'
    first = (
        filled.replace("VALUE", "0.0"),
        filled,
        f'std::ifstream("FILE", std::ios::binary).seekg(-4 * SIZE, std::ios::end).{read}',
    )
    back = 'std::copy_n(step->output_tensor("OUT")->data.f, SIZE, step->input_tensor("IN")->data.f);'
    return f"""#include "tensorflow/lite/interpreter_builder.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model_builder.h"

auto model = tflite::FlatBufferModel::BuildFromFile("model.tflite");
tflite::ops::builtin::BuiltinOpResolver operators;
std::unique_ptr<tflite::Interpreter> interpreter;
tflite::InterpreterBuilder(*model, operators)(&interpreter);
auto* step = interpreter->GetSignatureRunner("step");
step->AllocateTensors();
{step.each("FIRST", first=first)}
for (auto token : {"tokens" if step.features is None else "rows"}) {{
  {copied}
  step->Invoke();
  {step.each(back, chr(10) + "  ")}
}}
{step.result('const float* VARIABLE = step->output_tensor("NAME")->data.f;  // WIDTH numbers')}"""


def _firmware(step: Step) -> str:
    token = "kInput" + camel(step.input)
    fed = (
        f"*step.typed_input_tensor<int32_t>({token}) = token;"
        if step.features is None
        else f"std::copy_n(token, {step.features}, step.typed_input_tensor<float>({token}));"
    )
    states = [(i, camel(before), camel(after), size) for i, (before, after, size) in enumerate(step.states)]
    kept = "\n".join(f"static float state{i}[{size}];" for i, _, _, size in states)
    first = "\n".join(f"std::copy_n(kState{i}Initial, {size}, state{i});" for i, _, _, size in states)
    before = "\n  ".join(
        f"std::copy_n(state{i}, {size}, step.typed_input_tensor<float>(kInput{name}));" for i, name, _, size in states
    )
    after = "\n  ".join(
        f"std::copy_n(step.typed_output_tensor<float>(kOutput{name}), {size}, state{i});" for i, _, name, size in states
    )
    return f"""#include "model.micro.h"  // and add model.micro.cc to the build
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

using namespace model_micro;
alignas({ALIGNMENT}) static uint8_t arena[kArenaSize];
{kept}  // of our own: inputs and outputs share the arena

tflite::MicroMutableOpResolver<kOperators> resolver;
AddOperators(resolver);
tflite::MicroInterpreter step(tflite::GetModel(kModel), resolver, arena, kArenaSize);
step.AllocateTensors();
{first}
for (auto token : {"tokens" if step.features is None else "rows"}) {{
  {fed}
  {before}
  step.Invoke();
  {after}
}}
{step.result("const float* VARIABLE = step.typed_output_tensor<float>(kOutputCONSTANT);  // WIDTH numbers")}"""


def camel(name: str) -> str:
    """A tensor's name as part of a constant in C++: `state_0_in` is State0In."""
    return "".join(part.capitalize() for part in re.findall("[A-Za-z0-9]+", name))


def variable(name: str) -> str:
    """A tensor's name as a variable: pitch_logits is pitchLogits."""
    whole = camel(name)
    return whole[:1].lower() + whole[1:]


def _javascript(step: Step) -> str:
    inputs = (
        f'{step.input}: new ort.Tensor("int32", [token], [1, 1])'
        if step.features is None
        else f'{step.input}: new ort.Tensor("float32", token, [1, 1, {step.features}])'
    )
    first = (
        "new Float32Array(SIZE)",
        "new Float32Array(SIZE).fill(VALUE)",
        'new Float32Array((await (await fetch("FILE")).arrayBuffer()).slice(-4 * SIZE))',
    )
    return f"""import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create("model.onnx");
let result, states = {{ {step.each('IN: new ort.Tensor("float32", FIRST, [1, SIZE])', ", ", first)} }};
for (const token of {_example(step, "[0, 1, 2]", f"[new Float32Array({step.features})]")}) {{
  result = await session.run({{ {inputs}, ...states }});
  states = {{ {step.each("IN: result.OUT", ", ")} }};
}}
{step.result("console.log(result.NAME.data);")}"""


def _example(step: Step, tokens: str, rows: str) -> str:
    return tokens if step.features is None else rows
