// The tape as the page carries it: one row of the batch, a window of steps, every array checked before it is believed.

export type Floats = Float32Array | Float64Array;
export type Direction = "forward" | "reverse";
export type Activation = "tanh" | "relu" | "sigmoid" | "identity";
export type Loss = "cross_entropy" | "binary_cross_entropy" | "squared_error";

/** Something about the data that the reader should be told; `message` is for them. */
export class Problem extends Error {}

export interface Layer {
  /** Its place in `Tape.layers`. */
  position: number;
  layer: number;
  direction: Direction;
  activation: Activation;
  /** Where dh_direct comes from. */
  above: "output" | "layer" | "outside";
  I: number;
  H: number;
  W_xh: Floats;
  W_hh: Floats;
  b_h: Floats | null;
  dW_xh: Floats | null;
  dW_hh: Floats | null;
  db_h: Floats | null;
  /** (T, H), like h, dh_direct, dh and da. */
  a: Floats;
  h: Floats;
  dh_direct: Floats;
  dh: Floats;
  da: Floats;
  /** The state that the first step of the window received, and ∂a of the step that follows the last. */
  h_before: Floats;
  da_after: Floats | null;
  dh0: Floats | null;
  /** The layers whose states are this one's input; empty where x is given. */
  below: Layer[];
  tokens: Int32Array | null;
  x: Floats | null;
  dx: Floats | null;
}

export interface Line {
  tag: string;
  formula: string;
  meaning: string;
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
  sheet: Line[];
  notations: Record<string, string[]>;
}

export const SCHEMA = 1;
const ACTIVATIONS = ["tanh", "relu", "sigmoid", "identity"];
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
  const sheet = list(raw, "sheet") as Line[];
  demand(
    sheet.every(
      (line) =>
        isObject(line) && ["tag", "formula", "meaning"].every((key) => typeof line[key as keyof Line] === "string"),
    ),
    "its equation sheet is not readable",
  );
  const layers: Layer[] = [];
  for (const entry of list(raw, "layers")) layers.push(readLayer(entry, T, arrays, layers));
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
  demand(isObject(raw.notations), "its notations are missing");
  const tape: Tape = {
    T,
    first: whole(raw, "first", 0),
    total: whole(raw, "total", T),
    row: whole(raw, "row", 0),
    rows: whole(raw, "rows", 1),
    places: Array.isArray(raw.places) ? (raw.places as number[]) : null,
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
    do: arrays.floats("do", [T, O]),
    W_ho: arrays.floats("W_ho", [features, O]),
    b_o: arrays.floats("b_o", [O]),
    dW_ho: arrays.floats("dW_ho", [features, O]),
    db_o: arrays.floats("db_o", [O]),
    eps: layers[0].a instanceof Float32Array ? 2 ** -23 : 2 ** -52,
    readoutMissing: typeof raw.readout_missing === "string" ? raw.readout_missing : "",
    text: raw.text as string | null,
    vocabulary: vocabulary as string[] | null,
    seed: typeof raw.seed === "number" ? raw.seed : null,
    versions: isObject(raw.versions) ? (raw.versions as Record<string, string>) : {},
    sheet,
    notations: raw.notations as Record<string, string[]>,
  };
  if (loss !== null)
    for (const name of ["o", "y_hat", "loss", "targets", "w", "L", "do"])
      demand(arrays.has(name), `the array ${name} is missing`);
  if (layers.some((layer) => layer.above === "output"))
    for (const name of ["W_ho", "do"]) demand(arrays.has(name), `the array ${name} is missing`);
  return tape;
}

