// An exported model in ONNX Runtime's WebAssembly: loaded once, held to its description, then run on demand.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

const USED = ["model.onnx", "model.onnx.data", "vocabularies.json"];
const TYPES = {float32: Float32Array, int32: Int32Array, bool: Uint8Array};

/** The SHA-256 of bytes in hexadecimal; null where the browser has no cryptography (pages without TLS). */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

async function bytesOf(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: cannot be loaded (${answer.status})`);
  return answer.arrayBuffer();
}

async function checked(folder, entry) {
  const content = await bytesOf(folder + entry.name);
  if (content.byteLength !== entry.bytes) {
    throw new Error(`${entry.name}: must have ${entry.bytes} bytes, has ${content.byteLength}: it is cut off`);
  }
  const digest = await sha256(content);
  if (digest !== null && digest !== entry.sha256) {
    throw new Error(`${entry.name}: is not the file that model.json names: it was changed`);
  }
  return content;
}

/** Loads the runtime itself; no other file of it is needed. */
export async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = await bytesOf("runtime/ort-wasm-simd-threaded.wasm");
}

export class Engine {
  /** Reads the export in a folder and checks every file that it uses against the description. */
  static async read(folder) {
    const engine = new Engine();
    const text = await bytesOf(`${folder}model.json`);
    engine.digest = await sha256(text);
    engine.description = JSON.parse(new TextDecoder().decode(text));
    if (engine.description.format !== 1) {
      throw new Error(`${folder}model.json: must be of format 1, is of ${engine.description.format}`);
    }
    const used = engine.description.files.filter((entry) => USED.includes(entry.name));
    const contents = await Promise.all(used.map((entry) => checked(folder, entry)));
    engine.files = Object.fromEntries(used.map((entry, i) => [entry.name, contents[i]]));
    const names = engine.files["vocabularies.json"];
    engine.vocabularies = names ? JSON.parse(new TextDecoder().decode(names)) : {};
    return engine;
  }

  /**
   * Opens the model, after `start`; one at a time, since the runtime cannot begin twice. The runtime's optimiser takes
   * longer than the rest, so that a model answers without it first; a large one, of which a second copy for a while
   * would be too much, is optimised at once.
   */
  async open() {
    const large = this.files["model.onnx.data"] !== undefined;
    this.session = await this.create(large ? "all" : "disabled");
    if (large) this.files = null; // the session has its own copy
    return this;
  }

  /** Replaces the session by one that the runtime has optimised, if this was not done yet. */
  async optimise() {
    if (this.files === null) return;
    const earlier = this.session;
    this.session = await this.create("all");
    this.files = null;
    await this.pending;
    await earlier.release();
  }

  create(graphOptimizationLevel) {
    const data = this.files["model.onnx.data"];
    return ort.InferenceSession.create(new Uint8Array(this.files["model.onnx"]), {
      executionProviders: ["wasm"],
      graphOptimizationLevel,
      ...(data ? {externalData: [{path: "model.onnx.data", data: new Uint8Array(data)}]} : {}),
    });
  }

  get supportMax() { return this.description.support_max; }

  /** How many numbers the local parameters are. */
  get localSize() { return this.description.outputs.find((entry) => entry.name === "local").shape[0]; }

  /** Where a leaf of the local parameters begins, and how many numbers it has. */
  leaf(path) {
    let start = 0;
    for (const entry of this.description.outputs.find((entry) => entry.name === "local").leaves) {
      const size = entry.shape.reduce((a, b) => a * b, 1);
      if (entry.path === path) return {start, size};
      start += size;
    }
    throw new Error(`the model's local parameters have no leaf ${path}`);
  }

  input(name) { return this.description.inputs.find((entry) => entry.name === name); }

  /** The field of the items that are recommended, and the other field of a rating, if there is one. */
  get itemField() { return this.description.inputs.find((entry) => entry.items !== undefined)?.name; }

  /**
   * Runs the model.
   * @param {Object<string, number[]>} given Flat numbers of the inputs; those left out are empty.
   * @param {number} size Support examples.
   * @param {string[]} wanted Outputs.
   */
  async run(given, size, wanted) {
    const feeds = {};
    for (const entry of this.description.inputs) {
      const numbers = entry.name === "mask" ? new Array(size).fill(1) : given[entry.name] ?? [];
      const rest = entry.shape.slice(1).reduce((a, b) => a * b, 1);
      const [low, high] = entry.range ?? [-Infinity, Infinity];
      for (const x of numbers) {
        if (!(x >= low && x <= high)) throw new Error(`${entry.name} must be from ${low} to ${high}, got ${x}`);
      }
      const data = TYPES[entry.dtype].from(numbers);
      feeds[entry.name] = new ort.Tensor(entry.dtype, data, [data.length / rest, ...entry.shape.slice(1)]);
    }
    if (size > this.supportMax) throw new Error(`at most ${this.supportMax} examples can be used, got ${size}`);
    const begun = performance.now();
    const running = this.session.run(feeds, wanted);
    this.pending = Promise.allSettled([this.pending, running]);
    const results = await running;
    const milliseconds = performance.now() - begun;
    return {milliseconds, ...Object.fromEntries(wanted.map((name) => [name, results[name].data]))};
  }
}
