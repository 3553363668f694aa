// Every number of the tape derived again from its neighbours, with plain loops of its own; what `explain` says of one
// number, this says of all. Residuals and bounds are those of bptt's Tape.check.

import { lossValue, output, phi, slope, slopeMagnitude } from "./activation.ts";
import { type Address, at, isMatrix, isOfStep, type Name, sideOf } from "./address.ts";
import {
  after,
  type Floats,
  gradientAfter,
  input,
  isWhole,
  type Layer,
  layersAbove,
  offset,
  outputOf,
  stateBefore,
  type Tape,
  target,
  topLayers,
} from "./tape.ts";

export interface Verdict {
  /** Numbers derived so far, and those that rounding does not explain. */
  count: number;
  wrong: Address[];
  wrongCount: number;
  /** The worst residual, its bound and its place, measured by the bound. */
  worst: number;
  bound: number;
  where: Address | null;
  done: boolean;
}

const MOST_LISTED = 100;

/** Goes through the tape step by step; each `next` is a few milliseconds of work at most. */
export function* verify(tape: Tape): Generator<Verdict, Verdict> {
  const verdict: Verdict = { count: 0, wrong: [], wrongCount: 0, worst: 0, bound: tape.eps, where: null, done: false };

  function judge(address: Address, value: number, derived: number, scale: number, count: number): void {
    verdict.count++;
    const difference = Math.abs(value - derived);
    const residual = difference === 0 ? 0 : difference / scale;
    const bound = (8 + count) * tape.eps;
    if (!(residual <= bound)) {
      verdict.wrongCount++;
      if (verdict.wrong.length < MOST_LISTED) verdict.wrong.push(address);
    }
    if (verdict.where === null || !(residual / bound <= verdict.worst / verdict.bound)) {
      verdict.worst = residual;
      verdict.bound = bound;
      verdict.where = address;
    }
  }

  for (const layer of tape.layers) {
    for (let t = 0; t < tape.T; t++) {
      forward(tape, layer, t, judge);
      backward(tape, layer, t, judge);
      yield verdict;
    }
    if (layer.dh0) {
      const first = layer.direction === "forward" ? 0 : tape.T - 1;
      for (let i = 0; i < layer.H; i++) {
        const [sum, scale] = product(layer.H, (k) => layer.da[first * layer.H + k] * layer.W_hh[i * layer.H + k]);
        judge(at("dh0", layer.position, -1, i), layer.dh0[i], sum, scale, layer.H);
      }
    }
  }
  for (let t = 0; t < tape.T; t++) {
    outputs(tape, t, judge);
    yield verdict;
  }
  if (isWhole(tape)) yield* sums(tape, judge, verdict);
  verdict.done = true;
  return verdict;
}

type Judge = (address: Address, value: number, derived: number, scale: number, count: number) => void;

function product(count: number, each: (k: number) => number): [number, number] {
  let sum = 0;
  let magnitude = 0;
  for (let k = 0; k < count; k++) {
    const value = each(k);
    sum += value;
    magnitude += Math.abs(value);
  }
  return [sum, magnitude];
}

function forward(tape: Tape, layer: Layer, t: number, judge: Judge): void {
  const { I, H, position } = layer;
  const x = Array.from({ length: layer.tokens ? 0 : I }, (_, k) => input(layer, t, k));
  const h = Array.from({ length: H }, (_, k) => stateBefore(tape, layer, t, k));
  for (let i = 0; i < H; i++) {
    let [sum, scale] = product(H, (k) => h[k] * layer.W_hh[k * H + i]);
    if (layer.tokens) {
      const taken = layer.W_xh[layer.tokens[t] * H + i];
      sum += taken;
      scale += Math.abs(taken);
    } else {
      const [own, magnitude] = product(I, (k) => x[k] * layer.W_xh[k * H + i]);
      sum += own;
      scale += magnitude;
    }
    const bias = layer.b_h ? layer.b_h[i] : 0;
    const a = layer.a[t * H + i];
    judge(at("a", position, t, i), a, sum + bias, scale + Math.abs(bias), I + H);
    const state = layer.h[t * H + i];
    judge(at("h", position, t, i), state, phi(layer.activation, a), Math.abs(state) * (1 + Math.abs(a)), 1);
  }
}

