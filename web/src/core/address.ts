// Which number: its name, layer, step and indices, as the hash of a page writes them. All counts from 1 there.

import { slope } from "./activation.ts";
import { gradientAfter, input, type Layer, outputOf, type Tape, target, topLayers, unitBelow } from "./tape.ts";

export const STEP_NAMES = [
  "x",
  "a",
  "h",
  "o",
  "y_hat",
  "y",
  "w",
  "loss",
  "do",
  "dh",
  "own",
  "future",
  "slope",
  "da",
  "dx",
] as const;
export const WEIGHT_NAMES = ["W_xh", "W_hh", "b_h", "W_ho", "b_o"] as const;
export const GRADIENT_NAMES = ["dW_xh", "dW_hh", "db_h", "dW_ho", "db_o"] as const;
export const OTHER_NAMES = ["h_before", "da_after", "dh0", "L"] as const;
export type StepName = (typeof STEP_NAMES)[number];
export type WeightName = (typeof WEIGHT_NAMES)[number];
export type GradientName = (typeof GRADIENT_NAMES)[number];
export type Name = StepName | WeightName | GradientName | (typeof OTHER_NAMES)[number];

export interface Address {
  name: Name;
  /** Position in `Tape.layers`; 0 for what belongs to no layer. */
  layer: number;
  /** From 0; −1 for what belongs to no step. */
  t: number;
  i: number;
  /** The column of a weight, else −1. */
  j: number;
}

export const OUTPUT_NAMES: readonly Name[] = [
  "o",
  "y_hat",
  "y",
  "w",
  "loss",
  "do",
  "L",
  "W_ho",
  "b_o",
  "dW_ho",
  "db_o",
];
const SCALARS: readonly Name[] = ["w", "loss", "L"];
const MATRICES: readonly Name[] = ["W_xh", "W_hh", "W_ho", "dW_xh", "dW_hh", "dW_ho"];
const SIDE_B: readonly Name[] = [
  "do",
  "dh",
  "own",
  "future",
  "slope",
  "da",
  "dx",
  "dh0",
  "da_after",
  ...GRADIENT_NAMES,
];

export function at(name: Name, layer: number, t: number, i = 0, j = -1): Address {
  return { name, layer: OUTPUT_NAMES.includes(name) ? 0 : layer, t: isOfStep(name) ? t : -1, i, j };
}

export function isOfStep(name: Name): name is StepName {
  return (STEP_NAMES as readonly string[]).includes(name);
}

export function isMatrix(name: Name): boolean {
  return MATRICES.includes(name);
}

export function isScalar(name: Name): boolean {
  return SCALARS.includes(name);
}

export function sideOf(name: Name): "A" | "B" {
  return SIDE_B.includes(name) ? "B" : "A";
}

export function same(one: Address, other: Address): boolean {
  return (
    one.name === other.name && one.layer === other.layer && one.t === other.t && one.i === other.i && one.j === other.j
  );
}

/** How many entries a quantity has along each axis; [] for a single number. */
export function sizes(tape: Tape, name: Name, layer: Layer): number[] {
  const { I, H } = layer;
  const F = topLayers(tape).reduce((sum, top) => sum + top.H, 0);
  if (SCALARS.includes(name)) return [];
  if (name === "W_xh" || name === "dW_xh") return [I, H];
  if (name === "W_hh" || name === "dW_hh") return [H, H];
  if (name === "W_ho" || name === "dW_ho") return [F, tape.O];
  if (["o", "y_hat", "y", "do", "b_o", "db_o"].includes(name)) return [tape.O];
  return [name === "x" || name === "dx" ? I : H];
}

/** The number at an address; undefined if the tape has none there. */
export function valueAt(tape: Tape, address: Address): number | undefined {
  const { name, t, i, j } = address;
  const layer = tape.layers[address.layer];
  if (!layer || (isOfStep(name) && !(t >= 0 && t < tape.T))) return undefined;
  const [rows, columns] = sizes(tape, name, layer);
  if ((rows ?? 1) <= i || i < 0 || (columns !== undefined && !(j >= 0 && j < columns))) return undefined;
  const s = isOfStep(name) ? outputOf(tape, t) : -1;
  const { H, I } = layer;
  const O = tape.O;
  switch (name) {
    case "x":
      return input(layer, t, i);
    case "dx":
      return layer.dx?.[t * I + i];
    case "a":
    case "h":
    case "dh":
    case "da":
      return layer[name][t * H + i];
    case "own":
      return layer.dh_direct[t * H + i];
    case "future": {
      let sum = 0;
      for (let k = 0; k < H; k++) sum += gradientAfter(tape, layer, t, k) * layer.W_hh[i * H + k];
      return sum;
    }
    case "slope":
      return slope(layer.activation, layer.h[t * H + i]);
    case "o":
    case "y_hat":
      return s < 0 ? undefined : tape[name]?.[s * O + i];
    case "y":
      return s < 0 || !tape.loss ? undefined : target(tape, s, i);
    case "loss":
      return s < 0 ? undefined : tape.lossOf?.[s];
    case "w":
      return tape.w?.[t];
    case "do":
      return tape.do?.[t * O + i];
    case "h_before":
      return layer.h_before[i];
    case "da_after":
      return layer.da_after?.[i];
    case "dh0":
      return layer.dh0?.[i];
    case "L":
      return tape.L ?? undefined;
    case "W_ho":
    case "dW_ho":
      return tape[name]?.[i * O + j];
    case "b_o":
    case "db_o":
      return tape[name]?.[i];
    case "b_h":
    case "db_h":
      return layer[name]?.[i];
    default:
      return layer[name]?.[i * H + j];
  }
}

