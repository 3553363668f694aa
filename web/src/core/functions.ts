// Every function that a cell may use, and those of side B alone: one table, read by all that evaluate, draw or write.

import { type Cell, type Expression, functionOf } from "./sheet.ts";

type Numbers = ArrayLike<number>;

interface Entrywise {
  value: (...given: number[]) => number;
  /** Of each argument, by the value and the arguments: how far an error in it is carried on. */
  slope?: (y: number, a: number) => number;
  /** Whether the value is one of its arguments or a number that rounding does not touch. */
  isExact?: boolean;
  /** Of how many arguments the value is made, the first ones; the others only choose. */
  carries?: number;
}

interface OverRow {
  /** One number or a row from a row, and the magnitudes that it is made of. */
  row: (a: Numbers) => [Numbers, Numbers];
}

type Function = (Entrywise | OverRow) & {
  /** Whether its values lie between 0 and 1, so that what is multiplied with them is let through or not: a gate. */
  opens?: boolean;
  /** Of functions whose units saturate: the values at which next to no gradient comes back through them, also in words. */
  saturates?: { at: (y: number) => boolean; words: string };
  /** In NumPy, {0} {1} {2} for the arguments. */
  numpy: string;
  /** How it is written where that is not name(arguments). */
  form?: string;
};

const σ = (a: number) => (a >= 0 ? 1 / (1 + Math.exp(-a)) : Math.exp(a) / (1 + Math.exp(a)));
const map = (a: Numbers, change: (value: number, i: number) => number) => Float64Array.from(a, change);
const sum = (a: Numbers) =>
  Array.prototype.reduce.call(a, (all, value) => (all as number) + (value as number), 0) as number;
const sizes = (a: Numbers) => map(a, Math.abs);
const EPSILON = 1e-5;

/**
 * scale(a) = 1 / √(variance + ε), its mean, and how far a rounding of a − mean is carried into scale, as a share of it:
 * √(Σ (|a| + |mean|)² / Σ (a − mean)²), by Cauchy and Schwarz.
 */
function moments(a: Numbers): { mean: number; scale: number; ratio: number } {
  const mean = sum(a) / a.length;
  const around = sum(sizes(a)) / a.length;
  const variance = sum(map(a, (value) => (value - mean) ** 2)) / a.length;
  const squares = sum(map(a, (value) => (Math.abs(value) + around) ** 2)) / a.length;
  return {
    mean,
    scale: 1 / Math.sqrt(variance + EPSILON),
    ratio: 1 + Math.sqrt((squares + EPSILON) / (variance + EPSILON)),
  };
}

