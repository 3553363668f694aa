// The tape as the page carries it: one row of the batch, a window of steps, every array checked before it is believed.

import { type Cell, cellOf, keyOf, names } from "./sheet.ts";

export type Floats = Float32Array | Float64Array;
type Direction = "forward" | "reverse";
export type Loss = "cross_entropy" | "binary_cross_entropy" | "squared_error";

/** Something about the data that the reader should be told; `message` is for them. */
export class Problem extends Error {}

export interface Layer {
  /** Its place in `Tape.layers`. */
  position: number;
  layer: number;
  direction: Direction;
  cell: Cell;
  /** Lengths of the sizes of its sheet. */
  sizes: Record<string, number>;
  /** Where the own part of its output's gradient comes from. */
  above: "output" | "layer" | "outside";
  I: number;
  H: number;
  /**
   * By the names of the sheet: a value or parameter, `d.` and its name for the gradient, `own.` and its name for the part
   * of it from above, all of them (T, width) where they have a time; `before.` in front for the step before those shown,
   * `after.` for the one that follows.
   */
  arrays: Map<string, Floats>;
  /** The layers whose output is this one's input; empty where x is given. */
  below: Layer[];
  tokens: Int32Array | null;
}

export interface Tape {
  /** Steps shown. The first of them is step `first` + 1 of `total`. */
  T: number;
  first: number;
  total: number;
  row: number;
  rows: number;
  /** In a packed batch, where the rows of the steps shown lie in its arrays. */
  places: number[] | null;
  /** What the row is in a padded batch, whose real steps its layers have packed; null in others. */
  padded: { row: number; rows: number; sequence: number; sequences: number; start: number } | null;
  /** Outputs belong to the last `outputs` steps shown. */
  outputs: number;
  O: number;
  layers: Layer[];
  loss: Loss | null;
  o: Floats | null;
  y_hat: Floats | null;
  lossOf: Floats | null;
  classes: Int32Array | null;
  targets: Floats | null;
  w: Floats | null;
  L: number | null;
  do: Floats | null;
  W_ho: Floats | null;
  b_o: Floats | null;
  dW_ho: Floats | null;
  db_o: Floats | null;
  /** Rounding unit of the arrays. */
  eps: number;
  readoutMissing: string;
  text: string | null;
  vocabulary: string[] | null;
  seed: number | null;
  versions: Record<string, string>;
}

const SCHEMA = 2;
const LOSSES = ["cross_entropy", "binary_cross_entropy", "squared_error"];

type Raw = Record<string, unknown>;
type Carried = { dtype: string; shape: number[]; data: string | DataView | ArrayBuffer | Uint8Array };

/** Reads what bptt's player.data wrote, as JSON text or as an object with binary arrays; Problem if it is not that. */
export function readTape(source: unknown): Tape {
  const raw = typeof source === "string" ? parsed(source) : source;
  if (!isObject(raw)) throw new Problem("This page holds no tape. Write it again with tape.page.");
  if (raw.schema !== SCHEMA)
    throw new Problem(
      `This player reads pages of schema ${SCHEMA}; the tape in this one has schema ${shown(raw.schema)}. Write it again with tape.page.`,
    );
  const carried = raw.arrays;
  demand(isObject(carried), "its arrays are missing");
  const arrays = new Arrays(carried as Raw);
  const T = whole(raw, "steps", 1);
  const outputs = whole(raw, "outputs", 0);
  const cells = list(raw, "cells").map(readCell);
  const layers: Layer[] = [];
  for (const entry of list(raw, "layers")) layers.push(readLayer(entry, T, cells, arrays, layers));
  demand(layers.length > 0, "it has no layers");
  const top = layers.filter((layer) => layer.layer === layers[layers.length - 1].layer);
  const features = top.reduce((sum, layer) => sum + layer.H, 0);
  const o = arrays.floats("o", [outputs, -1]);
  const O = o ? arrays.shape("o")[1] : 0;
  const loss = raw.loss as Loss | null;
  demand(loss === null || LOSSES.includes(loss as string), `its loss is ${shown(loss)}`);
  const byClass = loss === "cross_entropy";
  const L = arrays.floats("L", []);
  const vocabulary = raw.vocabulary;
  demand(
    vocabulary === null || (Array.isArray(vocabulary) && vocabulary.every((symbol) => typeof symbol === "string")),
    "its vocabulary is not a list of text",
  );
  demand(raw.text === null || typeof raw.text === "string", "its text is not text");
  const tape: Tape = {
    T,
    first: whole(raw, "first", 0),
    total: whole(raw, "total", T),
    row: whole(raw, "row", 0),
    rows: whole(raw, "rows", 1),
    places: Array.isArray(raw.places) ? (raw.places as number[]) : null,
    padded: isObject(raw.padded) ? (raw.padded as Tape["padded"]) : null,
    outputs,
    O,
    layers,
    loss,
    o,
    y_hat: arrays.floats("y_hat", [outputs, O]),
    lossOf: arrays.floats("loss", [outputs]),
    classes: byClass ? arrays.integers("targets", [outputs], O) : null,
    targets: loss && !byClass ? arrays.floats("targets", [outputs, O]) : null,
    w: arrays.floats("w", [T]),
    L: L ? L[0] : null,
    do: arrays.floats("d.o", [T, O]),
    W_ho: arrays.floats("W_ho", [features, O]),
    b_o: arrays.floats("b_o", [O]),
    dW_ho: arrays.floats("d.W_ho", [features, O]),
    db_o: arrays.floats("d.b_o", [O]),
    eps: layers[0].arrays.get(layers[0].cell.output) instanceof Float32Array ? 2 ** -23 : 2 ** -52,
    readoutMissing: typeof raw.readout_missing === "string" ? raw.readout_missing : "",
    text: raw.text as string | null,
    vocabulary: vocabulary as string[] | null,
    seed: typeof raw.seed === "number" ? raw.seed : null,
    versions: isObject(raw.versions) ? (raw.versions as Record<string, string>) : {},
  };
  if (loss !== null)
    for (const name of ["o", "y_hat", "loss", "targets", "w", "L", "d.o"])
      demand(arrays.has(name), `the array ${name} is missing`);
  if (layers.some((layer) => layer.above === "output"))
    for (const name of ["W_ho", "d.o"]) demand(arrays.has(name), `the array ${name} is missing`);
  return tape;
}