/** h_{t−1}, unit i, as the address it has: a state among those shown, or the one before them. */
export function addressOfStateBefore(tape: Tape, layer: Layer, t: number, i: number): Address {
  const s = layer.direction === "forward" ? t - 1 : t + 1 < tape.T ? t + 1 : -1;
  return s < 0 ? at("h_before", layer.position, -1, i) : at("h", layer.position, s, i);
}

/** x_t, entry i: an input, or the state of the layer below that it is. */
export function addressOfInput(layer: Layer, t: number, i: number): Address {
  if (layer.below.length === 0) return at("x", layer.position, t, i);
  const [source, unit] = unitBelow(layer.below, i);
  return at("h", source.position, t, unit);
}

/** "da,3" at the cursor, "da@5,3" elsewhere, "dW_hh,2,3"; "1r:" in front names another layer than the first. */
export function written(tape: Tape, address: Address, cursor = -1): string {
  const { name, layer, t, i, j } = address;
  const whose =
    layer === 0 ? "" : `${tape.layers[layer].layer + 1}${tape.layers[layer].direction === "reverse" ? "r" : ""}:`;
  const when = t < 0 || t === cursor ? "" : `@${tape.first + t + 1}`;
  const indices = isScalar(name) ? "" : j < 0 ? `,${i + 1}` : `,${i + 1},${j + 1}`;
  return `${whose}${name}${when}${indices}`;
}

/** The address that a text means; undefined if it means none on this tape. */
export function read(tape: Tape, text: string, cursor: number): Address | undefined {
  const match = /^(?:(\d+)(r?):)?([A-Za-z_0]+)(?:@(\d+))?(?:,(\d+))?(?:,(\d+))?$/.exec(text);
  if (!match) return undefined;
  const [, number, reverse, name, step, i, j] = match;
  const known = [...STEP_NAMES, ...WEIGHT_NAMES, ...GRADIENT_NAMES, ...OTHER_NAMES] as readonly string[];
  if (!known.includes(name)) return undefined;
  const layer = number
    ? tape.layers.findIndex(
        (other) => other.layer === Number(number) - 1 && (other.direction === "reverse") === (reverse === "r"),
      )
    : 0;
  const address = at(
    name as Name,
    layer,
    step ? Number(step) - 1 - tape.first : cursor,
    Number(i ?? 1) - 1,
    j ? Number(j) - 1 : -1,
  );
  return layer >= 0 && valueAt(tape, address) !== undefined ? address : undefined;
}

/** The expression that gives this number in Python, for a variable `tape`. */
export function inPython(tape: Tape, address: Address): string {
  const { name, t, i, j } = address;
  const layer = tape.layers[address.layer];
  const place = tape.places ? `${tape.places[t]}` : `${tape.first + t}, ${tape.row}`;
  const placeOfOutput = tape.places ? place : `${tape.first + t - tape.total}, ${tape.row}`;
  const isOnly = tape.layers.length === 1;
  const record = isOnly ? "tape" : `tape.layers[${address.layer}]`;
  const which = isOnly
    ? ""
    : `, layer=${layer.layer}${tape.layers.some((other) => other.direction === "reverse") ? `, direction="${layer.direction}"` : ""}`;
  switch (name) {
    case "x":
      return layer.tokens ? `float(tape.x[${place}] == ${i})` : `${record}.x[${place}, ${i}]`;
    case "a":
    case "h":
    case "dh":
    case "da":
    case "dx":
      return `${record}.${name}[${place}, ${i}]`;
    case "own":
      return `${record}.dh_direct[${place}, ${i}]`;
    case "future":
      return `(${record}.dh - ${record}.dh_direct)[${place}, ${i}]`;
    case "slope":
      return {
        tanh: `(1 - ${record}.h[${place}, ${i}] ** 2)`,
        sigmoid: `(${record}.h * (1 - ${record}.h))[${place}, ${i}]`,
        relu: `(${record}.h > 0)[${place}, ${i}]`,
        identity: "1.0",
      }[layer.activation];
    case "o":
    case "y_hat":
      return `tape.${name}[${placeOfOutput}, ${i}]`;
    case "y":
      return tape.classes ? `float(tape.targets[${placeOfOutput}] == ${i})` : `tape.targets[${placeOfOutput}, ${i}]`;
    case "loss":
      return `tape.loss[${placeOfOutput}]`;
    case "w":
      return `tape.w[${place}]`;
    case "do":
      return `tape.do[${place}, ${i}]`;
    case "L":
      return "tape.L";
    case "dh0":
      return `${record}.dh0[${tape.row}, ${i}]`;
    case "h_before":
      return tape.first === 0 && layer.direction === "forward"
        ? `${record}.h0[${tape.row}, ${i}]`
        : `${record}.h_prev[${layer.direction === "forward" ? tape.first : tape.first + tape.T - 1}, ${tape.row}, ${i}]`;
    case "da_after":
      return `${record}.da[${layer.direction === "forward" ? tape.first + tape.T : tape.first - 1}, ${tape.row}, ${i}]`;
    case "W_ho":
      return `tape.W_ho[${i}, ${j}]`;
    case "b_o":
      return `tape.b_o[${i}]`;
    case "b_h":
      return `${record}.b_h[${i}]`;
    case "dW_ho":
      return `tape.grad("W_ho")[${i}, ${j}]`;
    case "db_o":
      return `tape.grad("b_o")[${i}]`;
    case "db_h":
      return `tape.grad("b_h"${which})[${i}]`;
    case "dW_xh":
    case "dW_hh":
      return `tape.grad("${name.slice(1)}"${which})[${i}, ${j}]`;
    default:
      return `${record}.${name}[${i}, ${j}]`;
  }
}
