// φ, φ' from h alone, g, and how far rounding may carry them: the small functions of the sheet.

import type { Activation, Floats, Loss } from "./tape.ts";

export function phi(name: Activation, a: number): number {
  if (name === "tanh") return Math.tanh(a);
  if (name === "sigmoid") return a >= 0 ? 1 / (1 + Math.exp(-a)) : Math.exp(a) / (1 + Math.exp(a));
  return name === "relu" ? Math.max(0, a) : a;
}

/** φ'(a) as a function of h = φ(a). */
export function slope(name: Activation, h: number): number {
  if (name === "tanh") return 1 - h * h;
  if (name === "sigmoid") return h * (1 - h);
  return name === "relu" ? (h > 0 ? 1 : 0) : 1;
}

/** The sum of the magnitudes that φ' is the difference of. */
export function slopeMagnitude(name: Activation, h: number): number {
  if (name === "tanh") return 1 + h * h;
  return name === "sigmoid" ? h + h * h : 1;
}

/** A unit whose slope is below this share of the steepest passes next to nothing back: a closed gate. */
export const CLOSED = 0.05;

export function isClosed(name: Activation, h: number): boolean {
  return slope(name, h) < CLOSED * (name === "sigmoid" ? 0.25 : 1);
}

/** What g is called. */
export const OUTPUT: Record<Loss, string> = {
  cross_entropy: "softmax",
  binary_cross_entropy: "sigmoid",
  squared_error: "identity",
};

/** ŷ = g(o) for O outputs from index `at` on. */
export function output(loss: Loss, o: Floats | number[], at: number, O: number): number[] {
  const own = Array.from({ length: O }, (_, i) => o[at + i]);
  if (loss === "squared_error") return own;
  if (loss === "binary_cross_entropy") return own.map((value) => phi("sigmoid", value));
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
