// The two sweeps for what-if questions: one loss traced back alone, the gradient cut at windows, the network run free.

import { lossValue, output, phi, slope } from "./activation.ts";
import {
  type Floats,
  input,
  inputClass,
  type Layer,
  layersAbove,
  offset,
  outputOf,
  Problem,
  stateBefore,
  type Tape,
} from "./tape.ts";

/** ∂a of each layer, (T, H), by position; null for layers whose gradient cannot be followed. */
type Gradients = (Float64Array | null)[];

/** Writes ∂L/∂h of a top layer from above, at step t. */
export type Seed = (layer: Layer, t: number, own: Float64Array) => void;

/**
 * The backward sweep of the whole stack for steps `from` ≤ t < `to`, nothing reaching in from outside them.
 * `seen` receives ∂h of every step on the way, and the part of it that came from above.
 */
export function backward(
  tape: Tape,
  seed: Seed,
  from: number,
  to: number,
  into: Gradients,
  lowest = 0,
  seen?: (layer: Layer, t: number, dh: Float64Array, own: Float64Array) => void,
): void {
  for (let position = tape.layers.length - 1; position >= lowest; position--) {
    const layer = tape.layers[position];
    const { H, W_hh } = layer;
    const above = layersAbove(tape, layer);
    const da = into[position];
    if (!da) continue;
    const forward = layer.direction === "forward";
    const shift = offset(tape, layer);
    const handed = new Float64Array(H);
    const own = new Float64Array(H);
    const dh = new Float64Array(H);
    for (let step = 0; step < to - from; step++) {
      const t = forward ? to - 1 - step : from + step;
      own.fill(0);
      if (above.length === 0) seed(layer, t, own);
      for (const other of above) {
        const source = into[other.position];
        if (!source) continue;
        for (let i = 0; i < H; i++) {
          const row = (shift + i) * other.H;
          let sum = 0;
          for (let u = 0; u < other.H; u++) sum += source[t * other.H + u] * other.W_xh[row + u];
          own[i] += sum;
        }
      }
      for (let i = 0; i < H; i++) dh[i] = own[i] + handed[i];
      seen?.(layer, t, dh, own);
      for (let i = 0; i < H; i++) da[t * H + i] = dh[i] * slope(layer.activation, layer.h[t * H + i]);
      for (let i = 0; i < H; i++) {
        const row = i * H;
        let sum = 0;
        for (let k = 0; k < H; k++) sum += da[t * H + k] * W_hh[row + k];
        handed[i] = sum;
      }
    }
  }
}

/** The lowest layer that a gradient from the top can be followed to: dropout between layers hides what lies below. */
export function lowestReached(tape: Tape): number {
  let level = tape.layers[tape.layers.length - 1].layer;
  while (level > 0 && tape.layers.every((layer) => layer.layer !== level - 1 || layer.above === "layer")) level--;
  return tape.layers.findIndex((layer) => layer.layer === level);
}

export function room(tape: Tape): Gradients {
  const lowest = lowestReached(tape);
  return tape.layers.map((layer, position) => (position >= lowest ? new Float64Array(tape.T * layer.H) : null));
}

export interface Loss {
  name: "W_xh" | "W_hh" | "b_h";
  layer: Layer;
  /** Of the truncated gradient to the full one; NaN where one of them is zero. */
  cosine: number;
  /** ‖truncated − full‖ / ‖full‖. */
  error: number;
}

/** What truncated BPTT with windows of k steps would lose of the gradients, for the steps shown. */
export function truncated(tape: Tape, k: number): Loss[] {
  const cut = room(tape);
  const direct: Seed = (layer, t, own) => {
    for (let i = 0; i < layer.H; i++) own[i] = layer.dh_direct[t * layer.H + i];
  };
  for (let from = 0; from < tape.T; from += k) backward(tape, direct, from, Math.min(tape.T, from + k), cut);
  return tape.layers.flatMap((layer, position) => {
    const da = cut[position];
    return da ? compared(tape, layer, da) : [];
  });
}

