// Ids in the order of a value of theirs, so that those between two values are found without looking at all.

const STEPS = 1 << 16;

const asFloat = new Float32Array(1), asBits = new Uint32Array(asFloat.buffer);
/** A step below 65,536 for a number from 0, never smaller for a larger one: the first bits of its float, so that a step is 0.4 % wide. */
const stepOf = (value) => ((asFloat[0] = value), asBits[0] >>> 15);

export class Order {
  /** Of ids from 1 to below `size`, by `values[id]`, numbers from 0. */
  constructor(values, size) {
    this.first = new Uint32Array(STEPS + 1); // place of the first id of each step
    this.ids = new Uint32Array(Math.max(size - 1, 0));
    for (let id = 1; id < size; id++) this.first[stepOf(values[id]) + 1] += 1;
    for (let step = 0; step < STEPS; step++) this.first[step + 1] += this.first[step];
    const next = this.first.slice();
    for (let id = 1; id < size; id++) this.ids[next[stepOf(values[id])]++] = id;
  }

  /** All ids whose value lies between two, and a few beside. */
  between(one, other) {
    return this.ids.subarray(this.first[stepOf(Math.min(one, other))], this.first[stepOf(Math.max(one, other)) + 1]);
  }
}
