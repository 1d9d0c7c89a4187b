"""A call of `sequence` of a bundle that reads both ways, in the languages of its users, with the real names of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from export.spec import SEQUENCE, SEQUENCE_LENGTHS


@dataclass(frozen=True)
class Whole:
    """What the snippets need to know: the input's name and width (None for tokens), the output's name and shape."""

    input: str
    features: int | None
    output: str
    width: int
    last_only: bool

    @classmethod
    def of(cls, content: dict[str, Any]) -> Whole:
        signature = content["signatures"][SEQUENCE]
        (given,) = [t for t in signature["inputs"] if t["name"] != SEQUENCE_LENGTHS]
        (made,) = signature["outputs"]
        features = int(given["shape"][2]) if len(given["shape"]) > 2 else None
        return cls(given["name"], features, made["name"], int(made["shape"][-1]), len(made["shape"]) == 2)

    @property
    def shape(self) -> str:
        """Of the input, for a batch of one, `count` being the timesteps."""
        return "1, count" if self.features is None else f"1, count, {self.features}"


def sequence_snippets(content: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """By language: the format it loads, what its code block is called, and the code."""
    it = Whole.of(content)
    made = {
        "Python": ("tflite", "python", _python(it)),
        "Kotlin": ("tflite", "kotlin", _kotlin(it)),
        "Swift": ("tflite", "swift", _swift(it)),
        "C++": ("tflite", "cpp", _cpp(it)),
        "JavaScript": ("onnx", "js", _javascript(it)),
    }
    formats = {file["format"] for file in content["files"] if file["precision"] == "float32"}
    return {name: snippet for name, snippet in made.items() if snippet[0] in formats}


def _python(it: Whole) -> str:
    inputs = "np.array([[0, 1, 2], [3, 4, 0]], np.int32)"
    if it.features is not None:
        inputs = f"np.zeros((2, 3, {it.features}), np.float32)"
    return f"""import numpy as np
from ai_edge_litert.interpreter import Interpreter

sequence = Interpreter("model.tflite").get_signature_runner("sequence")
{it.input} = {inputs}  # the second is padded by one timestep
print(sequence({it.input}={it.input}, lengths=np.array([3, 2], np.int32))["{it.output}"])"""


def _kotlin(it: Whole) -> str:
    given = "tokens: IntArray" if it.features is None else f"rows: Array<FloatArray>, {it.features} numbers each"
    name = "tokens" if it.features is None else "rows"
    result = f"FloatArray({it.width})" if it.last_only else f"Array({name}.size) {{ FloatArray({it.width}) }}"
    return f"""import org.tensorflow.lite.Interpreter

Interpreter(File("model.tflite")).use {{ interpreter ->  // {given}
    val result = Array(1) {{ {result} }}
    interpreter.runSignature(
        mapOf<String, Any>("{it.input}" to arrayOf({name}), "lengths" to intArrayOf({name}.size)),
        mapOf<String, Any>("{it.output}" to result),
        "sequence",
    )
}}"""


def _swift(it: Whole) -> str:
    given = "tokens: [Int32]" if it.features is None else f"tokens: [Float32], {it.features} for each timestep"
    count = "tokens.count" if it.features is None else f"tokens.count / {it.features}"
    return f"""import TensorFlowLite

let sequence = try Interpreter(modelPath: "model.tflite").signatureRunner(with: "sequence")
let count = {count}  // {given}
try sequence.resizeInput(named: "{it.input}", toShape: [{it.shape}])
try sequence.allocateTensors()
let lengths = [Int32(count)]
try sequence.invoke(with: [
    "{it.input}": tokens.withUnsafeBytes {{ Data($0) }}, "lengths": lengths.withUnsafeBytes {{ Data($0) }},
])
let result = try sequence.output(named: "{it.output}").data.withUnsafeBytes {{ Array($0.bindMemory(to: Float32.self)) }}"""


def _cpp(it: Whole) -> str:
    size, field = ("count", "i32") if it.features is None else (f"count * {it.features}", "f")
    return f"""#include "tensorflow/lite/interpreter_builder.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow/lite/model_builder.h"

auto model = tflite::FlatBufferModel::BuildFromFile("model.tflite");
tflite::ops::builtin::BuiltinOpResolver operators;
std::unique_ptr<tflite::Interpreter> interpreter;
tflite::InterpreterBuilder(*model, operators)(&interpreter);
auto* sequence = interpreter->GetSignatureRunner("sequence");
sequence->ResizeInputTensor("{it.input}", {{{it.shape}}});
sequence->AllocateTensors();
std::copy_n(tokens, {size}, sequence->input_tensor("{it.input}")->data.{field});
*sequence->input_tensor("lengths")->data.i32 = count;
sequence->Invoke();
const float* result = sequence->output_tensor("{it.output}")->data.f;  // {_numbers(it)}"""


def _javascript(it: Whole) -> str:
    kind, size = ("int32", "tokens.length") if it.features is None else ("float32", f"tokens.length / {it.features}")
    return f"""import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create("model.onnx");
const count = {size};
const result = await session.run({{
  {it.input}: new ort.Tensor("{kind}", tokens, [{it.shape}]),
  lengths: new ort.Tensor("int32", [count], [1]),
}});
console.log(result.{it.output}.data);"""


def _numbers(it: Whole) -> str:
    return f"{it.width} numbers" if it.last_only else f"{it.width} numbers for each timestep"
