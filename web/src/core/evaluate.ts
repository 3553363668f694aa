// What an expression of the sheet comes to on a tape, and the magnitudes that it is made of.
//
// The magnitude of a sum of products is the sum of the products' magnitudes: a rounded sum of n terms is off by at most
// about n eps / 2 of it, in whatever order they were added. What is recorded counts as exact where a function reads it.

import { FUNCTIONS } from "./functions.ts";
import { children, type Expression, functionOf, isName, keyOf, type Name, termsOf } from "./sheet.ts";
import { type Floats, type Layer, onward, rowOf, shapeOf, type Tape } from "./tape.ts";

type Numbers = ArrayLike<number>;

/** A row; `magnitude` is empty where nobody asked for it. */
export interface Row {
  value: Numbers;
  magnitude: Numbers;
}

/** Finds the row of a value or gradient by its key at a step; null if there is none. */
export type Read = (key: string, t: number) => Numbers | null;

/** Thrown where an expression reads what the tape does not have. */
export class Unknown extends Error {}

const NONE: Numbers = [];

export class Evaluation {
  readonly read: Read;

  constructor(
    readonly tape: Tape,
    readonly layer: Layer,
    readonly isMeasured = true,
    read?: Read,
  ) {
    this.read = read ?? ((key, t) => rowOf(tape, layer, key, t));
  }

  /** An expression at step t, as a row. */
  row(e: Expression, t: number): Row {
    if (typeof e === "number") return this.exact([e]);
    switch (e[0]) {
      case "n":
      case "d":
        return this.exact(this.named(e, t));
      case "size":
        return this.exact([this.layer.sizes[e[1]]]);
      case "²": {
        const of = this.row(e[1], t);
        return this.together([of, of], (a, b) => a * b);
      }
      case "*":
        return children(e)
          .map((factor) => this.row(factor, t))
          .reduce((one, other) => this.together([one, other], (a, b) => a * b));
      case "/": {
        const [above, below] = [this.row(e[1], t), this.row(e[2], t)];
        const value = this.each([above.value, below.value], (a, b) => a / b);
        const off = isName(e[2]) ? () => 1 : (b: number, size: number) => 1 + size / Math.abs(b);
        const magnitude = this.measured(
          [above.magnitude, below.value, below.magnitude],
          (a, b, size) => Math.abs(a / b) * off(b, size),
        );
        return { value, magnitude };
      }
      case "+":
        return termsOf(e)
          .map(([sign, term]) => {
            const { value, magnitude } = this.row(term, t);
            return sign > 0 ? { value, magnitude } : { value: this.each([value], (a) => -a), magnitude };
          })
          .reduce((one, other) => this.together([one, other], (a, b) => a + b));
      case "@":
        return this.product(e[1], e[2], t);
      case "f":
        return this.call(e[1], children(e), t);
      default:
        throw new Error("a matrix stands where a row has to");
    }
  }

  /** One entry of an expression that is a matrix: value and magnitude. */
  entry(e: Expression, t: number, i: number, j: number): [number, number] {
    if (typeof e === "number") return [e, Math.abs(e)];
    switch (e[0]) {
      case "n":
      case "d": {
        if (e[1] === "I") return i === j ? [1, 1] : [0, 0];
        const shape = shapeOf(this.layer, e[1]) ?? [];
        const own = this.named(e, t);
        const value = shape.length > 1 ? own[i * shape[1] + j] : own[own.length === 1 ? 0 : j];
        return [value, Math.abs(value)];
      }
      case "T":
        return this.entry(e[1], t, j, i);
      case "²": {
        const [value, magnitude] = this.entry(e[1], t, i, j);
        return [value ** 2, magnitude ** 2];
      }
      case "*":
        return children(e)
          .map((factor) => this.entry(factor, t, i, j))
          .reduce(([a, m], [b, n]) => [a * b, m * n]);
      case "/": {
        const [[a, m], [b]] = [this.entry(e[1], t, i, j), this.entry(e[2], t, i, j)];
        return [a / b, m / Math.abs(b)];
      }
      case "+":
        return termsOf(e)
          .map(([sign, term]): [number, number] => {
            const [value, magnitude] = this.entry(term, t, i, j);
            return [sign * value, magnitude];
          })
          .reduce(([a, m], [b, n]) => [a + b, m + n]);
      case "@": {
        const outer = this.outer(e, t);
        if (outer) return [outer[0][i] * outer[1][j], Math.abs(outer[0][i] * outer[1][j])];
        let [value, magnitude] = [0, 0];
        for (let k = 0; k < shape(this.layer, e[1])[1]; k++) {
          const [[a, m], [b, n]] = [this.entry(e[1], t, i, k), this.entry(e[2], t, k, j)];
          value += a * b;
          magnitude += m * n;
        }
        return [value, magnitude];
      }
      case "f": {
        const known = FUNCTIONS[functionOf(this.layer.cell, e[1])];
        const given = children(e).map((each) => this.entry(each, t, i, j));
        if (!("value" in known)) throw new Error("a function of rows stands in a matrix");
        const value = known.value(...given.map(([a]) => a));
        return [value, Math.abs(value) + given.reduce((sum, [, m]) => sum + m, 0)];
      }
      default:
        throw new Error("a number stands where a matrix has to");
    }
  }

