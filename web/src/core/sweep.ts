// The two sweeps for what-if questions: one loss traced back alone, the gradient cut at windows, the network run free.

import { at, sizes } from "./address.ts";
import { Evaluation, type Read } from "./evaluate.ts";
import { fromAbove, lossAt, prediction, readout, slope } from "./output.ts";
import {
  edgeBefore,
  type Floats,
  inputClass,
  type Layer,
  layersAbove,
  offset,
  onward,
  outputOf,
  Problem,
  rowOf,
  type Tape,
} from "./tape.ts";
import { finish, Sum, sumsOfOutput } from "./verify.ts";

/** Gradients by their names, "d.h" (T, H) and so on, for one layer. */
type Slopes = Map<string, Floats>;

/** By position; null for layers whose gradient cannot be followed. */
type Gradients = (Slopes | null)[];

/** The part of a value's gradient that comes from above a top layer, or from outside, at step t; null for none. */
export type Seed = (layer: Layer, name: string, t: number) => ArrayLike<number> | null;

function reading(tape: Tape, layer: Layer, slopes: Slopes): Read {
  return (key, t) => {
    if (!key.startsWith("d.")) return rowOf(tape, layer, key, t);
    const array = slopes.get(key);
    if (!array) return null;
    const width = array.length / tape.T;
    return array.subarray(t * width, (t + 1) * width);
  };
}

/**
 * The backward sweep of the whole stack for steps `from` ≤ t < `to`, nothing reaching in from outside them. A `next` is
 * one step of one layer, whose gradients are there then.
 */
export function* backward(
  tape: Tape,
  seed: Seed,
  from: number,
  to: number,
  into: Gradients,
  lowest = 0,
): Generator<[Layer, number]> {
  for (let position = tape.layers.length - 1; position >= lowest; position--) {
    const layer = tape.layers[position];
    const slopes = into[position];
    if (!slopes) continue;
    const { cell } = layer;
    const above = layersAbove(tape, layer).flatMap((other) => {
      const own = into[other.position];
      return own ? [[other, new Evaluation(tape, other, false, reading(tape, other, own))] as const] : [];
    });
    const evaluation = new Evaluation(tape, layer, false, reading(tape, layer, slopes));
    const lines = [...cell.steps].reverse().map(({ name }) => ({ name, uses: cell.back.get(name)?.terms ?? [] }));
    for (let step = 0; step < to - from; step++) {
      const t = layer.direction === "forward" ? to - 1 - step : from + step;
      const next = t + onward(layer);
      for (const { name, uses } of lines) {
        const array = slopes.get(`d.${name}`) as Floats;
        const width = array.length / tape.T;
        const sum = array.subarray(t * width, (t + 1) * width).fill(0);
        const isBelow = name === cell.output && above.length > 0;
        if (isBelow) for (const [other, own] of above) addInput(sum, tape, layer, other, own, t);
        else {
          const own = seed(layer, name, t);
          if (own) sum.set(own);
        }
        slopes.get(`own.${name}`)?.set(sum, t * width);
        for (const { value, from: line } of uses) {
          if (line[0] === "o" || (line[1] === 1 && !(next >= from && next < to))) continue;
          add(sum, evaluation.row(value, t).value);
        }
      }
      yield [layer, t];
    }
  }
}

function add(sum: Floats, row: ArrayLike<number>, shift = 0): void {
  for (let i = 0; i < sum.length; i++) sum[i] += row[row.length === 1 ? 0 : shift + i];
}

/** What a layer above asks of its input is asked of these states. */
function addInput(sum: Floats, tape: Tape, layer: Layer, above: Layer, own: Evaluation, t: number): void {
  for (const { value } of above.cell.back.get("x")?.terms ?? []) add(sum, own.row(value, t).value, offset(tape, layer));
}

/** The lowest layer that a gradient from the top can be followed to: dropout between layers hides what lies below. */
export function lowestReached(tape: Tape): number {
  let level = tape.layers[tape.layers.length - 1].layer;
  while (level > 0 && tape.layers.every((layer) => layer.layer !== level - 1 || layer.above === "layer")) level--;
  return tape.layers.findIndex((layer) => layer.layer === level);
}