/** What the page says of a cell, as far as everything else relies on it. */
function readCell(raw: unknown): Cell {
  demand(isObject(raw), "a cell is not described");
  const isLine = (line: unknown) => isObject(line) && typeof line.tag === "string" && Array.isArray(line.parts);
  for (const key of ["a", "b"])
    demand(Array.isArray(raw[key]) && (raw[key] as unknown[]).every(isLine), "its equation sheet is not readable");
  for (const key of ["functions", "constants", "given", "widths", "shapes", "notations"])
    demand(isObject(raw[key]), `its equation sheet has no ${key}`);
  for (const key of ["states", "inputs"]) demand(Array.isArray(raw[key]), `its equation sheet has no ${key}`);
  const cell = cellOf(raw as unknown as Parameters<typeof cellOf>[0]);
  demand(
    cell.steps.some(({ name }) => name === cell.output),
    "its equation sheet has no output",
  );
  return cell;
}

function readLayer(entry: unknown, T: number, cells: Cell[], arrays: Arrays, before: Layer[]): Layer {
  demand(isObject(entry), "a layer is not described");
  const direction = entry.direction as Direction;
  demand(direction === "forward" || direction === "reverse", `a layer has the direction ${shown(direction)}`);
  demand(["output", "layer", "outside"].includes(entry.above as string), "a layer does not say what is above it");
  const number = whole(entry, "layer", 0);
  const cell = cells[whole(entry, "cell", 0)];
  demand(cell !== undefined && isObject(entry.sizes), "a layer does not say which cell it is");
  const sizes = entry.sizes as Record<string, number>;
  const prefix = `layers.${number}.${direction}.`;
  const [I, H] = [sizes[cell.widths.x], sizes[cell.widths[cell.output]]];
  const found: Layer = {
    position: before.length,
    layer: number,
    direction,
    cell,
    sizes,
    above: entry.above as Layer["above"],
    I,
    H,
    arrays: new Map(),
    below: entry.x_is_below === true ? before.filter((layer) => layer.layer === number - 1) : [],
    tokens: null,
  };
  if (entry.x_is_below === true)
    demand(found.below.reduce((sum, layer) => sum + layer.H, 0) === I, "its layers do not fit on each other");
  const timed = new Set([...cell.steps.map(({ name }) => name), ...cell.inputs]);
  for (const key of arrays.names(prefix)) {
    const [, edge = "", , name] = /^(before\.|after\.)?(d\.|own\.)?(.*)$/.exec(key) as RegExpExecArray;
    if (key === "x" && arrays.dtype(prefix + key) === "int32") {
      found.tokens = arrays.integers(prefix + key, [T], I);
      continue;
    }
    const own = shapeOf(found, name);
    demand(own?.every((size) => size >= 0) === true, `the array ${prefix}${key} belongs to no equation`);
    const shape = timed.has(name) && edge === "" ? [T, ...own] : own;
    found.arrays.set(key, arrays.floats(prefix + key, shape) as Floats);
  }
  const values = cell.steps.map(({ name }) => name);
  const parameters = cell.steps.flatMap(({ value }) => [...names(value)].filter((each) => each[2] === undefined));
  const needed = [
    ...values.flatMap((name) => [name, `d.${name}`]),
    ...cell.states.map((name) => `before.${name}`),
    ...parameters.map(keyOf).filter((name) => !(name in cell.constants)),
    ...(found.tokens || found.below.length > 0 ? [] : ["x"]),
    `own.${cell.output}`,
  ];
  for (const key of needed) demand(found.arrays.has(key), `the array ${prefix}${key} is missing`);
  return found;
}

