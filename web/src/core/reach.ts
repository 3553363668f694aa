// How far does the gradient reach? ‖∂L_t/∂h_k‖ for every loss t and every state k, and what it says by distance.

import { called } from "./functions.ts";
import { backward, lowestReached, room, type Seed } from "./sweep.ts";
import { type Floats, type Layer, Problem, rowOf, type Tape } from "./tape.ts";

export interface Reach {
  layer: Layer;
  /** Of its output and each state, (T, T): norms[t * T + k] = ‖∂L_t/∂h_k‖; NaN for losses that were left out. */
  norms: Map<string, Float64Array>;
  /** The steps whose loss was traced back: all of them, or every n-th of a long tape. */
  sources: number[];
}

/** What the norms say by distance. */
export interface Lags {
  /** The least lag at which a loss asks anything of the state: 1 where only later steps read it, −1 if none does. */
  nearest: number;
  /** Mean over the losses of ‖∂L_t/∂h_{t−lag}‖ / ‖∂L_t/∂h_{t−nearest}‖; NaN where nothing is that far apart. */
  curve: number[];
  /** The straight line through log curve: start · rate^lag; NaN if there are fewer than two points. */
  rate: number;
  start: number;
  /** The first lag whose share is below REACHED; −1 if all the steps shown are within reach. */
  steps: number;
}

const REACHED = 0.01;
const AFFORDABLE = 3e9;

/** Traces one loss after another back through time; a `next` is one step of one. Problem for a layer beneath dropout. */
export function* reach(tape: Tape, layer: Layer): Generator<number, Reach> {
  const { T } = tape;
  if (layer.position < lowestReached(tape))
    throw new Problem("Dropout between the layers hides how a single loss reaches this one; choose the top layer.");
  const top = tape.layers[tape.layers.length - 1].layer;
  const { output, states } = layer.cell;
  const norms = new Map([output, ...states].map((name) => [name, new Float64Array(T * T).fill(Number.NaN)]));
  const own = (of: Layer, name: string, t: number) => rowOf(tape, of, `own.${name}`, t);
  const asking = Array.from({ length: T }, (_, t) => t).filter((t) =>
    tape.layers.some(
      (other) =>
        other.layer === top &&
        other.cell.steps.some(({ name }) => Array.from(own(other, name, t) ?? []).some((value) => value !== 0)),
    ),
  );
  const weights = tape.layers.flatMap(({ arrays, cell }) => [...arrays].filter(([key]) => cell.shapes[key]));
  const work = weights.reduce((sum, [, { length }]) => sum + length, 0) * T * asking.length;
  const every = Math.max(1, Math.ceil(work / 2 / AFFORDABLE));
  const sources = asking.filter((_, index) => (asking.length - 1 - index) % every === 0);
  const both = tape.layers.some((other) => other.direction === "reverse");
  const level = tape.layers.findIndex((other) => other.layer === layer.layer);
  const gradients = room(tape);
  for (const source of sources) {
    const seed: Seed = (of, name, t) => (t === source ? own(of, name, t) : null);
    for (const array of norms.values()) array.fill(0, source * T, (source + 1) * T);
    for (const [of, t] of backward(tape, seed, 0, both ? T : source + 1, gradients, level)) {
      yield source;
      if (of !== layer) continue;
      for (const [name, to] of norms) {
        const slopes = gradients[layer.position]?.get(`d.${name}`) as Floats;
        const width = slopes.length / T;
        to[source * T + t] = norm(slopes.subarray(t * width, (t + 1) * width));
      }
    }
  }
  return { layer, norms, sources };
}

function norm(values: Floats): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}

/** The curve by lag, its rate and where it falls below REACHED. */
export function byLag(norms: Float64Array, T: number, sources: number[], sign: 1 | -1): Lags {
  const isThere = (k: number) => k >= 0 && k < T;
  const sum = (of: number[], lag: number) => of.reduce((total, t) => total + norms[t * T + t + sign * lag], 0);
  const lags = Array.from({ length: T }, (_, lag) => sources.filter((t) => isThere(t + sign * lag)));
  const nearest = lags.findIndex((of, lag) => sum(of, lag) > 0);
  const curve = lags.map((of, lag) => {
    const [there, beside] = [sum(of, lag), lag < nearest ? 0 : sum(of, nearest)];
    return beside > 0 && there < Number.POSITIVE_INFINITY ? there / beside : Number.NaN;
  });
  while (curve.length > 1 && Number.isNaN(curve[curve.length - 1])) curve.pop();
  return { nearest, curve, ...lineThrough(curve), steps: curve.findIndex((share) => share < REACHED) };
}

function lineThrough(curve: number[]): Pick<Lags, "rate" | "start"> {
  const points = curve.map((share, lag) => [lag, Math.log(share)]).filter(([, log]) => Number.isFinite(log));
  if (points.length < 2) return { rate: Number.NaN, start: Number.NaN };
  const x = points.reduce((sum, [lag]) => sum + lag, 0) / points.length;
  const y = points.reduce((sum, [, log]) => sum + log, 0) / points.length;
  const over = points.reduce((sum, [lag, log]) => sum + (lag - x) * (log - y), 0);
  const slope = over / points.reduce((sum, [lag]) => sum + (lag - x) ** 2, 0);
  return { rate: Math.exp(slope), start: Math.exp(y - slope * x) };
}

/** What of a curve lies at or above the floor, as runs of (lag, share), cut where its logarithm crosses the floor. */
export function above(curve: number[], floor: number): [number, number][][] {
  const runs: [number, number][][] = [];
  let isOpen = false;
  for (const [lag, share] of curve.entries()) {
    const before = curve[lag - 1];
    const crossing =
      before > share
        ? lag - 1 + Math.log(before / floor) / Math.log(before / share)
        : lag - Math.log(share / floor) / Math.log(share / before);
    if (share >= floor) {
      if (!isOpen) runs.push(before < floor ? [[crossing, floor]] : []);
      runs[runs.length - 1].push([lag, share]);
    } else if (isOpen && share < floor) runs[runs.length - 1].push([crossing, floor]);
    isOpen = share >= floor;
  }
  return runs;
}

/** A value whose units can saturate, what saturated means for its function, and the share of its units at each step. */
export interface Saturation {
  name: string;
  words: string;
  shares: number[];
}

/** Of every such value of a layer, in the order of its equations. */
export function saturation(tape: Tape, layer: Layer): Saturation[] {
  return layer.cell.steps.flatMap(({ name, value }) => {
    const saturates = called(layer.cell, value)?.saturates;
    if (!saturates) return [];
    const shares = Array.from({ length: tape.T }, (_, t) => {
      const units = Array.from(rowOf(tape, layer, name, t) as Floats);
      return units.filter(saturates.at).length / units.length;
    });
    return [{ name, words: saturates.words, shares }];
  });
}
