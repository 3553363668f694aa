// Every number of the tape derived again from its neighbours, whole rows at a time; what `explain` says of one number,
// this says of all. Residuals and bounds are those of bptt's Tape.check.

import { type Address, around, at, isGradient, isTimed, sideOf, sizes, valueAt } from "./address.ts";
import { countOf, Evaluation, type Row, Unknown } from "./evaluate.ts";
import { fromAbove, lossAt, prediction, readout, slope } from "./output.ts";
import type { Expression, Use } from "./sheet.ts";
import {
  edgeBefore,
  type Floats,
  isFollowed,
  isWhole,
  type Layer,
  onward,
  outputOf,
  outputRow,
  rowOf,
  type Tape,
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
type Numbers = ArrayLike<number>;
type Judge = (address: (i: number) => Address, value: Numbers, derived: Row, count: number) => void;

/** Goes through the tape step by step; each `next` is a few milliseconds of work at most. */
export function* verify(tape: Tape): Generator<Verdict, Verdict> {
  const verdict: Verdict = { count: 0, wrong: [], wrongCount: 0, worst: 0, bound: tape.eps, where: null, done: false };

  function judge(address: (i: number) => Address, value: Numbers, derived: Row, count: number): void {
    const bound = (8 + count) * tape.eps;
    const [wide, deep] = [derived.value.length > 1, derived.magnitude.length > 1];
    for (let i = 0; i < value.length; i++) {
      verdict.count++;
      const difference = Math.abs(value[i] - derived.value[wide ? i : 0]);
      const residual = difference === 0 ? 0 : difference / derived.magnitude[deep ? i : 0];
      if (!(residual <= bound)) {
        verdict.wrongCount++;
        if (verdict.wrong.length < MOST_LISTED) verdict.wrong.push(address(i));
      }
      if (verdict.where === null || !(residual / bound <= verdict.worst / verdict.bound)) {
        verdict.worst = residual;
        verdict.bound = bound;
        verdict.where = address(i);
      }
    }
  }

  for (const layer of tape.layers) {
    const own = new OfLayer(tape, layer, judge);
    own.fixed();
    for (let t = 0; t < tape.T; t++) {
      own.forward(t);
      own.backward(t);
      yield verdict;
    }
    own.first();
  }
  for (let t = 0; t < tape.T; t++) {
    outputs(tape, t, judge);
    yield verdict;
  }
  if (isWhole(tape)) yield* sums(tape, judge, verdict);
  verdict.done = true;
  return verdict;
}

class OfLayer {
  private readonly evaluation: Evaluation;

  constructor(
    private readonly tape: Tape,
    private readonly layer: Layer,
    private readonly judge: Judge,
  ) {
    this.evaluation = new Evaluation(tape, layer);
  }

  /** What is made once, where the page has what it is made of. */
  fixed(): void {
    const { tape, layer, judge, evaluation } = this;
    for (const { name, value } of layer.cell.fixed) {
      const recorded = layer.arrays.get(name);
      if (!recorded) continue;
      const made = new Sum(recorded.length, sizes(tape, { name, layer: layer.position }));
      if (finish(made.gather(evaluation, [{ value, from: [name] }], tape)))
        judge((k) => made.address(layer, name, k), recorded, made, countOf(layer, value));
    }
  }

  forward(t: number): void {
    const { tape, layer, judge, evaluation } = this;
    for (const { name, value } of layer.cell.steps)
      judge((i) => at(layer, name, t, i), row(tape, layer, name, t), evaluation.row(value, t), countOf(layer, value));
  }

  backward(t: number): void {
    const { tape, layer, judge } = this;
    const { cell } = layer;
    const next = isFollowed(tape, layer, t);
    for (const name of [...cell.steps.map((each) => each.name), ...cell.inputs]) {
      const recorded = rowOf(tape, layer, `d.${name}`, t);
      const line = cell.back.get(name);
      if (!recorded || !line?.terms) continue;
      const own = rowOf(tape, layer, `own.${name}`, t);
      const above = own && (name === cell.output ? fromAbove(tape, layer, t) : null);
      if (above) judge((i) => at(layer, `own.${name}`, t, i), own, above, above.count);
      const uses = line.terms.filter(({ from }) => from[0] !== "o" && (from[1] !== 1 || next));
      const start = above ?? (own ? { value: own, magnitude: Float64Array.from(own, Math.abs) } : undefined);
      const count = this.count(uses) + (above?.count ?? 0) + 1;
      judge((i) => at(layer, `d.${name}`, t, i), recorded, this.shares(uses, t, recorded.length, start), count);
    }
  }

  /** The gradients of the states before the first step. */
  first(): void {
    const { tape, layer, judge } = this;
    const t = edgeBefore(tape, layer);
    for (const name of layer.cell.states) {
      const recorded = rowOf(tape, layer, `d.${name}`, t);
      const uses = (layer.cell.back.get(name)?.terms ?? []).filter(({ from }) => from[1] === 1);
      if (recorded)
        judge((i) => at(layer, `d.${name}`, t, i), recorded, this.shares(uses, t, recorded.length), this.count(uses));
    }
  }

  private count(uses: Use[]): number {
    return uses.reduce((sum, { value }) => sum + countOf(this.layer, value), 0);
  }

  private shares(uses: Use[], t: number, width: number, start?: Row): Row {
    const sum = { value: new Float64Array(width), magnitude: new Float64Array(width) };
    for (const row of [...(start ? [start] : []), ...uses.map(({ value }) => this.evaluation.row(value, t))])
      add(sum, row);
    return sum;
  }
}

function row(tape: Tape, layer: Layer, key: string, t: number): Numbers {
  return rowOf(tape, layer, key, t) as Numbers;
}

function add(sum: { value: Float64Array; magnitude: Float64Array }, { value, magnitude }: Row): void {
  for (let i = 0; i < sum.value.length; i++) {
    sum.value[i] += value[value.length === 1 ? 0 : i];
    sum.magnitude[i] += magnitude[magnitude.length === 1 ? 0 : i];
  }
}

function outputs(tape: Tape, t: number, judge: Judge): void {
  if (outputOf(tape, t) < 0) return;
  const compare = (name: string, derived: Row, count = tape.O) => {
    const recorded = Array.from(derived.value, (_, i) => valueAt(tape, around(name, t, i)) as number);
    judge((i) => around(name, t, i), recorded, derived, count);
  };
  if (tape.W_ho) compare("o", readout(tape, t), tape.W_ho.length / tape.O);
  if (!tape.loss) return;
  compare("y_hat", prediction(tape, t));
  compare("loss", lossAt(tape, t));
  compare("d.o", slope(tape, t));
}

function* sums(tape: Tape, judge: Judge, verdict: Verdict): Generator<Verdict> {
  const { T, O } = tape;
  if (tape.L !== null && tape.w && tape.lossOf) {
    const { w, lossOf } = tape;
    const terms = Array.from(lossOf, (loss, s) => loss * w[T - tape.outputs + s]);
    const [value, magnitude] = [terms, terms.map(Math.abs)].map((all) => [all.reduce((sum, each) => sum + each, 0)]);
    judge(() => around("L", null), [tape.L], { value, magnitude }, tape.outputs);
  }
  for (const layer of tape.layers) {
    const evaluation = new Evaluation(tape, layer);
    for (const [name, { terms = [] }] of layer.cell.back) {
      const recorded = layer.arrays.get(`d.${name}`);
      if (!recorded || layer.cell.inputs.includes(name) || layer.cell.steps.some((each) => each.name === name))
        continue;
      const made = new Sum(recorded.length, sizes(tape, { name, layer: layer.position }));
      if (!(yield* made.gather(evaluation, terms, verdict))) continue;
      const count = terms.reduce(
        (sum, { value, from }) => sum + countOf(layer, value) + (from[1] === undefined ? 1 : T),
        0,
      );
      judge((k) => made.address(layer, `d.${name}`, k), recorded, made, count);
    }
  }
  if (!tape.dW_ho) return;
  const { matrix, vector } = sumsOfOutput(tape);
  judge((k) => around("d.W_ho", null, Math.floor(k / O), k % O), tape.dW_ho, matrix, T);
  if (tape.db_o) judge((i) => around("d.b_o", null, i), tape.db_o, vector, T);
  yield verdict;
}

/** ∂W_ho and ∂b_o. */
export function sumsOfOutput(tape: Tape): { matrix: Sum; vector: Sum } {
  const { T, O } = tape;
  const top = topLayers(tape);
  const features = top.reduce((sum, layer) => sum + layer.H, 0);
  const [matrix, vector] = [new Sum(features * O, [features, O]), new Sum(O, [O])];
  for (let t = 0; t < T; t++) {
    const slopes = (tape.do as Floats).subarray(t * O, (t + 1) * O);
    matrix.outer(
      top.flatMap((layer) => Array.from(outputRow(tape, layer, t))),
      slopes,
    );
    vector.outer([1], slopes);
  }
  return { matrix, vector };
}

/** Work to its end at once. */
export function finish<Result>(work: Generator<unknown, Result>): Result {
  let step = work.next();
  while (!step.done) step = work.next();
  return step.value;
}

/** A gradient that is summed over all steps. */
export class Sum {
  readonly value: Float64Array;
  readonly magnitude: Float64Array;

  constructor(
    length: number,
    private readonly shape: number[],
  ) {
    this.value = new Float64Array(length);
    this.magnitude = new Float64Array(length);
  }

  outer(left: Numbers, right: Numbers): void {
    for (let i = 0; i < left.length; i++) {
      if (left[i] === 0) continue;
      for (let j = 0; j < right.length; j++) {
        const term = left[i] * right[j];
        this.value[i * right.length + j] += term;
        this.magnitude[i * right.length + j] += Math.abs(term);
      }
    }
  }

  /** What all uses send, `progress` every few steps; whether the page has all that they are made of. */
  *gather<Progress>(evaluation: Evaluation, uses: Use[], progress: Progress): Generator<Progress, boolean> {
    try {
      for (const { value, from } of uses)
        for (let t = 0; t < (from[1] === undefined ? 1 : evaluation.tape.T); t++) {
          this.add(evaluation, value, t);
          if (t % 16 === 0) yield progress;
        }
      return true;
    } catch (error) {
      if (!(error instanceof Unknown)) throw error;
      return false;
    }
  }

  /** The share of one step. */
  private add(evaluation: Evaluation, e: Expression, t: number): void {
    const [, columns] = this.shape;
    const outer = columns === undefined ? null : evaluation.outer(e, t);
    if (columns === undefined) add(this, evaluation.row(e, t));
    else if (outer) this.outer(...outer);
    else
      for (let k = 0; k < this.value.length; k++) {
        const [value, magnitude] = evaluation.entry(e, t, Math.floor(k / columns), k % columns);
        this.value[k] += value;
        this.magnitude[k] += magnitude;
      }
  }

  address(layer: Layer, name: string, k: number): Address {
    const [, columns] = this.shape;
    return columns === undefined
      ? at(layer, name, null, k)
      : at(layer, name, null, Math.floor(k / columns), k % columns);
  }
}

/** The numbers of the tape that are NaN or infinite: how many, and where they begin; side A before side B. */
export function notFinite(tape: Tape): { count: number; first: Address | null } {
  let count = 0;
  let first: Address | null = null;
  const look = (array: Floats | null, address: (index: number) => Address) => {
    for (let index = 0; array && index < array.length; index++) {
      if (Number.isFinite(array[index])) continue;
      count++;
      const own = address(index);
      if (first === null || isEarlier(tape, own, first)) first = own;
    }
  };
  for (const layer of tape.layers)
    for (const [key, array] of layer.arrays) {
      const edge = /^(before|after)\./.exec(key)?.[1];
      if (edge === "after" || (edge === undefined && isGradient(key) && !isTimed(layer.cell, key))) continue;
      const name = edge ? key.slice(7) : key;
      const [rows, columns] = sizes(tape, { name, layer: layer.position });
      look(array, (index) => {
        if (edge) return at(layer, name, edgeBefore(tape, layer), index);
        if (columns !== undefined) return at(layer, name, null, Math.floor(index / columns), index % columns);
        return at(layer, name, Math.floor(index / rows), index % rows);
      });
    }
  const shift = tape.T - tape.outputs;
  const { O } = tape;
  look(tape.W_ho, (k) => around("W_ho", null, Math.floor(k / O), k % O));
  look(tape.b_o, (i) => around("b_o", null, i));
  look(tape.o, (k) => around("o", shift + Math.floor(k / O), k % O));
  look(tape.y_hat, (k) => around("y_hat", shift + Math.floor(k / O), k % O));
  look(tape.lossOf, (s) => around("loss", shift + s));
  look(tape.do, (k) => around("d.o", Math.floor(k / O), k % O));
  return { count, first };
}

/** In the order of computation: weights and what was given, side A with time, side B against it. */
function isEarlier(tape: Tape, one: Address, other: Address): boolean {
  const side = (address: Address) => (address.t === null ? 0 : sideOf(address.name) === "A" ? 1 : 2);
  if (side(one) !== side(other)) return side(one) < side(other);
  if (one.t === null || other.t === null || one.t === other.t) return false;
  const sign = onward(tape.layers[Math.max(0, one.layer)]);
  return side(one) === 1 ? sign * one.t < sign * other.t : sign * one.t > sign * other.t;
}