function backward(tape: Tape, layer: Layer, t: number, judge: Judge): void {
  const { H, I, position } = layer;
  const handed = Array.from({ length: H }, (_, k) => gradientAfter(tape, layer, t, k));
  const hasFuture = after(tape, layer, t) >= 0 || layer.da_after !== null;
  for (let i = 0; i < H; i++) {
    const direct = layer.dh_direct[t * H + i];
    const [future, scale] = hasFuture ? product(H, (k) => handed[k] * layer.W_hh[i * H + k]) : [0, 0];
    const dh = layer.dh[t * H + i];
    judge(at("dh", position, t, i), dh, direct + future, Math.abs(direct) + scale, H);
    const h = layer.h[t * H + i];
    const around = slopeMagnitude(layer.activation, h);
    judge(at("da", position, t, i), layer.da[t * H + i], dh * slope(layer.activation, h), Math.abs(dh) * around, 4);
  }
  const k = offset(tape, layer);
  if (layer.above === "output") {
    const { O, do: gradient, W_ho } = tape as Tape & { do: Floats; W_ho: Floats };
    for (let i = 0; i < H; i++) {
      const [sum, scale] = product(O, (c) => gradient[t * O + c] * W_ho[(k + i) * O + c]);
      judge(at("own", position, t, i), layer.dh_direct[t * H + i], sum, scale, O);
    }
  }
  if (layer.above === "layer") {
    const above = layersAbove(tape, layer);
    const terms = above.reduce((sum, other) => sum + other.H, 0) + 2;
    for (let i = 0; i < H; i++) {
      let sum = 0;
      let scale = 0;
      for (const other of above) {
        const [own, magnitude] = product(other.H, (u) => other.da[t * other.H + u] * other.W_xh[(k + i) * other.H + u]);
        sum += own;
        scale += magnitude;
      }
      judge(at("own", position, t, i), layer.dh_direct[t * H + i], sum, scale, terms);
    }
  }
  if (layer.dx)
    for (let i = 0; i < I; i++) {
      const [sum, scale] = product(H, (u) => layer.da[t * H + u] * layer.W_xh[i * H + u]);
      judge(at("dx", position, t, i), layer.dx[t * I + i], sum, scale, H);
    }
}

function outputs(tape: Tape, t: number, judge: Judge): void {
  const s = outputOf(tape, t);
  const { O, o, y_hat, W_ho, b_o, loss } = tape;
  if (s < 0 || !o) return;
  const own = Array.from({ length: O }, (_, i) => o[s * O + i]);
  if (W_ho) {
    const top = topLayers(tape);
    for (let i = 0; i < O; i++) {
      let sum = b_o ? b_o[i] : 0;
      let scale = Math.abs(sum);
      let features = 0;
      for (const layer of top) {
        const [part, magnitude] = product(layer.H, (k) => layer.h[t * layer.H + k] * W_ho[(features + k) * O + i]);
        sum += part;
        scale += magnitude;
        features += layer.H;
      }
      judge(at("o", 0, t, i), own[i], sum, scale, features);
    }
  }
  if (!loss || !y_hat || !tape.lossOf || !tape.w || !tape.do) return;
  const steep = 1 + Math.max(...own.map(Math.abs));
  const g = output(loss, own, 0, O);
  const y = Array.from({ length: O }, (_, i) => target(tape, s, i));
  const factor = (loss === "squared_error" ? 2 : 1) * tape.w[t];
  for (let i = 0; i < O; i++) {
    const predicted = y_hat[s * O + i];
    judge(at("y_hat", 0, t, i), predicted, g[i], Math.abs(predicted) * steep, O);
    const scale = Math.abs(factor) * (Math.abs(predicted) * steep + Math.abs(y[i]));
    judge(at("do", 0, t, i), tape.do[t * O + i], factor * (predicted - y[i]), scale, O);
  }
  const value = lossValue(loss, own, y);
  const magnitude =
    loss === "squared_error" ? product(O, (i) => (Math.abs(own[i]) + Math.abs(y[i])) ** 2)[0] : steep * O;
  judge(at("loss", 0, t), tape.lossOf[s], value, Math.abs(value) + magnitude, O);
}

