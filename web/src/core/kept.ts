// Why a state is kept: what passes each step unit by unit, and the parts that its gradient is made of.

import { Evaluation, Unknown } from "./evaluate.ts";
import { called } from "./functions.ts";
import { between, type Cell, children, type Expression, isName, mapped, termsOf } from "./sheet.ts";
import { after, type Floats, isFollowed, type Layer, onward, rowOf, shapeOf, type Tape } from "./tape.ts";

/** Values that lie between 0 and 1, whatever they are made of, in the order of their equations. */
export function gates(cell: Cell): string[] {
  const opening = cell.steps.filter(({ value }) => called(cell, value)?.opens).map(({ name }) => name);
  return between(cell).filter((name) => opening.includes(name));
}

/** Whether one unit becomes a part of others there. */
function mixes(cell: Cell, e: Expression): boolean {
  const own = called(cell, e);
  return (own && "row" in own) || (Array.isArray(e) && e[0] === "@") || children(e).some((each) => mixes(cell, each));
}

/** A share of a gradient with `by` for the gradient that it is a share of, all of it so many steps later. */
function replaced(e: Expression, by: Expression, later: number): Expression {
  if (isName(e)) return e[0] === "d" ? by : e[2] === undefined ? e : ["n", e[1], e[2] + later];
  const inside = mapped(e, (child) => replaced(child, by, later));
  return Array.isArray(inside) && inside[0] === "*" ? product(...children(inside)) : inside;
}

/** Without brackets and ones. */
export function product(...of: Expression[]): Expression {
  const factors = of
    .flatMap((each) => (Array.isArray(each) && each[0] === "*" ? children(each) : [each]))
    .filter((each) => each !== 1);
  return factors.length > 1 ? ["*", ...factors] : (factors[0] ?? 1);
}

/**
 * How much of a small change of a state at step t there is in it at step t+1, unit by unit: on every way that leads through
 * no matrix and no gate. null where there is none.
 */
export function kept(cell: Cell, state: string): Expression | null {
  const closing = gates(cell);
  const found = new Map<string, Expression | null>([[state, 1]]);
  const from = (name: string, ago: 0 | 1): Expression | null => {
    const terms = (cell.back.get(name)?.terms ?? []).flatMap(({ value, from: [line, step] }) => {
      if (step !== ago || closing.includes(line) || mixes(cell, value)) return [];
      if (!found.has(line)) found.set(line, from(line, 0));
      const by = found.get(line) ?? null;
      return by === null ? [] : termsOf(replaced(value, by, 1 - ago));
    });
    if (terms.length === 0) return null;
    return terms.length === 1 && terms[0][0] === 1 ? terms[0][1] : ["+", ...terms];
  };
  return from(state, 1);
}

/** The states of a cell of which something is kept, and how much. */
export function keptStates(cell: Cell): [string, Expression][] {
  return cell.states.flatMap((state): [string, Expression][] => {
    const much = kept(cell, state);
    return much === null ? [] : [[state, much]];
  });
}

/** What `kept` comes to at each step shown, (T, width); NaN where the next step is not among them. */
export function factors(tape: Tape, layer: Layer, state: string, much: Expression): Floats {
  const [width] = shapeOf(layer, state) as number[];
  const made = new Float64Array(tape.T * width).fill(Number.NaN);
  const evaluation = new Evaluation(tape, layer, false);
  for (let t = 0; t < tape.T; t++) {
    if (after(tape, layer, t) < 0) continue;
    const { value } = evaluation.row(much, t);
    for (let i = 0; i < width; i++) made[t * width + i] = value[value.length === 1 ? 0 : i];
  }
  return made;
}

/** Of a row at a step of (T, width): a unit, or with −1 the mean size of all. */
export function shown(of: Floats, width: number, t: number, unit: number): number {
  if (unit >= 0) return of[t * width + Math.min(unit, width - 1)];
  let sum = 0;
  for (let i = t * width; i < (t + 1) * width; i++) sum += Math.abs(of[i]);
  return sum / width;
}

/** How much is kept between step t and every other: of a unit, or the mean size of all. */
export function products(of: Floats, tape: Tape, layer: Layer, t: number, unit: number): number[] {
  const width = of.length / tape.T;
  const made = Array.from({ length: tape.T }, () => 1);
  for (const by of [1, -1]) {
    const shift = by === onward(layer) ? -by : 0;
    const product = new Float64Array(width).fill(1);
    for (let s = t + by; s >= 0 && s < tape.T; s += by) {
      for (let i = 0; i < width; i++) product[i] *= of[(s + shift) * width + i];
      made[s] = Math.abs(shown(product, width, 0, unit));
    }
  }
  return made;
}

/**
 * Between step t and every other: the share of a loss's gradient at the later state that arrives at the earlier one, as
 * norms over all units. The loss is that of the later step, or the first after it that asks anything; NaN for none.
 */
export function arriving(norms: Float64Array, sources: number[], tape: Tape, layer: Layer, t: number): number[] {
  const { T } = tape;
  const by = onward(layer);
  const inOrder = by > 0 ? sources : [...sources].reverse();
  return Array.from({ length: T }, (_, s) => {
    const [early, late] = (s - t) * by < 0 ? [s, t] : [t, s];
    const loss = inOrder.find((each) => (each - late) * by >= 0 && norms[each * T + late] > 0);
    return loss === undefined ? Number.NaN : norms[loss * T + early] / norms[loss * T + late];
  });
}

/** The gradient of a state in parts, each (T, width): what this step asks, what is kept on the way back, what else comes. */
export interface Parts {
  here: Floats;
  kept: Floats;
  /** From the next step through matrices and gates. */
  other: Floats;
}

export function parts(tape: Tape, layer: Layer, state: string, much: Expression): Parts {
  const [width] = shapeOf(layer, state) as number[];
  const part = () => new Float64Array(tape.T * width);
  const made = { here: part(), kept: part(), other: part() };
  const evaluation = new Evaluation(tape, layer, false);
  for (let t = 0; t < tape.T; t++) {
    const add = (to: Floats, row: ArrayLike<number>, sign = 1) => {
      for (let i = 0; i < width; i++) to[t * width + i] += sign * row[row.length === 1 ? 0 : i];
    };
    add(made.here, rowOf(tape, layer, `own.${state}`, t) ?? [0]);
    try {
      const follows = isFollowed(tape, layer, t);
      for (const { value, from } of layer.cell.back.get(state)?.terms ?? [])
        if (from[0] !== "o" && (from[1] === 0 || follows))
          add(from[1] === 0 ? made.here : made.other, evaluation.row(value, t).value);
      if (!follows) continue;
      const direct = evaluation.row(product(["d", state, 1], much), t).value;
      add(made.kept, direct);
      add(made.other, direct, -1);
    } catch (error) {
      if (!(error instanceof Unknown)) throw error;
      for (const all of Object.values(made)) all.fill(Number.NaN, t * width, (t + 1) * width);
    }
  }
  return made;
}
