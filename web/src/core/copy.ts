// A number to take along: as itself, as the TeX of its equation, as NumPy lines that derive it again from the tape.

import { type Address, arrayInPython, inPython, isGradient, letterOf, sizes } from "./address.ts";
import { numpyOf } from "./code.ts";
import { exact, number } from "./format.ts";
import { timeAt } from "./formula.ts";
import type { Notation } from "./notation.ts";
import { type Expression, keyOf, type Name } from "./sheet.ts";
import { layerName } from "./state.ts";
import { type Layer, onward, type Tape } from "./tape.ts";
import type { Explanation, Term } from "./terms.ts";
import { type Glyph, type Token, tex } from "./writing.ts";

/** The symbol of a number without its index: h at its step, W_hh, L. Where there are several layers, ⟨2⟩ says which. */
export function glyphOf(tape: Tape, notation: Notation, { name, layer, t }: Address): Glyph {
  const own = tape.layers[layer];
  const letter = letterOf(name) === "y_hat" && !own ? "ŷ" : letterOf(name);
  const which = own && tape.layers.length > 1 ? `⟨${layerName(tape, layer)}⟩` : "";
  const part = name.startsWith("own.") ? "own" : "";
  const time = timeAt(tape, own, t);
  return notation.glyph(
    [isGradient(name) ? "d" : "n", letter, t === null ? undefined : 0],
    time,
    [part, which].filter(Boolean).join(" "),
  );
}

/** "[3]", "[2,3]" or nothing: units counted from 1. */
export function indexOf(tape: Tape, address: Address): string {
  if (sizes(tape, address).length === 0) return "";
  return address.j < 0 ? `[${address.i + 1}]` : `[${address.i + 1},${address.j + 1}]`;
}

export function asNumber(tape: Tape, explanation: Explanation): string {
  return exact(explanation.value, tape.eps > 1e-10);
}

/** Longer sums end in dots after their largest terms. */
const MOST_IN_TEX = 6;

export function asTex(tape: Tape, notation: Notation, explanation: Explanation): string {
  const { address, kind, terms } = explanation;
  const layer = tape.layers[address.layer];
  const name = (of: Address) =>
    tex(glyphOf(tape, notation, of)) + indexOf(tape, of).replace("[", "{[").replace("]", "]}");
  const value = texNumber(explanation.value);
  const left = name(address);
  if (kind === "given" || terms.length === 0) return `${left} = ${value}`;
  const bySize = [...terms].sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const product = (term: Term) =>
    term.factors
      .map((factor) => {
        if (factor.address) return name(factor.address);
        if (!factor.of) return texNumber(factor.value);
        const time = timeAt(tape, factor.of.layer, term.t ?? address.t ?? 0);
        return `(${texOf(notation.expression(factor.of.expression, time))})`;
      })
      .join(" \\cdot ");
  const live = (term: Term) =>
    term.factors
      .map((factor) => (factor.value < 0 ? `(${texNumber(factor.value)})` : texNumber(factor.value)))
      .join(" \\cdot ");
  const most = bySize.slice(0, MOST_IN_TEX);
  const dots = bySize.length > MOST_IN_TEX ? " + \\dots" : "";
  if (kind === "function") {
    const inner =
      explanation.words === "softmax" && !layer ? left.replace("\\hat{y}", "o") : most.map(product).join(", ");
    return `${left} = \\operatorname{${explanation.words.replace(/_/g, "\\ ")}}\\left(${inner}\\right) = ${value}`;
  }
  return `${left} = ${most.map(product).join(" + ")}${dots} = ${most.map(live).join(" + ")}${dots} = ${value}`;
}

const TEX_SIGNS: Record<string, string> = { "⊙": "\\odot", "·": "\\cdot", "−": "-", "≥": "\\geq", "≤": "\\leq" };

function texOf(tokens: Token[]): string {
  const written = tokens.map((token) => {
    if ("glyph" in token) return tex(token.glyph);
    if ("value" in token) return texNumber(token.value);
    if ("name" in token) return `\\operatorname{${token.name}}`;
    if ("sign" in token)
      return (TEX_SIGNS[token.sign] ?? token.sign) + (token.sup ? `^{${token.sup.replace("⊤", "\\top")}}` : "");
    return "over" in token ? "\\sum" : `\\text{${token.words}}`;
  });
  return written.join(" ");
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

function derivation(tape: Tape, explanation: Explanation): string | undefined {
  const { kind, words, terms, address } = explanation;
  if (kind === "given" || terms.length === 0) return undefined;
  const product = (term: Term) =>
    term.factors
      .map((factor) => {
        if (factor.address) return `float(${inPython(tape, factor.address)})`;
        if (!factor.of) return String(factor.value);
        const { expression, layer, unit } = factor.of;
        const text = compound(tape, layer, expression, term.t ?? address.t ?? 0);
        return unit === undefined ? `(${text})[${address.i}, ${address.j}]` : `np.ravel(${text})[${unit}]`;
      })
      .join(" * ");
  if (kind === "sum") return `sum([\n    ${terms.map(product).join(",\n    ")},\n])`;
  const layer = tape.layers[address.layer];
  if (layer) {
    const equation = layer.cell.steps.find(({ name }) => name === address.name);
    return equation && `np.ravel(${compound(tape, layer, equation.value, address.t ?? 0)})[${address.i}]`;
  }
  const inner = product(terms[0]);
  if (words === "sigmoid") return `1 / (1 + np.exp(-${inner}))`;
  return words === "cross_entropy" ? `-np.log(${inner})` : undefined;
}

/** An expression of a cell, with whole rows in it that are read from the tape. */
function compound(tape: Tape, layer: Layer, e: Expression, t: number): string {
  const named = (name: Name) => {
    const key = keyOf(name);
    if (key === "I") return `np.eye(${layer.H})`;
    if (key in layer.cell.constants) return String(layer.cell.constants[key]);
    const step = name[2] === undefined ? null : t + name[2] * onward(layer);
    const [array, place] = arrayInPython(tape, layer, key, step);
    return `np.asarray(${array}${place && `[${place}]`})`;
  };
  return numpyOf(layer.cell, e, named, (letter) => String(layer.sizes[letter]));
}