function* sums(tape: Tape, judge: Judge, verdict: Verdict): Generator<Verdict> {
  const { T, O } = tape;
  if (tape.L !== null && tape.w && tape.lossOf) {
    const { w, lossOf } = tape;
    const first = T - tape.outputs;
    const [sum, scale] = product(tape.outputs, (s) => w[first + s] * lossOf[s]);
    judge(at("L", 0, -1), tape.L, sum, scale, tape.outputs);
  }
  function* matrix(
    name: Name,
    layer: number,
    recorded: Floats | null,
    left: Floats[] | null,
    right: Floats,
    columns: number,
  ) {
    if (!recorded) return;
    const rows = left ? left[0].length : 1;
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const [sum, scale] = product(T, (t) => (left ? left[t][i] : 1) * right[t * columns + j]);
        judge(left ? at(name, layer, -1, i, j) : at(name, layer, -1, j), recorded[i * columns + j], sum, scale, T);
      }
      yield verdict;
    }
  }
  const steps = Array.from({ length: T }, (_, t) => t);
  for (const layer of tape.layers) {
    const x = steps.map((t) => Float64Array.from({ length: layer.I }, (_, i) => input(layer, t, i)));
    const h = steps.map((t) => Float64Array.from({ length: layer.H }, (_, i) => stateBefore(tape, layer, t, i)));
    yield* matrix("db_h", layer.position, layer.db_h, null, layer.da, layer.H);
    yield* matrix("dW_xh", layer.position, layer.dW_xh, x, layer.da, layer.H);
    yield* matrix("dW_hh", layer.position, layer.dW_hh, h, layer.da, layer.H);
  }
  if (!tape.do) return;
  const top = topLayers(tape);
  const features = steps.map((t) =>
    Float64Array.from(top.flatMap((layer) => Array.from(layer.h.subarray(t * layer.H, (t + 1) * layer.H)))),
  );
  yield* matrix("db_o", 0, tape.db_o, null, tape.do, O);
  yield* matrix("dW_ho", 0, tape.dW_ho, features, tape.do, O);
}

/** The numbers of the tape that are NaN or infinite: how many, and where they begin; side A before side B. */
export function notFinite(tape: Tape): { count: number; first: Address | null } {
  let count = 0;
  let first: Address | null = null;
  const look = (name: Name, layer: number, array: Floats | null, width: number, shift = 0) => {
    for (let index = 0; array && index < array.length; index++) {
      if (Number.isFinite(array[index])) continue;
      count++;
      const address = isOfStep(name)
        ? at(name, layer, Math.floor(index / width) + shift, index % width)
        : at(name, layer, -1, isMatrix(name) ? Math.floor(index / width) : index, isMatrix(name) ? index % width : -1);
      if (first === null || isEarlier(address, first)) first = address;
    }
  };
  const shift = tape.T - tape.outputs;
  for (const { position, H, I, ...layer } of tape.layers) {
    for (const name of ["W_xh", "W_hh", "b_h"] as const) look(name, position, layer[name], H);
    look("h_before", position, layer.h_before, H);
    look("x", position, layer.x, I);
    for (const name of ["a", "h", "dh", "da"] as const) look(name, position, layer[name], H);
    look("own", position, layer.dh_direct, H);
  }
  look("W_ho", 0, tape.W_ho, tape.O);
  look("b_o", 0, tape.b_o, tape.O);
  look("o", 0, tape.o, tape.O, shift);
  look("y_hat", 0, tape.y_hat, tape.O, shift);
  look("loss", 0, tape.lossOf, 1, shift);
  look("do", 0, tape.do, tape.O);
  return { count, first };
}

/** In the order of computation: weights and what was given, side A with time, side B against it. */
function isEarlier(one: Address, other: Address): boolean {
  const side = (address: Address) => (address.t < 0 ? 0 : sideOf(address.name) === "A" ? 1 : 2);
  if (side(one) !== side(other)) return side(one) < side(other);
  return side(one) === 1 ? one.t < other.t : side(one) === 2 && one.t > other.t;
}