export const FUNCTIONS: Record<string, Function> = {
  tanh: {
    value: Math.tanh,
    slope: (y) => 1 - y * y,
    saturates: { at: (y) => Math.abs(y) > 0.95, words: "tanh beyond ±0.95" },
    numpy: "np.tanh({0})",
  },
  σ: {
    value: σ,
    slope: (y) => y * (1 - y),
    saturates: { at: (y) => y < 0.05 || y > 0.95, words: "σ below 0.05 or above 0.95" },
    opens: true,
    numpy: "1 / (1 + np.exp(-{0}))",
  },
  relu: {
    value: (a) => Math.max(0, a),
    slope: (y) => (y > 0 ? 1 : 0),
    saturates: { at: (y) => y === 0, words: "relu at 0" },
    isExact: true,
    numpy: "np.maximum({0}, 0)",
  },
  identity: { value: (a) => a, slope: () => 1, isExact: true, numpy: "({0})" },
  exp: { value: Math.exp, slope: (y) => y, numpy: "np.exp({0})" },
  log: { value: Math.log, slope: (_, a) => 1 / a, numpy: "np.log({0})" },
  sqrt: { value: Math.sqrt, slope: (y) => 0.5 / y, numpy: "np.sqrt({0})" },
  softplus: {
    value: (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))),
    slope: (_, a) => σ(a),
    numpy: "np.logaddexp(0, {0})",
  },
  abs: { value: Math.abs, slope: () => 1, isExact: true, numpy: "np.abs({0})" },
  max: { value: Math.max, slope: () => 1, isExact: true, carries: 2, numpy: "np.maximum({0}, {1})" },
  min: { value: Math.min, slope: () => 1, isExact: true, carries: 2, numpy: "np.minimum({0}, {1})" },
  clip: {
    value: (a, least, most) => Math.min(Math.max(a, least), most),
    slope: () => 1,
    isExact: true,
    numpy: "np.clip({0}, {1}, {2})",
  },
  scale_gradient: { value: (a) => a, slope: () => 1, isExact: true, carries: 1, numpy: "({0})" },
  norm: {
    row: (a) => {
      const { mean, scale, ratio } = moments(a);
      const around = sum(sizes(a)) / a.length;
      const y = map(a, (value) => (value - mean) * scale);
      return [y, map(y, (value, i) => Math.abs(value) * ratio + (Math.abs(a[i]) + around) * scale)];
    },
    numpy: "({0} - np.mean({0})) / np.sqrt(np.var({0}) + 1e-5)",
  },
  softmax: {
    opens: true,
    row: (a) => {
      const top = Math.max(...Array.from(a));
      const powers = map(a, (value) => Math.exp(value - top));
      const all = sum(powers);
      const steep = 1 + Math.max(...sizes(a));
      return [map(powers, (power) => power / all), map(powers, (power) => (steep * power) / all)];
    },
    numpy: "np.exp({0} - np.max({0})) / np.sum(np.exp({0} - np.max({0})))",
  },
  sum: { row: (a) => [[sum(a)], [sum(sizes(a))]], numpy: "np.sum({0}, keepdims=True)" },
  mean: {
    row: (a) => [[sum(a) / a.length], [sum(sizes(a)) / a.length]],
    numpy: "np.mean({0}, keepdims=True)",
  },
  scale: {
    row: (a) => {
      const { scale, ratio } = moments(a);
      return [[scale], [scale * ratio]];
    },
    numpy: "1 / np.sqrt(np.var({0}, keepdims=True) + 1e-5)",
  },
  total: { row: (a) => [[sum(a)], [sum(sizes(a))]], numpy: "np.sum({0})[None]" },
  sign: { value: Math.sign, slope: () => 0, isExact: true, numpy: "np.sign({0})" },
  where_positive: {
    value: (a, b) => (b > 0 ? a : 0),
    slope: () => 1,
    isExact: true,
    numpy: "np.where({1} > 0, {0}, 0)",
    form: "{0} ⊙ [{1} > 0]",
  },
  where_at_least: {
    value: (a, b, c) => (b >= c ? a : 0),
    slope: () => 1,
    isExact: true,
    numpy: "np.where({1} >= {2}, {0}, 0)",
    form: "{0} ⊙ [{1} ≥ {2}]",
  },
  where_below: {
    value: (a, b, c) => (b < c ? a : 0),
    slope: () => 1,
    isExact: true,
    numpy: "np.where({1} < {2}, {0}, 0)",
    form: "{0} ⊙ [{1} < {2}]",
  },
  where_inside: {
    value: (a, b, c, d) => (c <= b && b <= d ? a : 0),
    slope: () => 1,
    isExact: true,
    numpy: "np.where(({2} <= {1}) & ({1} <= {3}), {0}, 0)",
    form: "{0} ⊙ [{2} ≤ {1} ≤ {3}]",
  },
};

/** Functions that a sum of terms stands for, entry after entry. */
export const SUMS = ["sum", "mean", "total"];

/** The function that is its argument. */
export const ITSELF = "identity";

/** What is known of the function that an expression calls; undefined for other expressions. */
export const called = (cell: Cell, e: Expression): Function | undefined =>
  Array.isArray(e) && e[0] === "f" ? FUNCTIONS[functionOf(cell, e[1])] : undefined;