function readLayer(entry: unknown, T: number, arrays: Arrays, before: Layer[]): Layer {
  demand(isObject(entry), "a layer is not described");
  const raw = entry as Raw;
  const direction = raw.direction as Direction;
  demand(direction === "forward" || direction === "reverse", `a layer has the direction ${shown(direction)}`);
  demand(ACTIVATIONS.includes(raw.activation as string), `a layer has the activation ${shown(raw.activation)}`);
  demand(["output", "layer", "outside"].includes(raw.above as string), "a layer does not say what is above it");
  const number = whole(raw, "layer", 0);
  const prefix = `layers.${number}.${direction}.`;
  const get = (name: string, shape: number[], needed = true) => {
    demand(!needed || arrays.has(prefix + name), `the array ${prefix}${name} is missing`);
    return arrays.floats(prefix + name, shape);
  };
  const W_xh = get("W_xh", [-1, -1]) as Floats;
  const [I, H] = arrays.shape(`${prefix}W_xh`);
  const below = raw.x_is_below === true ? before.filter((layer) => layer.layer === number - 1) : [];
  if (raw.x_is_below === true)
    demand(below.reduce((sum, layer) => sum + layer.H, 0) === I, "its layers do not fit on each other");
  const name = `${prefix}x`;
  demand(below.length > 0 || arrays.has(name), `the array ${name} is missing`);
  const tokens = arrays.has(name) && arrays.dtype(name) === "int32" ? arrays.integers(name, [T], I) : null;
  return {
    position: before.length,
    layer: number,
    direction,
    activation: raw.activation as Activation,
    above: raw.above as Layer["above"],
    I,
    H,
    W_xh,
    W_hh: get("W_hh", [H, H]) as Floats,
    b_h: get("b_h", [H], false),
    dW_xh: get("dW_xh", [I, H], false),
    dW_hh: get("dW_hh", [H, H], false),
    db_h: get("db_h", [H], false),
    a: get("a", [T, H]) as Floats,
    h: get("h", [T, H]) as Floats,
    dh_direct: get("dh_direct", [T, H]) as Floats,
    dh: get("dh", [T, H]) as Floats,
    da: get("da", [T, H]) as Floats,
    h_before: get("h_before", [H]) as Floats,
    da_after: get("da_after", [H], false),
    dh0: get("dh0", [H], false),
    below,
    tokens,
    x: tokens ? null : get("x", [T, I], below.length === 0),
    dx: get("dx", [T, I], false),
  };
}

class Arrays {
  constructor(private readonly carried: Raw) {}

  has(name: string): boolean {
    return this.carried[name] !== undefined;
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

/** The step whose state step t received, and the step that received its; −1 where that is not among those shown. */
export function before(tape: Tape, layer: Layer, t: number): number {
  if (layer.direction === "forward") return t - 1;
  return t + 1 < tape.T ? t + 1 : -1;
}

export function after(tape: Tape, layer: Layer, t: number): number {
  if (layer.direction === "reverse") return t - 1;
  return t + 1 < tape.T ? t + 1 : -1;
}

/** h_{t−1} of unit i. */
export function stateBefore(tape: Tape, layer: Layer, t: number, i: number): number {
  const s = before(tape, layer, t);
  return s < 0 ? layer.h_before[i] : layer.h[s * layer.H + i];
}

/** ∂a_{t+1} of unit i; zero after the last step. */
export function gradientAfter(tape: Tape, layer: Layer, t: number, i: number): number {
  const s = after(tape, layer, t);
  if (s >= 0) return layer.da[s * layer.H + i];
  return layer.da_after ? layer.da_after[i] : 0;
}

/** x_t, entry i: given, a token's 1 or 0, or a state of the layer below. */
export function input(layer: Layer, t: number, i: number): number {
  if (layer.tokens) return layer.tokens[t] === i ? 1 : 0;
  if (layer.x) return layer.x[t * layer.I + i];
  const [source, unit] = unitBelow(layer.below, i);
  return source.h[t * source.H + unit];
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
  if (!bottom.x || bottom.I < 2 || !tape.vocabulary || tape.vocabulary.length !== bottom.I) return -1;
  let found = -1;
  for (let i = 0; i < bottom.I; i++) {
    const value = bottom.x[t * bottom.I + i];
    if (value === 0) continue;
    if (value !== 1 || found >= 0) return -1;
    found = i;
  }
  return found;
}