export function room(tape: Tape): Gradients {
  const lowest = lowestReached(tape);
  return tape.layers.map((layer, position) =>
    position < lowest
      ? null
      : new Map(
          layer.cell.steps.map(({ name }) => [
            `d.${name}`,
            new Float64Array((layer.arrays.get(name) as Floats).length),
          ]),
        ),
  );
}

export interface Loss {
  name: string;
  layer: Layer;
  /** Of the truncated gradient to the full one; NaN where one of them is zero. */
  cosine: number;
  /** ‖truncated − full‖ / ‖full‖. */
  error: number;
}

/** What truncated BPTT with windows of k steps would lose of the gradients, for the steps shown. */
export function truncated(tape: Tape, k: number): Loss[] {
  const cut = room(tape);
  const direct: Seed = (layer, name, t) => rowOf(tape, layer, `own.${name}`, t);
  for (let from = 0; from < tape.T; from += k) finish(backward(tape, direct, from, Math.min(tape.T, from + k), cut));
  return tape.layers.flatMap((layer, position) => {
    const slopes = cut[position];
    return slopes ? compared(tape, layer, slopes) : [];
  });
}

/** The parameters whose gradient is a sum over steps, in the order of side B. */
function summed(layer: Layer): string[] {
  return [...layer.cell.back].flatMap(([name, { terms = [] }]) =>
    layer.arrays.has(`d.${name}`) && at(layer, name, 0).t === null && terms.some(({ from }) => from[1] !== undefined)
      ? [name]
      : [],
  );
}

function compared(tape: Tape, layer: Layer, cut: Slopes): Loss[] {
  const [whole, parts] = [new Map(), cut].map((slopes) => {
    const own = { ...layer, arrays: new Map([...layer.arrays, ...slopes]) };
    sumUp(tape, own, layer);
    return own;
  });
  return summed(whole).map((name) => {
    const [full, short] = [whole, parts].map(({ arrays }) => arrays.get(`d.${name}`) as Floats);
    let [both, one, two, off] = [0, 0, 0, 0];
    for (let k = 0; k < full.length; k++) {
      both += full[k] * short[k];
      one += full[k] ** 2;
      two += short[k] ** 2;
      off += (full[k] - short[k]) ** 2;
    }
    return { name, layer, cosine: both / Math.sqrt(one * two), error: Math.sqrt(off / one) };
  });
}

/** The gradients of what has no time, where the tape has them, from all uses; lines come before what they are made of. */
function sumUp(tape: Tape, layer: Layer, truth: Layer): void {
  const evaluation = new Evaluation(tape, layer, false);
  for (const [name, { terms = [] }] of layer.cell.back) {
    const recorded = truth.arrays.get(`d.${name}`);
    if (!recorded || at(layer, name, 0).t !== null) continue;
    const sum = new Sum(recorded.length, sizes(tape, { name, layer: layer.position }));
    if (finish(sum.gather(evaluation, terms, tape))) layer.arrays.set(`d.${name}`, sum.value);
    else layer.arrays.delete(`d.${name}`);
  }
}

/** Why this network cannot be run on its own answers here; "" if it can. */
export function cannotRunFree(tape: Tape): string {
  if (tape.loss !== "cross_entropy" || !tape.W_ho || !tape.classes) return "needs an output layer with classes";
  if (tape.layers.some((layer) => layer.direction === "reverse")) return "needs a network that reads forward only";
  if (tape.layers.some((layer) => layer.above === "outside")) return "dropout lies between the layers";
  if (tape.outputs !== tape.T || tape.O !== tape.layers[0].I)
    return "needs an answer at each step that can be an input";
  if (inputClass(tape, 0) < 0) return "needs inputs that are symbols";
  return "";
}