  /** The two rows that a gradient of a matrix is the product of at a step: aᵀ b. null if an expression is none. */
  outer(e: Expression, t: number): [Numbers, Numbers] | null {
    if (!Array.isArray(e) || e[0] !== "@") return null;
    const [, left, right] = e;
    if (!Array.isArray(left) || left[0] !== "T" || !isName(left[1]) || left[1][2] === undefined) return null;
    return [this.row(left[1], t).value, this.row(right, t).value];
  }

  /** The numbers of a name: of a step, or what has no time. */
  private named(e: Name, t: number): Numbers {
    const constant = this.layer.cell.constants[e[1]];
    if (constant !== undefined) return [constant];
    const found =
      e[2] === undefined ? this.layer.arrays.get(keyOf(e)) : this.read(keyOf(e), t + e[2] * onward(this.layer));
    if (!found) throw new Unknown(keyOf(e));
    return found;
  }

  private exact(value: Numbers): Row {
    return { value, magnitude: this.measured([value], Math.abs) };
  }

  /** Entry by entry; one number is used for all of them. */
  private each(rows: Numbers[], change: (...given: number[]) => number): Float64Array {
    const [a, b, c] = rows;
    const made = new Float64Array(Math.max(a.length, b?.length ?? 0, c?.length ?? 0));
    const [one, two, three] = [a, b, c].map((row) => row !== undefined && row.length > 1);
    for (let i = 0; i < made.length; i++) {
      const first = a[one ? i : 0];
      if (b === undefined) made[i] = change(first);
      else if (c === undefined) made[i] = change(first, b[two ? i : 0]);
      else made[i] = change(first, b[two ? i : 0], c[three ? i : 0]);
    }
    return made;
  }

  private measured(rows: Numbers[], change: (...given: number[]) => number): Numbers {
    return this.isMeasured ? this.each(rows, change) : NONE;
  }

  private together([one, other]: [Row, Row], change: (a: number, b: number) => number): Row {
    return {
      value: this.each([one.value, other.value], change),
      magnitude: this.measured([one.magnitude, other.magnitude], change),
    };
  }

  /** A row times a matrix, as it stands or transposed. */
  private product(left: Expression, right: Expression, t: number): Row {
    const isTurned = Array.isArray(right) && right[0] === "T";
    const inner = isTurned ? (right as ["T", Expression])[1] : right;
    if (!isName(inner)) throw new Error("a product with what is no matrix");
    const matrix = this.named(inner, t) as Floats;
    const [rows, columns] = shapeOf(this.layer, inner[1]) as number[];
    const token = tokenOf(this.layer, left, t);
    if (token >= 0) return this.exact(matrix.subarray(token * columns, (token + 1) * columns));
    const { value, magnitude } = this.row(left, t);
    const of = isTurned ? timesTurned : times;
    return {
      value: of(value, matrix, rows, columns, false),
      magnitude: this.isMeasured ? of(magnitude, matrix, rows, columns, true) : NONE,
    };
  }