/** Rows and columns of a matrix, or the width of anything else; undefined for what the cell does not know. */
export function shapeOf(layer: Layer, name: string): number[] | undefined {
  const { cell, sizes } = layer;
  const letters = cell.shapes[name] ?? (cell.widths[name] === undefined ? undefined : [cell.widths[name]]);
  return letters?.map((letter) => sizes[letter] ?? -1);
}

class Arrays {
  constructor(private readonly carried: Raw) {}

  has(name: string): boolean {
    return this.carried[name] !== undefined;
  }

  /** What stands behind a prefix. */
  names(prefix: string): string[] {
    return Object.keys(this.carried).flatMap((name) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []));
  }

  dtype(name: string): string {
    return this.entry(name).dtype;
  }

  shape(name: string): number[] {
    return this.entry(name).shape;
  }

  /** Shape −1 fits any size. null where there is no such array. */
  floats(name: string, shape: number[]): Floats | null {
    if (!this.has(name)) return null;
    const bytes = this.bytes(name, shape);
    const { dtype } = this.entry(name);
    demand(dtype === "float32" || dtype === "float64", `the array ${name} holds ${shown(dtype)}`);
    return dtype === "float32" ? new Float32Array(bytes) : new Float64Array(bytes);
  }

  integers(name: string, shape: number[], below: number): Int32Array | null {
    if (!this.has(name)) return null;
    const bytes = this.bytes(name, shape);
    demand(this.dtype(name) === "int32", `the array ${name} holds ${shown(this.dtype(name))}`);
    const numbers = new Int32Array(bytes);
    demand(
      numbers.every((value) => value >= 0 && value < below),
      `the array ${name} holds numbers outside 0 to ${below - 1}`,
    );
    return numbers;
  }

  private entry(name: string): Carried {
    const entry = this.carried[name] as Carried;
    demand(
      isObject(entry) && Array.isArray(entry.shape) && entry.shape.every((size) => Number.isInteger(size) && size >= 0),
      `the array ${name} has no shape`,
    );
    return entry;
  }

  private bytes(name: string, shape: number[]): ArrayBuffer {
    const entry = this.entry(name);
    const fits =
      entry.shape.length === shape.length && shape.every((size, axis) => size === -1 || size === entry.shape[axis]);
    demand(
      fits,
      `the array ${name} has shape (${entry.shape.join(", ")}) where (${shape.join(", ").replace(/-1/g, "any")}) belongs`,
    );
    const bytes = unpacked(entry.data);
    const size = entry.dtype === "float64" ? 8 : 4;
    const wanted = size * entry.shape.reduce((product, axis) => product * axis, 1);
    demand(bytes !== null && bytes.byteLength === wanted, `the array ${name} is cut short or damaged`);
    return bytes as ArrayBuffer;
  }
}

function unpacked(data: Carried["data"]): ArrayBuffer | null {
  if (typeof data === "string") {
    try {
      return Uint8Array.from(atob(data), (character) => character.charCodeAt(0)).buffer;
    } catch {
      return null;
    }
  }
  if (data instanceof ArrayBuffer) return data;
  if (!ArrayBuffer.isView(data)) return null;
  return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Problem("The tape in this page is cut short or damaged: it is not JSON. Write it again with tape.page.");
  }
}

function demand(holds: boolean, flaw: string): asserts holds {
  if (!holds) throw new Problem(`The tape in this page cannot be used: ${flaw}. Write it again with tape.page.`);
}

function whole(raw: Raw, key: string, least: number): number {
  const value = raw[key];
  demand(Number.isInteger(value) && (value as number) >= least, `${key} is ${shown(value)}`);
  return value as number;
}

