// Which number: its name, layer, step and indices, as the hash of a page writes them. All counts from 1 there.

import { type Cell, isName, names } from "./sheet.ts";
import { edgeBefore, type Layer, outputOf, rowOf, shapeOf, type Tape, target, topLayers, unitBelow } from "./tape.ts";

export interface Address {
  /** As the sheet writes it: "h", "d.h" for its gradient, "own.h" for what of that came from above, "d.W_hh". */
  name: string;
  /** Position in `Tape.layers`; NETWORK for what belongs to no cell: o, ŷ, y, w, the loss, W_ho, b_o. */
  layer: number;
  /** From 0, one before the steps shown and one after them included; null for what has no time. */
  t: number | null;
  i: number;
  /** The column of a weight, else −1. */
  j: number;
}

export const NETWORK = -1;
const TIMED = ["o", "y_hat", "y", "w", "loss", "d.o"];
/** All names of numbers that belong to no layer. */
export const AROUND = [...TIMED, "L", "W_ho", "b_o", "d.W_ho", "d.b_o"];
const SCALARS = ["w", "loss", "L"];

/** A number of the network around the cells. */
export function around(name: string, t: number | null, i = 0, j = -1): Address {
  return { name, layer: NETWORK, t: TIMED.includes(name) ? t : null, i, j };
}

/** A number of a layer. */
export function at(layer: Layer, name: string, t: number | null, i = 0, j = -1): Address {
  return { name, layer: layer.position, t: isTimed(layer.cell, name) ? t : null, i, j };
}

/** The letter of the sheet: h of d.h and own.h. */
export function letterOf(name: string): string {
  return name.startsWith("d.") ? name.slice(2) : name.startsWith("own.") ? name.slice(4) : name;
}

export function isGradient(name: string): boolean {
  return name.startsWith("d.") || name.startsWith("own.");
}

export function isTimed(cell: Cell, name: string): boolean {
  const letter = letterOf(name);
  return cell.inputs.includes(letter) || cell.steps.some((each) => each.name === letter);
}

export function sideOf(name: string): "A" | "B" {
  return isGradient(name) ? "B" : "A";
}

export function same(one: Address, other: Address): boolean {
  return (
    one.name === other.name && one.layer === other.layer && one.t === other.t && one.i === other.i && one.j === other.j
  );
}

/** How many entries a quantity has along each axis; [] for a single number. */
export function sizes(tape: Tape, { name, layer }: Pick<Address, "name" | "layer">): number[] {
  const own = tape.layers[layer];
  if (own) return letterOf(name) in own.cell.constants ? [1] : (shapeOf(own, letterOf(name)) ?? []);
  if (SCALARS.includes(name)) return [];
  if (letterOf(name) === "W_ho") return [topLayers(tape).reduce((sum, top) => sum + top.H, 0), tape.O];
  return [tape.O];
}

/** The number at an address; undefined if the tape has none there. */
export function valueAt(tape: Tape, address: Address): number | undefined {
  const { name, t, i, j } = address;
  const [rows = 1, columns] = sizes(tape, address);
  if (rows <= i || i < 0 || (columns === undefined ? j !== -1 : !(j >= 0 && j < columns))) return undefined;
  const layer = tape.layers[address.layer];
  if (!layer) return address.layer === NETWORK ? valueAround(tape, address) : undefined;
  if (t !== null) return rowOf(tape, layer, name, t)?.[i];
  const constant = layer.cell.constants[name];
  return constant ?? layer.arrays.get(name)?.[columns === undefined ? i : i * columns + j];
}

function valueAround(tape: Tape, { name, t, i, j }: Address): number | undefined {
  const { O } = tape;
  if (t !== null && (t < 0 || t >= tape.T)) return undefined;
  const s = t === null ? -1 : outputOf(tape, t);
  switch (name) {
    case "o":
    case "y_hat":
      return s < 0 ? undefined : tape[name]?.[s * O + i];
    case "y":
      return s < 0 || !tape.loss ? undefined : target(tape, s, i);
    case "loss":
      return s < 0 ? undefined : tape.lossOf?.[s];
    case "w":
      return tape.w?.[t as number];
    case "d.o":
      return tape.do?.[(t as number) * O + i];
    case "L":
      return tape.L ?? undefined;
    case "W_ho":
      return tape.W_ho?.[i * O + j];
    case "d.W_ho":
      return tape.dW_ho?.[i * O + j];
    case "b_o":
      return tape.b_o?.[i];
    default:
      return tape.db_o?.[i];
  }
}

/** x_t, entry i: an input, or the state of the layer below that it is. */
export function addressOfInput(layer: Layer, t: number, i: number): Address {
  if (layer.below.length === 0) return at(layer, "x", t, i);
  const [source, unit] = unitBelow(layer.below, i);
  return at(source, source.cell.output, t, unit);
}

/** Of an input that is the state of a layer below, the address of that state; others as they are. */
export function inputOf(layer: Layer, address: Address): Address {
  return address.name === "x" && address.t !== null ? addressOfInput(layer, address.t, address.i) : address;
}

/** All names that numbers of a layer have. */
export function known(layer: Layer): string[] {
  const { cell, arrays } = layer;
  const plain = [...arrays.keys()].filter((key) => !/^(before|after)\./.test(key));
  return [...new Set([...cell.inputs, ...Object.keys(cell.constants), ...plain])];
}