  private call(name: string, given: Expression[], t: number): Row {
    const known = FUNCTIONS[functionOf(this.layer.cell, name)];
    if (!known) throw new Error(`no function is called ${name}`);
    if (functionOf(this.layer.cell, name) === "total") return this.total(given[0], t);
    const rows = given.map((e) => this.row(e, t));
    if ("row" in known) {
      const [value, magnitude] = known.row(rows[0].value);
      return { value, magnitude: this.isMeasured ? magnitude : NONE };
    }
    const { slope, isExact, carries = 1 } = known;
    const value =
      rows.length > 3
        ? this.each([rows[0].value, rows[1].value], (a, b) => known.value(a, b, rows[2].value[0], rows[3].value[0]))
        : this.each(
            rows.map((row) => row.value),
            known.value,
          );
    let magnitude = this.measured([value, rows[0].value], (y, a) => Math.abs(y) * (isExact ? 1 : 1 + Math.abs(a)));
    if (!this.isMeasured) return { value, magnitude };
    for (const [place, e] of given.slice(0, carries).entries()) {
      if (isName(e)) continue;
      const steep = this.each([value, rows[0].value], (y, a) => Math.abs(slope?.(y, a) ?? 1));
      magnitude = this.each([magnitude, rows[place].magnitude, steep], (own, error, by) => own + by * error);
    }
    return { value, magnitude };
  }

  /** The sum over all entries of a matrix. */
  private total(e: Expression, t: number): Row {
    const [rows, columns] = shape(this.layer, e);
    let [value, magnitude] = [0, 0];
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        const [a, m] = this.entry(e, t, i, j);
        value += a;
        magnitude += m;
      }
    return { value: [value], magnitude: [magnitude] };
  }
}

function times(row: Numbers, matrix: Floats, rows: number, columns: number, isSize: boolean): Float64Array {
  const made = new Float64Array(columns);
  for (let k = 0; k < rows; k++) {
    const own = row[k];
    if (own === 0) continue;
    const from = k * columns;
    if (isSize) for (let j = 0; j < columns; j++) made[j] += own * Math.abs(matrix[from + j]);
    else for (let j = 0; j < columns; j++) made[j] += own * matrix[from + j];
  }
  return made;
}

function timesTurned(row: Numbers, matrix: Floats, rows: number, columns: number, isSize: boolean): Float64Array {
  const made = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    const from = i * columns;
    let sum = 0;
    if (isSize) for (let k = 0; k < columns; k++) sum += row[k] * Math.abs(matrix[from + k]);
    else for (let k = 0; k < columns; k++) sum += row[k] * matrix[from + k];
    made[i] = sum;
  }
  return made;
}

/** Rows and columns: a row has one row, a number and I are as large as what stands beside them. */
function shape(layer: Layer, e: Expression): [number, number] {
  if (isName(e)) {
    const [rows, columns] = shapeOf(layer, e[1]) ?? [1];
    return columns === undefined ? [1, rows] : [rows, columns];
  }
  const inner = children(e).map((each) => shape(layer, each));
  if (Array.isArray(e) && e[0] === "T") return [inner[0][1], inner[0][0]];
  if (Array.isArray(e) && e[0] === "@") return [inner[0][0], inner[1][1]];
  return [Math.max(1, ...inner.map(([rows]) => rows)), Math.max(1, ...inner.map(([, columns]) => columns))];
}

/** The row of a matrix that a product is where it looks up a token; −1 for other products. */
export function tokenOf(layer: Layer, left: Expression, t: number): number {
  return layer.tokens && isName(left) && keyOf(left) === "x" ? layer.tokens[t] : -1;
}

/** How many roundings one entry of an expression takes. */
export function countOf(layer: Layer, e: Expression): number {
  if (typeof e === "number" || isName(e) || e[0] === "size") return 0;
  const inside = children(e).reduce((sum: number, each) => sum + countOf(layer, each), 0);
  switch (e[0]) {
    case "T":
      return inside;
    case "@":
      return inside + (tokenOf(layer, e[1], 0) >= 0 ? 0 : shape(layer, e[1])[1]);
    case "*":
      return inside + children(e).length - 1;
    case "+":
      return (
        inside + (termsOf(e).some(([, term]) => Array.isArray(term) && term[0] === "@") ? 0 : termsOf(e).length - 1)
      );
    case "f": {
      const known = FUNCTIONS[functionOf(layer.cell, e[1])];
      if (!("row" in known)) return inside + (known.isExact ? 0 : 1);
      const [rows, columns] = shape(layer, children(e)[0]);
      return inside + rows * columns;
    }
    default:
      return inside + 1;
  }
}
