// What every network has around its cells, whatever they are: o, g, the loss, and what its slope asks of the states.

import { countOf, Evaluation, type Row } from "./evaluate.ts";
import {
  type Floats,
  type Layer,
  type Loss,
  layersAbove,
  offset,
  outputOf,
  outputRow,
  type Tape,
  target,
  topLayers,
} from "./tape.ts";

interface Measured extends Row {
  value: Float64Array;
  magnitude: Float64Array;
}

function zeros(length: number): Measured {
  return { value: new Float64Array(length), magnitude: new Float64Array(length) };
}

function add(sum: Measured, i: number, term: number, magnitude = Math.abs(term)): void {
  sum.value[i] += term;
  sum.magnitude[i] += magnitude;
}

/** o_t, of the states of the top layers. */
export function readout(tape: Tape, t: number): Measured {
  const { O, b_o } = tape;
  const W_ho = tape.W_ho as Floats;
  const o = zeros(O);
  for (let i = 0; b_o && i < O; i++) add(o, i, b_o[i]);
  const features = topLayers(tape).flatMap((layer) => Array.from(outputRow(tape, layer, t)));
  for (const [k, h] of features.entries()) for (let i = 0; i < O; i++) add(o, i, h * W_ho[k * O + i]);
  return o;
}

/** The own part of the gradient of a layer's output: what the output above asks, or the layer above; null from outside. */
export function fromAbove(tape: Tape, layer: Layer, t: number): (Measured & { count: number }) | null {
  const { above, H } = layer;
  if (above === "outside") return null;
  const asked = zeros(H);
  const shift = offset(tape, layer);
  if (above === "output") {
    const { O, do: slopes, W_ho } = tape as Tape & { do: Floats; W_ho: Floats };
    for (let i = 0; i < H; i++)
      for (let c = 0; c < O; c++) add(asked, i, slopes[t * O + c] * W_ho[(shift + i) * O + c]);
    return { ...asked, count: O };
  }
  let count = 2;
  for (const other of layersAbove(tape, layer)) {
    const evaluation = new Evaluation(tape, other);
    for (const { value: e } of other.cell.back.get("x")?.terms ?? []) {
      const { value, magnitude } = evaluation.row(e, t);
      for (let i = 0; i < H; i++) {
        const unit = value.length === 1 ? 0 : shift + i;
        add(asked, i, value[unit], magnitude[unit]);
      }
      count += countOf(other, e);
    }
  }
  return { ...asked, count };
}

/** o, ŷ and y of a step that has an output; how steep g is at most there: a rounding of o is carried on by so much. */
function around(tape: Tape, t: number) {
  const { O } = tape;
  const s = outputOf(tape, t);
  const part = (array: Floats | null) => Array.from(array?.subarray(s * O, (s + 1) * O) ?? []);
  const o = part(tape.o);
  const y = Array.from({ length: O }, (_, i) => target(tape, s, i));
  return { loss: tape.loss ?? "squared_error", o, y_hat: part(tape.y_hat), y, steep: 1 + Math.max(...o.map(Math.abs)) };
}

/** ŷ_t, of o. */
export function prediction(tape: Tape, t: number): Row {
  const { loss, o, steep } = around(tape, t);
  const value = output(loss, o);
  return { value, magnitude: value.map((each) => Math.abs(each) * steep) };
}

/** loss_t, of o. */
export function lossAt(tape: Tape, t: number): Row {
  const { loss, o, y, steep } = around(tape, t);
  const value = lossValue(loss, o, y);
  const magnitude =
    loss === "squared_error"
      ? o.reduce((sum, each, i) => sum + (Math.abs(each) + Math.abs(y[i])) ** 2, 0)
      : steep * tape.O;
  return { value: [value], magnitude: [Math.abs(value) + magnitude] };
}

/** ∂o_t, of ŷ. */
export function slope(tape: Tape, t: number): Row {
  const { loss, y_hat, y, steep } = around(tape, t);
  const factor = (loss === "squared_error" ? 2 : 1) * (tape.w as Floats)[t];
  return {
    value: y_hat.map((each, i) => factor * (each - y[i])),
    magnitude: y_hat.map((each, i) => Math.abs(factor) * (Math.abs(each) * steep + Math.abs(y[i]))),
  };
}

/** ŷ = g(o). */
function output(loss: Loss, o: number[]): number[] {
  if (loss === "squared_error") return o;
  if (loss === "binary_cross_entropy") return o.map((value) => 1 / (1 + Math.exp(-value)));
  const top = Math.max(...o);
  const powers = o.map((value) => Math.exp(value - top));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** loss(ŷ, y) before its weight. */
export function lossValue(loss: Loss, o: number[], y: number[]): number {
  if (loss === "squared_error") return o.reduce((sum, value, i) => sum + (value - y[i]) ** 2, 0);
  if (loss === "binary_cross_entropy")
    return o.reduce(
      (sum, value, i) => sum + Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value))) - value * y[i],
      0,
    );
  const top = Math.max(...o);
  const sum = o.reduce((total, value) => total + Math.exp(value - top), 0);
  return Math.log(sum) + top - o.reduce((total, value, i) => total + (y[i] ? value * y[i] : 0), 0);
}