function list(raw: Raw, key: string): unknown[] {
  demand(Array.isArray(raw[key]), `${key} is missing`);
  return raw[key] as unknown[];
}

function isObject(value: unknown): value is Raw {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  return value === undefined ? "missing" : String(JSON.stringify(value)).slice(0, 40);
}

/** +1 where step t hands on to t + 1. */
export function onward(layer: Layer): 1 | -1 {
  return layer.direction === "forward" ? 1 : -1;
}

/** The step just before those shown, in the order of time of a layer. */
export function edgeBefore(tape: Tape, layer: Layer): number {
  return layer.direction === "forward" ? -1 : tape.T;
}

/** The step whose state step t received, and the step that received its; −1 where that is not among those shown. */
export function before(tape: Tape, layer: Layer, t: number): number {
  return within(tape, t - onward(layer));
}

export function after(tape: Tape, layer: Layer, t: number): number {
  return within(tape, t + onward(layer));
}

function within(tape: Tape, t: number): number {
  return t >= 0 && t < tape.T ? t : -1;
}

/** The row of a value or gradient at a step, also at the step before and after those shown; null if there is none. */
export function rowOf(tape: Tape, layer: Layer, key: string, t: number): ArrayLike<number> | null {
  if (t < -1 || t > tape.T) return null;
  if (t < 0 || t >= tape.T)
    return layer.arrays.get(`${t === edgeBefore(tape, layer) ? "before" : "after"}.${key}`) ?? null;
  const array = layer.arrays.get(key);
  if (array) {
    const width = array.length / tape.T;
    return array.subarray(t * width, (t + 1) * width);
  }
  if (key !== "x") return null;
  const token = layer.tokens?.[t];
  if (token !== undefined) return Float64Array.from({ length: layer.I }, (_, i) => (i === token ? 1 : 0));
  return Float64Array.from(layer.below.flatMap((other) => Array.from(outputRow(tape, other, t))));
}

export function outputRow(tape: Tape, layer: Layer, t: number): ArrayLike<number> {
  return rowOf(tape, layer, layer.cell.output, t) as ArrayLike<number>;
}

/** Whether a step follows step t, whose gradients step t has a share in. */
export function isFollowed(tape: Tape, layer: Layer, t: number): boolean {
  return after(tape, layer, t) >= 0 || [...layer.arrays.keys()].some((key) => key.startsWith("after."));
}

/** Which of several layers side by side holds unit i of them all, and which unit it is there. */
export function unitBelow(layers: Layer[], i: number): [Layer, number] {
  return i < layers[0].H ? [layers[0], i] : [layers[1], i - layers[0].H];
}

export function topLayers(tape: Tape): Layer[] {
  const top = tape.layers[tape.layers.length - 1].layer;
  return tape.layers.filter((layer) => layer.layer === top);
}

export function layersAbove(tape: Tape, layer: Layer): Layer[] {
  return tape.layers.filter((other) => other.layer === layer.layer + 1);
}

/** Where this layer's units begin among those of its level. */
export function offset(tape: Tape, layer: Layer): number {
  const first = tape.layers.find((other) => other.layer === layer.layer) as Layer;
  return first === layer ? 0 : first.H;
}

/** The row of o, ŷ and loss that belongs to step t, −1 if it has no output. */
export function outputOf(tape: Tape, t: number): number {
  return tape.o ? Math.max(-1, t - (tape.T - tape.outputs)) : -1;
}

/** Whether the sums over time are those of the steps shown alone. */
export function isWhole(tape: Tape): boolean {
  return tape.rows === 1 && tape.T === tape.total;
}

/** y_t, entry i. */
export function target(tape: Tape, s: number, i: number): number {
  if (tape.classes) return tape.classes[s] === i ? 1 : 0;
  return tape.targets ? tape.targets[s * tape.O + i] : Number.NaN;
}

/** The class that step t was given as input: its token, or the only 1 among zeros; −1 if the input is no class. */
export function inputClass(tape: Tape, t: number): number {
  const bottom = tape.layers[0];
  if (bottom.tokens) return bottom.tokens[t];
  const x = bottom.arrays.get("x");
  if (!x || bottom.I < 2 || !tape.vocabulary || tape.vocabulary.length !== bottom.I) return -1;
  let found = -1;
  for (let i = 0; i < bottom.I; i++) {
    const value = x[t * bottom.I + i];
    if (value === 0) continue;
    if (value !== 1 || found >= 0) return -1;
    found = i;
  }
  return found;
}