/** "da,3" at the cursor, "da@5,3" elsewhere, "dW_hh,2,3"; "1r:" in front names another layer than the first. */
export function written(tape: Tape, address: Address, cursor: number | null = null): string {
  const { name, layer, t, i, j } = address;
  const own = tape.layers[layer];
  const whose = !own || layer === 0 ? "" : `${own.layer + 1}${own.direction === "reverse" ? "r" : ""}:`;
  const when = t === null || t === cursor ? "" : `@${tape.first + t + 1}`;
  const indices = sizes(tape, address).length === 0 ? "" : j < 0 ? `,${i + 1}` : `,${i + 1},${j + 1}`;
  const short = name.startsWith("d.") ? `d${name.slice(2)}` : name;
  const isTaken = own !== undefined && short !== name && known(own).includes(short);
  return `${whose}${isTaken ? name : short}${when}${indices}`;
}

/** The address that a text means; undefined if it means none on this tape. */
export function read(tape: Tape, text: string, cursor: number): Address | undefined {
  const match = /^(?:(\d+)(r?):)?([^@,:\s]+)(?:@(\d+))?(?:,(\d+))?(?:,(\d+))?$/u.exec(text);
  if (!match) return undefined;
  const [, number, reverse, name, step, i, j] = match;
  const position = number
    ? tape.layers.findIndex(
        (other) => other.layer === Number(number) - 1 && (other.direction === "reverse") === (reverse === "r"),
      )
    : 0;
  const layer = tape.layers[position];
  if (!layer) return undefined;
  const [t, row, column] = [step ? Number(step) - 1 - tape.first : cursor, Number(i ?? 1) - 1, j ? Number(j) - 1 : -1];
  const gradient = `d.${name.slice(1)}`;
  const forms = name.startsWith("d") ? [name, gradient] : [name];
  const ours = forms.find((form) => known(layer).includes(form));
  const theirs = forms.find((form) => AROUND.includes(form));
  const address = ours ? at(layer, ours, t, row, column) : theirs ? around(theirs, t, row, column) : undefined;
  return address && valueAt(tape, address) !== undefined ? address : undefined;
}

/** The expression that gives this number in Python, for a variable `tape`. */
export function inPython(tape: Tape, address: Address): string {
  const { name, t, i, j } = address;
  const layer = tape.layers[address.layer];
  if (!layer) return aroundInPython(tape, address);
  if (name in layer.cell.constants) return String(layer.cell.constants[name]);
  const [array, place] = arrayInPython(tape, layer, name, t);
  if (name === "x" && layer.tokens) return `float(${array}[${place}] == ${i})`;
  return `${array}[${place && `${place}, `}${i}${j < 0 ? "" : `, ${j}`}]`;
}

/** The array that holds a quantity in Python, and the place in it of a step and row; "" where it is all of the array. */
export function arrayInPython(tape: Tape, layer: Layer, name: string, t: number | null): [string, string] {
  const record = `tape.layers[${layer.position}]`;
  const letter = letterOf(name);
  const key = JSON.stringify(letter);
  if (t === null) {
    const row = ["rows", "drop"].includes(layer.cell.given[letter]) ? String(tape.row) : "";
    return [`${record}${isGradient(name) ? `.grad(${key})` : `[${key}]`}`, row];
  }
  const isFirst = t === edgeBefore(tape, layer) && (t < 0 ? tape.first === 0 : tape.first + tape.T === tape.total);
  if (isFirst) return [`${record}.${isGradient(name) ? "d_first" : "first"}[${key}]`, String(tape.row)];
  const place = placeOf(tape, t);
  if (letter === "x") return [`${record}.${isGradient(name) ? "dx" : "x"}`, place];
  const isGiven = layer.cell.inputs.includes(letter);
  const whose = name.startsWith("own.")
    ? "from_outside"
    : isGradient(name)
      ? isGiven
        ? "d_weights"
        : "totals"
      : isGiven
        ? "weights"
        : "values";
  return [`${record}.${whose}[${key}]`, place];
}

function placeOf(tape: Tape, t: number): string {
  return tape.places ? `${tape.places[tape.first + t]}` : `${tape.first + t}, ${tape.row}`;
}

function aroundInPython(tape: Tape, { name, t, i, j }: Address): string {
  const { padded } = tape;
  const place = padded ? `${padded.start + tape.first + (t ?? 0)}, ${padded.row}` : placeOf(tape, t ?? 0);
  const ofOutput = tape.places ? place : `${tape.first + (t ?? 0) - tape.total}, ${tape.row}`;
  switch (name) {
    case "o":
    case "y_hat":
      return `tape.${name}[${ofOutput}, ${i}]`;
    case "y":
      return tape.classes ? `float(tape.targets[${ofOutput}] == ${i})` : `tape.targets[${ofOutput}, ${i}]`;
    case "loss":
      return `tape.loss[${ofOutput}]`;
    case "w":
      return `tape.w[${place}]`;
    case "d.o":
      return `tape.do[${place}, ${i}]`;
    case "L":
      return "tape.L";
    case "d.W_ho":
      return `tape.grad("W_ho")[${i}, ${j}]`;
    case "d.b_o":
      return `tape.grad("b_o")[${i}]`;
    default:
      return `tape.${name}[${i}${j < 0 ? "" : `, ${j}`}]`;
  }
}

/** The gradients of parameters that a layer has, in the order of its equations; of those that fixed lines make, too. */
export function parameters(layer: Layer): string[] {
  const { cell, arrays } = layer;
  const read = [...cell.fixed, ...cell.steps].flatMap(({ value }) => [...names(value)]);
  const timeless = read.filter((each) => isName(each) && each[0] === "n" && each[2] === undefined);
  return [...new Set(timeless.map(([, name]) => name))].filter((name) => arrays.has(`d.${name}`));
}
