// g and the loss, which every network has whatever its cell is.

import type { Floats, Loss } from "./tape.ts";

/** ŷ = g(o) for O outputs from index `at` on. */
export function output(loss: Loss, o: Floats | number[], at: number, O: number): number[] {
  const own = Array.from({ length: O }, (_, i) => o[at + i]);
  if (loss === "squared_error") return own;
  if (loss === "binary_cross_entropy") return own.map((value) => 1 / (1 + Math.exp(-value)));
  const top = Math.max(...own);
  const powers = own.map((value) => Math.exp(value - top));
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
