// The line of the sheet that made a number, or the part of it that did.

import type { Address } from "./address.ts";
import type { Notation, Token } from "./notation.ts";
import { layersAbove, type Tape } from "./tape.ts";
import type { Explanation } from "./terms.ts";

/** The equation that made a number, with its step in it; empty for numbers that were given. */
export function equationOf(tape: Tape, notation: Notation, { address, tag, kind }: Explanation): Token[] {
  if (kind === "given") return [];
  const reverse = tape.layers[address.layer].direction === "reverse";
  const first = reverse ? tape.total : 1;
  const step = address.name === "dh0" ? first : address.t < 0 ? undefined : tape.first + address.t + 1;
  return notation.formula(formulaOf(tape, address, tag), step, reverse);
}

/** As the sheet writes it, with t for the step, for what this tape has. */
function formulaOf(tape: Tape, address: Address, tag: string): string {
  const layer = tape.layers[address.layer];
  const { name } = address;
  const own = layer.above === "output" ? "∂o_t W_hoᵀ" : layer.above === "layer" ? above(tape, address) : "own";
  const future = "∂a_{t+1} W_hhᵀ";
  const sheet = tape.sheet.find((line) => line.tag === tag)?.formula ?? "";
  if (name === "own") return `own = ${own}`;
  if (name === "future") return `future = ${future}`;
  if (name === "dh") return `∂h_t = ${own} + ${future}`;
  if (name === "dx") return "∂x_t = ∂a_t W_xhᵀ";
  if (name === "dh0") return "∂h_{t-1} = ∂a_t W_hhᵀ";
  if (name === "slope")
    return `φ'(a_t) = ${{ tanh: "1 − h_t · h_t", sigmoid: "h_t (1 − h_t)", relu: "1 or 0", identity: "1" }[layer.activation]}`;
  if (name === "loss") return "loss_t = loss(ŷ_t, y_t)";
  if (name === "do" && tape.loss === "squared_error") return sheet.replace("= w_t", "= 2 w_t");
  if ((name === "a" && !layer.b_h) || (name === "o" && !tape.b_o)) return sheet.replace(/ \+ b_[ho]$/, "");
  return sheet;
}

/** B11 of the layer above: what it asks of its input is asked of these states. */
function above(tape: Tape, address: Address): string {
  const layers = layersAbove(tape, tape.layers[address.layer]);
  return `∂x_t (layer ${layers[0].layer + 1}${layers.length > 1 ? ", both ways" : ""})`;
}