function compared(tape: Tape, layer: Layer, cut: Float64Array): Loss[] {
  const { T } = tape;
  const { H, I } = layer;
  const judge = (name: Loss["name"], rows: number, left: (t: number, i: number) => number): Loss => {
    let both = 0;
    let full = 0;
    let short = 0;
    let off = 0;
    const one = new Float64Array(H);
    const two = new Float64Array(H);
    for (let i = 0; i < rows; i++) {
      one.fill(0);
      two.fill(0);
      for (let t = 0; t < T; t++) {
        const factor = left(t, i);
        if (factor === 0) continue;
        for (let j = 0; j < H; j++) {
          one[j] += factor * layer.da[t * H + j];
          two[j] += factor * cut[t * H + j];
        }
      }
      for (let j = 0; j < H; j++) {
        both += one[j] * two[j];
        full += one[j] ** 2;
        short += two[j] ** 2;
        off += (one[j] - two[j]) ** 2;
      }
    }
    return { name, layer, cosine: both / Math.sqrt(full * short), error: Math.sqrt(off / full) };
  };
  const losses = [
    judge("W_xh", I, (t, i) => input(layer, t, i)),
    judge("W_hh", H, (t, i) => stateBefore(tape, layer, t, i)),
  ];
  return layer.b_h ? [...losses, judge("b_h", 1, () => 1)] : losses;
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
  const W_ho = tape.W_ho as Floats;
  const layers: Layer[] = [];
  for (const layer of tape.layers) {
    const zeros = () => new Float64Array(T * layer.H);
    const empty = {
      a: zeros(),
      h: zeros(),
      dh_direct: zeros(),
      dh: zeros(),
      da: zeros(),
      da_after: null,
      dh0: null,
      dx: null,
    };
    const bottom = layer.below.length === 0;
    layers.push({
      ...layer,
      ...empty,
      dW_xh: null,
      dW_hh: null,
      db_h: null,
      below: layer.below.map((other) => layers[other.position]),
      tokens: bottom ? new Int32Array(T) : null,
      x: null,
    });
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
  const o = free.o as Float64Array;
  const classes = tape.classes as Int32Array;
  const w = tape.w as Floats;
  let token = inputClass(tape, 0);
  for (let t = 0; t < T; t++) {
    (layers[0].tokens as Int32Array)[t] = token;
    for (const layer of layers) forwardStep(free, layer, t);
    const top = layers[layers.length - 1];
    for (let c = 0; c < O; c++) {
      let sum = tape.b_o ? tape.b_o[c] : 0;
      for (let k = 0; k < top.H; k++) sum += top.h[t * top.H + k] * W_ho[k * O + c];
      o[t * O + c] = sum;
    }
    const y_hat = output("cross_entropy", o, t * O, O);
    (free.y_hat as Float64Array).set(y_hat, t * O);
    const y = y_hat.map((_, c) => (c === classes[t] ? 1 : 0));
    (free.lossOf as Float64Array)[t] = lossValue("cross_entropy", Array.from(o.subarray(t * O, (t + 1) * O)), y);
    free.L = (free.L as number) + w[t] * (free.lossOf as Float64Array)[t];
    for (let c = 0; c < O; c++) (free.do as Float64Array)[t * O + c] = w[t] * (y_hat[c] - y[c]);
    token = y_hat.indexOf(Math.max(...y_hat));
  }
  const seed: Seed = (layer, t, own) => {
    for (let i = 0; i < layer.H; i++)
      for (let c = 0; c < O; c++) own[i] += (free.do as Floats)[t * O + c] * W_ho[i * O + c];
  };
  const gradients = layers.map((layer) => layer.da as Float64Array);
  backward(free, seed, 0, T, gradients, 0, (layer, t, dh, own) => {
    layer.dh.set(dh, t * layer.H);
    layer.dh_direct.set(own, t * layer.H);
  });
  sumGradients(free, layers);
  return free;
}

function forwardStep(tape: Tape, layer: Layer, t: number): void {
  const { H, I } = layer;
  for (let i = 0; i < H; i++) {
    let a = layer.b_h ? layer.b_h[i] : 0;
    if (layer.tokens) a += layer.W_xh[layer.tokens[t] * H + i];
    else for (let k = 0; k < I; k++) a += input(layer, t, k) * layer.W_xh[k * H + i];
    for (let k = 0; k < H; k++) a += stateBefore(tape, layer, t, k) * layer.W_hh[k * H + i];
    layer.a[t * H + i] = a;
    layer.h[t * H + i] = phi(layer.activation, a);
  }
}

function sumGradients(tape: Tape, layers: Layer[]): void {
  const { T, O } = tape;
  const summed = (rows: number, columns: number, left: (t: number, i: number) => number, right: Floats) => {
    const sum = new Float64Array(rows * columns);
    for (let t = 0; t < T; t++)
      for (let i = 0; i < rows; i++) {
        const factor = left(t, i);
        if (factor !== 0) for (let j = 0; j < columns; j++) sum[i * columns + j] += factor * right[t * columns + j];
      }
    return sum;
  };
  for (const layer of layers) {
    layer.dW_xh = summed(layer.I, layer.H, (t, i) => input(layer, t, i), layer.da);
    layer.dW_hh = summed(layer.H, layer.H, (t, i) => stateBefore(tape, layer, t, i), layer.da);
    layer.db_h = layer.b_h ? summed(1, layer.H, () => 1, layer.da) : null;
    layer.dh0 = Float64Array.from({ length: layer.H }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < layer.H; k++) sum += layer.da[k] * layer.W_hh[i * layer.H + k];
      return sum;
    });
  }
  const top = layers[layers.length - 1];
  tape.dW_ho = summed(top.H, O, (t, i) => top.h[t * top.H + i], tape.do as Floats);
  tape.db_o = tape.b_o ? summed(1, O, () => 1, tape.do as Floats) : null;
}

/** The first step at which a run free and the run on the truth have read different symbols; −1 if never. */
export function parting(truth: Tape, free: Tape): number {
  for (let t = 0; t < truth.T; t++) if (inputClass(truth, t) !== inputClass(free, t)) return t;
  return -1;
}

export type Feed = "truth" | "own" | "none";

/** What the input of step t is: the wanted output of the step before, the network's own answer, or neither. */
export function fedBy(tape: Tape, t: number): Feed {
  const s = t > 0 ? outputOf(tape, t - 1) : -1;
  const given = inputClass(tape, t);
  if (s < 0 || given < 0 || !tape.classes || !tape.y_hat) return "none";
  if (tape.classes[s] === given) return "truth";
  const own = Array.from(tape.y_hat.subarray(s * tape.O, (s + 1) * tape.O));
  return own.indexOf(Math.max(...own)) === given ? "own" : "none";
}
