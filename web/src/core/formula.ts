// The line of the sheet that made a number, or the part of it that did.

import type { Address } from "./address.ts";
import { layersAbove, type Tape } from "./tape.ts";

/** As the sheet writes it, with t for the step; "" for numbers that were given. */
export function formulaOf(tape: Tape, address: Address, tag: string): string {
  const layer = tape.layers[address.layer];
  const { name } = address;
  const own = layer.above === "output" ? "∂o_t W_hoᵀ" : layer.above === "layer" ? above(tape, address) : "own";
  const future = "∂a_{t+1} W_hhᵀ";
  if (name === "own") return `own = ${own}`;
  if (name === "future") return `future = ${future}`;
  if (name === "dh") return `∂h_t = ${own} + ${future}`;
  if (name === "dx") return "∂x_t = ∂a_t W_xhᵀ";
  if (name === "dh0") return "future = ∂a_t W_hhᵀ";
  if (name === "slope")
    return `φ'(a_t) = ${{ tanh: "1 − h_t · h_t", sigmoid: "h_t (1 − h_t)", relu: "1 or 0", identity: "1" }[layer.activation]}`;
  if (name === "loss") return "loss_t = loss(ŷ_t, y_t)";
  return tape.sheet.find((line) => line.tag === tag)?.formula ?? "";
}

/** B11 of the layer above: what it asks of its input is asked of these states. */
function above(tape: Tape, address: Address): string {
  const layers = layersAbove(tape, tape.layers[address.layer]);
  return `∂x_t (layer ${layers[0].layer + 1}${layers.length > 1 ? ", both ways" : ""})`;
}
