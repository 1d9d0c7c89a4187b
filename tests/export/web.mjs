// An ONNX file of a bundle under onnxruntime-web (WebAssembly): token by token, its states handed from call to call, and the
// same tokens as one sequence.
//
//   node web.mjs BUNDLE FILE < numbers.json
//
// Reads a list of token numbers and prints the logits at each of them and the states after the last, once for each way. In a
// browser, fetch() takes the place of readFile().

import { readFile } from "node:fs/promises";
import { json } from "node:stream/consumers";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1; // one step is too short a work to share

const [bundle, file] = process.argv.slice(2);
const manifest = JSON.parse(await readFile(`${bundle}/manifest.json`, "utf8"));
const session = await ort.InferenceSession.create(await readFile(`${bundle}/${file}`), { executionProviders: ["wasm"] });

// The states before the first token, of one row.
function initialStates() {
  const { inputs } = manifest.signatures.sequence;
  return manifest.states.map(({ input, initial }) => {
    const [, units] = inputs.find(({ name }) => name === input).shape;
    return new ort.Tensor("float32", new Float32Array(units).fill(initial), [1, units]);
  });
}

// Token numbers and the states before them -> the logits (1, time, vocabulary) and the states after them.
async function run(numbers, states) {
  const feeds = { tokens: new ort.Tensor("int32", Int32Array.from(numbers), [1, numbers.length]) };
  manifest.states.forEach(({ input }, i) => (feeds[input] = states[i]));
  const results = await session.run(feeds);
  return { logits: results.logits, states: manifest.states.map(({ output }) => results[output]) };
}

async function stepByStep(numbers) {
  const logits = [];
  let states = initialStates();
  for (const number of numbers) {
    const result = await run([number], states);
    logits.push(...result.logits.data);
    states = result.states;
  }
  return { logits, states: states.map(({ data }) => [...data]) };
}

async function asSequence(numbers) {
  const { logits, states } = await run(numbers, initialStates());
  return { logits: [...logits.data], states: states.map(({ data }) => [...data]) };
}

const numbers = await json(process.stdin);
console.log(JSON.stringify({ step: await stepByStep(numbers), sequence: await asSequence(numbers) }));
