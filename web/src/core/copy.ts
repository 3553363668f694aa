// A number to take along: as itself, as the TeX of its equation, as NumPy lines that derive it again from the tape.

import { type Address, inPython, isScalar, OUTPUT_NAMES } from "./address.ts";
import { exact, number } from "./format.ts";
import { type Glyph, type Notation, tex } from "./notation.ts";
import { layerName } from "./state.ts";
import type { Tape } from "./tape.ts";
import type { Explanation, Term } from "./terms.ts";

/** The symbol of a number without its index: h at its step, W_hh, L. Where there are several layers, ⟨2⟩ says which. */
export function glyphOf(tape: Tape, notation: Notation, address: Address): Glyph {
  const glyph = notation.ofName(address.name, timeOf(tape, address));
  if (tape.layers.length === 1 || OUTPUT_NAMES.includes(address.name)) return glyph;
  return { ...glyph, sup: `${glyph.sup}⟨${layerName(tape, address.layer)}⟩` };
}

function timeOf(tape: Tape, { name, layer, t }: Address): string {
  const forward = tape.layers[layer].direction === "forward";
  if (name === "h_before") return String(forward ? tape.first : tape.first + tape.T + 1);
  if (name === "da_after") return String(forward ? tape.first + tape.T + 1 : tape.first);
  if (name === "dh0") return String(forward ? 0 : tape.total + 1);
  return t < 0 ? "" : String(tape.first + t + 1);
}

/** "[3]", "[2,3]" or nothing: units counted from 1. */
export function indexOf(address: Address): string {
  if (isScalar(address.name)) return "";
  return address.j < 0 ? `[${address.i + 1}]` : `[${address.i + 1},${address.j + 1}]`;
}

export function asNumber(tape: Tape, explanation: Explanation): string {
  return exact(explanation.value, explanation.recorded && tape.eps > 1e-10);
}

/** Longer sums end in dots after their largest terms. */
const MOST_IN_TEX = 6;

export function asTex(tape: Tape, notation: Notation, explanation: Explanation): string {
  const name = (address: Address) => {
    const index = indexOf(address).replace("[", "{[").replace("]", "]}");
    return tex(glyphOf(tape, notation, address)) + index;
  };
  const value = texNumber(explanation.value);
  const left = name(explanation.address);
  if (explanation.kind === "given" || explanation.terms.length === 0) return `${left} = ${value}`;
  const bySize = [...explanation.terms].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const product = (term: Term) =>
    term.factors.map((factor) => (factor.address ? name(factor.address) : texNumber(factor.value))).join(" \\cdot ");
  const live = (term: Term) =>
    term.factors
      .map((factor) => (factor.value < 0 ? `(${texNumber(factor.value)})` : texNumber(factor.value)))
      .join(" \\cdot ");
  const most = bySize.slice(0, MOST_IN_TEX);
  const dots = bySize.length > MOST_IN_TEX ? " + \\dots" : "";
  if (explanation.kind === "function") {
    const inner =
      explanation.words === "softmax"
        ? name(explanation.address).replace("\\hat{y}", "o")
        : most.map(product).join(", ");
    return `${left} = \\operatorname{${explanation.words.replace(/_/g, "\\ ")}}\\left(${inner}\\right) = ${value}`;
  }
  return `${left} = ${most.map(product).join(" + ")}${dots} = ${most.map(live).join(" + ")}${dots} = ${value}`;
}

function texNumber(value: number): string {
  const text = number(value).replace(/−/g, "-");
  const [mantissa, power] = text.split("e");
  return power ? `${mantissa} \\cdot 10^{${power}}` : text;
}

/** Python that prints the number on the tape and the same number derived from those beside it. */
export function asNumPy(tape: Tape, explanation: Explanation): string {
  const own = inPython(tape, explanation.address);
  const lines = ["import numpy as np, bptt", 'tape = bptt.Tape.load("run.tape")', `print(float(${own}))`];
  const derived = derivation(tape, explanation);
  return [...lines, ...(derived ? [`print(float(${derived}))`] : [])].join("\n");
}

function derivation(tape: Tape, { kind, words, terms }: Explanation): string | undefined {
  const product = (term: Term) =>
    term.factors
      .map((factor) => (factor.address ? `float(${inPython(tape, factor.address)})` : String(factor.value)))
      .join(" * ");
  if (kind === "given" || terms.length === 0) return undefined;
  if (kind === "sum") return `sum([\n    ${terms.map(product).join(",\n    ")},\n])`;
  const inner = product(terms[0]);
  if (words === "tanh") return `np.tanh(${inner})`;
  if (words === "sigmoid") return `1 / (1 + np.exp(-${inner}))`;
  if (words === "relu") return `max(0.0, ${inner})`;
  if (words === "cross_entropy") return `-np.log(${inner})`;
  return undefined;
}
