// The user's part of a model: what the device keeps of it between visits, and what the next one goes on from.

/** Whether all of `earlier` is in `now`, each as often. */
function holds(now, earlier) {
  const left = new Map();
  for (const example of now) left.set(example, (left.get(example) ?? 0) + 1);
  return earlier.every((example) => {
    const count = left.get(example) ?? 0;
    left.set(example, count - 1);
    return count > 0;
  });
}

function packed(vector) {
  const bytes = new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

function unpacked(text) {
  return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** A stored part that can be used with a model, or null. */
function usable(stored, engine) {
  try {
    const {model, examples} = stored;
    const start = unpacked(stored.start), local = unpacked(stored.local);
    const room = engine.input("start") ? local.length : 0;
    const fits = local.length === engine.localSize && (start.length === 0 || start.length === room);
    const whole = Array.isArray(examples) && [...start, ...local].every(Number.isFinite);
    return fits && whole && engine.digest !== null && model === engine.digest ? {examples, start, local} : null;
  } catch {
    return null; // the storage holds something else, which counts as nothing
  }
}

/**
 * Local parameters belong to the model that made them: its digest is stored beside them, and with another model
 * they are made anew from the examples. A stateful algorithm goes on from what it made of the examples of earlier
 * visits; where one of those was changed or taken back, it begins again, so that nothing is left of that example.
 */
export class Part {
  /**
   * @param {Engine} engine The model.
   * @param {object[]} stored What was stored, for this model and for others.
   */
  constructor(engine, stored) {
    this.engine = engine;
    this.earlier = stored.map((part) => usable(part, engine)).find((part) => part !== null) ?? null;
    /** Whether parts of other models were stored and none of this one: it is made anew. */
    this.anew = stored.length > 0 && this.earlier === null;
    this.now = this.earlier;
  }

  /** The state from which examples are reconstructed; empty for a stateless algorithm and for a new user. */
  start(examples) {
    const {earlier} = this;
    if (!this.engine.input("start") || earlier === null || !holds(examples, earlier.examples)) return new Float32Array();
    return examples.length === earlier.examples.length ? earlier.start : earlier.local;
  }

  /** Takes the local parameters that were made of examples. */
  keep(examples, start, local) {
    this.now = examples.length ? {examples, start, local: Float32Array.from(local)} : null;
  }

  /** What is to be stored: nothing without examples, and where the model has no digest to be known by. */
  stored() {
    if (this.now === null || this.engine.digest === null) return [];
    const {examples, start, local} = this.now;
    return [{model: this.engine.digest, examples, start: packed(start), local: packed(local)}];
  }

  /** What is stored, in words. */
  get words() {
    return this.stored().length ? `${this.now.local.length.toLocaleString("en")} numbers of your part of model ${this.engine.digest.slice(0, 8)}…` : "";
  }
}