/** The same network on its own answers: from step 2 on, the likeliest symbol is the next input. */
export function runFree(tape: Tape): Tape {
  const reason = cannotRunFree(tape);
  if (reason) throw new Problem(`This network cannot run free: ${reason}.`);
  const { T, O } = tape;
  const layers: Layer[] = [];
  for (const layer of tape.layers) {
    const arrays = new Map([...layer.arrays].filter(([key]) => !/^(d|own|after|before\.d)\./.test(key) && key !== "x"));
    for (const { name } of layer.cell.steps)
      for (const key of [name, `d.${name}`, ...(name === layer.cell.output ? [`own.${name}`] : [])])
        arrays.set(key, new Float64Array((layer.arrays.get(name) as Floats).length));
    const below = layer.below.map((other) => layers[other.position]);
    layers.push({ ...layer, arrays, below, tokens: below.length === 0 ? new Int32Array(T) : null });
  }
  const free: Tape = {
    ...tape,
    layers,
    rows: 1,
    total: tape.T,
    eps: 2 ** -52,
    o: new Float64Array(T * O),
    y_hat: new Float64Array(T * O),
    lossOf: new Float64Array(T),
    L: 0,
    do: new Float64Array(T * O),
    dW_ho: null,
    db_o: null,
  };
  const w = tape.w as Floats;
  let token = inputClass(tape, 0);
  for (let t = 0; t < T; t++) {
    (layers[0].tokens as Int32Array)[t] = token;
    for (const layer of layers) forwardStep(free, layer, t);
    const set = (array: Floats | null, row: ArrayLike<number>) => (array as Floats).set(row, t * row.length);
    set(free.o, readout(free, t).value);
    const y_hat = Array.from(prediction(free, t).value);
    set(free.y_hat, y_hat);
    set(free.lossOf, lossAt(free, t).value);
    set(free.do, slope(free, t).value);
    free.L = (free.L as number) + w[t] * (free.lossOf as Floats)[t];
    token = y_hat.indexOf(Math.max(...y_hat));
  }
  const seed: Seed = (layer, name, t) =>
    name === layer.cell.output ? (fromAbove(free, layer, t) as { value: Floats }).value : null;
  const gradients = layers.map(({ arrays }) => arrays);
  finish(backward(free, seed, 0, T, gradients));
  for (const [position, layer] of layers.entries()) sumGradients(free, layer, tape.layers[position]);
  const { matrix, vector } = sumsOfOutput(free);
  return { ...free, dW_ho: matrix.value, db_o: tape.b_o ? vector.value : null };
}

function forwardStep(tape: Tape, layer: Layer, t: number): void {
  const evaluation = new Evaluation(tape, layer, false);
  for (const { name, value } of layer.cell.steps) {
    const array = layer.arrays.get(name) as Floats;
    const width = array.length / tape.T;
    array.set(evaluation.row(value, t).value, t * width);
  }
}

/** What is summed over the steps of a free run, and the gradients of its first states. */
function sumGradients(tape: Tape, layer: Layer, truth: Layer): void {
  sumUp(tape, layer, truth);
  const evaluation = new Evaluation(tape, layer, false);
  const edge = edgeBefore(tape, layer);
  for (const name of layer.cell.states) {
    const sum = new Float64Array((layer.arrays.get(`before.${name}`) as Floats).length);
    for (const { value, from } of layer.cell.back.get(name)?.terms ?? [])
      if (from[1] === 1) add(sum, evaluation.row(value, edge).value);
    layer.arrays.set(`before.d.${name}`, sum);
  }
}

/** The first step at which a run free and the run on the truth have read different symbols; −1 if never. */
export function parting(truth: Tape, free: Tape): number {
  for (let t = 0; t < truth.T; t++) if (inputClass(truth, t) !== inputClass(free, t)) return t;
  return -1;
}

type Feed = "truth" | "own" | "none";

/** What the input of step t is: the wanted output of the step before, the network's own answer, or neither. */
export function fedBy(tape: Tape, t: number): Feed {
  const s = t > 0 ? outputOf(tape, t - 1) : -1;
  const given = inputClass(tape, t);
  if (s < 0 || given < 0 || !tape.classes || !tape.y_hat) return "none";
  if (tape.classes[s] === given) return "truth";
  const own = Array.from(tape.y_hat.subarray(s * tape.O, (s + 1) * tape.O));
  return own.indexOf(Math.max(...own)) === given ? "own" : "none";
}
