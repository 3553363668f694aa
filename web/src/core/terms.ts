// Where does this number come from? Each number as the sum of its terms, each term a product of other numbers. Which
// terms a number of a cell has, its equations say; what the network around the cells does stands in around.ts.

import { type Address, addressOfInput, around, at, isGradient, letterOf, sizes, valueAt } from "./address.ts";
import { explainAround } from "./around.ts";
import { countOf, Evaluation, tokenOf, Unknown } from "./evaluate.ts";
import { FUNCTIONS, ITSELF, SUMS } from "./functions.ts";
import { fromAbove } from "./output.ts";
import { children, type Expression, functionOf, isName, keyOf, names, termsOf, type Use } from "./sheet.ts";
import {
  edgeBefore,
  isFollowed,
  isWhole,
  type Layer,
  layersAbove,
  offset,
  onward,
  outputOf,
  type Tape,
} from "./tape.ts";

export interface Factor {
  value: number;
  /** null for a plain number such as the 2 of a squared error, and for what is more than one name. */
  address: Address | null;
  /** What is more than one name, of which layer, to be read at the term's step; and of which unit of that row it is. */
  of?: { expression: Expression; layer: Layer; unit?: number };
}

/** Where a term comes from in time, seen from the number that it is a part of. */
type Hue = "here" | "there" | "neither";

export interface Group {
  hue: Hue;
  /** What it is, as the sheet writes it; null where the sheet does not. */
  expression: Expression | null;
  words: string;
  /** The line of side A that uses the number there. */
  from: [string, number?] | null;
  /** The whole of the group, where the tape has it as a number of its own. */
  address?: Address;
}

/** What gradients of weights are sums over besides. */
export const NOT_SHOWN: Group = { hue: "neither", expression: null, words: "steps and rows not shown", from: null };

export interface Term {
  /** Place in `Explanation.groups`. */
  group: number;
  factors: Factor[];
  value: number;
  /** For terms that belong to a step. */
  t?: number;
}

export interface Explanation {
  address: Address;
  value: number;
  tag: string;
  /** "sum" of terms; a "function" of the numbers in its terms; "given" to the network. */
  kind: "sum" | "function" | "given";
  /** The function's name, or what was given. */
  words: string;
  groups: Group[];
  terms: Term[];
  /** What the terms come to, in double precision. */
  derived: number;
  /** |value − derived| beside the magnitudes that make it up, and what rounding explains of that. */
  residual: number;
  bound: number;
  /** Numbers that belong to this one without being its terms. */
  related: { address: Address; words: string }[];
}

export function explain(tape: Tape, address: Address): Explanation | undefined {
  const value = valueAt(tape, address);
  if (value === undefined) return undefined;
  const layer = tape.layers[address.layer];
  if (!layer) return explainAround(tape, address, value);
  try {
    return new Explainer(tape, layer, address, value).explanation();
  } catch (error) {
    if (!(error instanceof Unknown)) throw error;
    return given(address, value, "made of numbers that are not on this page");
  }
}

class Explainer {
  private readonly evaluation: Evaluation;

  constructor(
    private readonly tape: Tape,
    private readonly layer: Layer,
    private readonly address: Address,
    private readonly value: number,
  ) {
    this.evaluation = new Evaluation(tape, layer);
  }

  explanation(): Explanation {
    const { tape, layer, address } = this;
    const { name, t } = address;
    const { cell } = layer;
    const letter = letterOf(name);
    if (name.startsWith("own.")) return this.own();
    if (isGradient(name)) {
      if (t === null) return this.gradient();
      const line = cell.back.get(letter);
      return line && (t >= 0 && t < tape.T ? true : this.isFirst())
        ? this.slope(line.tag, line.terms ?? [])
        : this.given();
    }
    const equation = [...cell.steps, ...cell.fixed].find((each) => each.name === letter);
    if (!equation || (t !== null && (t < 0 || t >= tape.T))) return this.given();
    return this.equation(equation.tag, equation.value);
  }

  private isFirst(): boolean {
    return this.address.t === edgeBefore(this.tape, this.layer);
  }

  /** A value: its line of side A. */
  private equation(tag: string, value: Expression): Explanation {
    const t = this.address.t ?? 0;
    const words = Array.isArray(value) && value[0] === "f" ? functionOf(this.layer.cell, value[1]) : "";
    if (words !== "" && words !== ITSELF && !SUMS.includes(words)) return this.function(tag, words, value, t);
    const inner = words === ITSELF ? children(value)[0] : value;
    const parts = termsOf(inner).map(([sign, term]): Expression => (sign > 0 ? term : ["+", [-1, term]]));
    const groups = parts.map((part): Group => {
      const read = [...names(part)];
      const isPast = read.some((each) => each[2] === -1);
      const hue = isPast ? "there" : read.some((each) => each[2] === 0) ? "here" : "neither";
      return { hue, expression: part, words: "", from: null };
    });
    const terms = parts.flatMap((part, group) => [...this.terms(part, t, group)]);
    return this.judged(tag, groups, terms, [value], t);
  }

  private function(tag: string, words: string, value: Expression, t: number): Explanation {
    const { i } = this.address;
    const isOfRow = "row" in FUNCTIONS[words];
    const terms = children(value).flatMap((e): Term[] => {
      const width = isOfRow ? this.evaluation.row(e, t).value.length : 1;
      return Array.from({ length: width }, (_, k) => {
        const factor = this.factor(e, t, isOfRow ? k : i);
        return { group: 0, factors: [factor], value: factor.value };
      });
    });
    const groups: Group[] = [{ hue: "neither", expression: null, words: "", from: null }];
    const [derived, magnitude] = this.measured(value, t);
    return {
      ...this.result(tag, "function", words, groups, terms),
      ...this.apart(derived, magnitude, countOf(this.layer, value)),
    };
  }

  /** The gradient of a value: what came from above, and the share of each use. */
  private slope(tag: string, uses: Use[]): Explanation {
    const { tape, layer, address } = this;
    const t = address.t as number;
    const letter = letterOf(address.name);
    const isInside = t >= 0 && t < tape.T;
    const next = isInside ? isFollowed(tape, layer, t) : true;
    const own = isInside ? this.fromAbove(letter, t) : null;
    const groups: Group[] = own ? [...own.groups] : [];
    const terms: Term[] = own ? [...own.terms] : [];
    const read: Expression[] = [];
    for (const { value, from } of uses) {
      if (from[0] === "o" || (from[1] === 1 ? !next : !isInside)) continue;
      read.push(value);
      groups.push({ hue: from[1] === 1 ? "there" : "here", expression: value, words: "", from });
      terms.push(...this.terms(value, t, groups.length - 1));
    }
    return this.judged(isInside ? tag : "B11", groups, terms, read, t, own?.magnitude, own?.count);
  }

  /** What of a gradient came from above: the output's share, that of the layer above, or a number from outside. */
  private fromAbove(
    letter: string,
    t: number,
  ): { groups: Group[]; terms: Term[]; magnitude: number; count: number } | null {
    const { tape, layer } = this;
    const { i } = this.address;
    const address = at(layer, `own.${letter}`, t, i);
    const recorded = valueAt(tape, address);
    if (recorded === undefined) return null;
    const asked = letter === layer.cell.output ? fromAbove(tape, layer, t) : null;
    if (asked && layer.above === "output") {
      if (outputOf(tape, t) < 0 && recorded === 0) return { groups: [], terms: [], magnitude: 0, count: 0 };
      const k = offset(tape, layer) + i;
      const terms = Array.from({ length: tape.O }, (_, c) =>
        this.product(0, around("d.o", t, c), around("W_ho", null, k, c)),
      );
      const use = layer.cell.back.get(letter)?.terms?.find(({ from }) => from[0] === "o");
      const group: Group = {
        hue: "here",
        expression: use?.value ?? null,
        words: "",
        from: ["o", 0],
        address,
      };
      return { groups: [group], terms, magnitude: asked.magnitude[i], count: asked.count };
    }
    if (asked) {
      const groups: Group[] = [];
      const terms: Term[] = [];
      for (const above of layersAbove(tape, layer)) {
        const inner = new Explainer(tape, above, at(above, "d.x", t, offset(tape, layer) + i), 0);
        for (const { value, from } of above.cell.back.get("x")?.terms ?? []) {
          groups.push({ hue: "here", expression: value, words: `layer ${above.layer + 1}`, from });
          terms.push(...inner.terms(value, t, groups.length - 1));
        }
      }
      return { groups, terms, magnitude: asked.magnitude[i], count: asked.count };
    }
    const group: Group = { hue: "here", expression: null, words: "from above", from: null, address };
    return {
      groups: [group],
      terms: [{ group: 0, factors: [{ value: recorded, address }], value: recorded }],
      magnitude: Math.abs(recorded),
      count: 0,
    };
  }

  private own(): Explanation {
    const { address, layer } = this;
    const letter = letterOf(address.name);
    const known = letter === layer.cell.output && layer.above !== "outside";
    const found = known ? this.fromAbove(letter, address.t as number) : null;
    if (!found) return this.given();
    const result = this.result(
      "B6",
      "sum",
      "",
      found.groups.map(({ address: _, ...group }) => group),
      found.terms,
    );
    return { ...result, ...this.apart(total(found.terms), found.magnitude, found.count) };
  }

  /** The gradient of a parameter: the sum over all steps, or what fixed lines send once. */
  private gradient(): Explanation {
    const { tape, layer, address } = this;
    const letter = letterOf(address.name);
    const line = layer.cell.back.get(letter);
    if (!line?.terms) return this.given();
    const groups: Group[] = [];
    const terms: Term[] = [];
    let magnitude = 0;
    let count = 0;
    for (const { value, from } of line.terms) {
      const group = groups.push({ hue: "neither", expression: value, words: "", from }) - 1;
      const steps = from[1] === undefined ? [0] : Array.from({ length: tape.T }, (_, t) => t);
      for (const t of steps) {
        const found = [...this.terms(value, t, group)];
        for (const term of found) terms.push(from[1] === undefined ? term : { ...term, t });
        magnitude += this.measured(value, t)[1];
      }
      count += steps.length + countOf(layer, value);
    }
    if (!isWhole(tape) && line.terms.some(({ from }) => from[1] !== undefined)) {
      const rest = this.value - total(terms);
      const group = groups.push(NOT_SHOWN) - 1;
      terms.push({ group, factors: [{ value: rest, address: null }], value: rest });
      magnitude += Math.abs(rest);
    }
    return { ...this.result(line.tag, "sum", "", groups, terms), ...this.apart(total(terms), magnitude, count) };
  }

  private given(): Explanation {
    const { tape, layer, address, value } = this;
    const { name, t, i, j } = address;
    const letter = letterOf(name);
    const kind = layer.cell.given[letter];
    const isFirst = layer.arrays.has(`before.d.${layer.cell.output}`);
    const words = name.startsWith("own.")
      ? "what everything outside this layer asks of it"
      : t !== null && (t < 0 || t >= tape.T)
        ? this.isFirst()
          ? isFirst
            ? "the state the sequence begins with"
            : "of the last step before those shown"
          : "of the step after those shown"
        : letter === "x" || kind === "input"
          ? "given to the network"
          : kind === "constant"
            ? "a constant of the cell"
            : kind === "drop"
              ? "the mask of dropout, the same at every step"
              : kind === "rows"
                ? "given to the network, the same at every step"
                : layer.cell.fixed.some((each) => each.name === letter)
                  ? "made once of weights that are not on this page, and the same at every step"
                  : isGradient(name)
                    ? "a gradient whose parts are not on this page"
                    : "a weight: the same number at every step";
    const slope = isGradient(name) ? undefined : at(layer, `d.${letter}`, t, i, j);
    const related =
      slope && valueAt(tape, slope) !== undefined
        ? [{ address: slope, words: t === null ? "why it moves: its gradient" : "what the loss asks of it" }]
        : [];
    const tag = name.startsWith("own.") ? "B6" : t !== null && !isGradient(name) ? "A1" : "";
    return { ...given(address, value, words), tag, related };
  }

  /** An expression's terms for this entry. */
  private *terms(e: Expression, t: number, group: number, sign = 1): Generator<Term> {
    const { layer, tape } = this;
    const { i } = this.address;
    if (Array.isArray(e) && e[0] === "+") {
      for (const [own, term] of termsOf(e)) yield* this.terms(term, t, group, own * sign);
      return;
    }
    const signed = (factors: Factor[]): Term => {
      const all = sign < 0 ? [{ value: -1, address: null }, ...factors] : factors;
      return { group, factors: all, value: all.reduce((product, { value }) => product * value, 1) };
    };
    if (this.address.t === null) {
      const outer = this.outer(e, t);
      if (outer) yield signed(outer);
      else if (sizes(tape, this.address).length > 1) yield signed([this.entry(e, t)]);
      else yield* this.sums(e, t, signed);
      return;
    }
    if (Array.isArray(e) && e[0] === "@") {
      const [, left, right] = e;
      const isTurned = Array.isArray(right) && right[0] === "T";
      const matrix = (isTurned ? right[1] : right) as ["n", string];
      const weight = (k: number) => (isTurned ? [i, k] : [k, i]);
      const token = tokenOf(layer, left, t);
      if (token >= 0) yield signed([this.number(at(layer, matrix[1], null, ...(weight(token) as [number, number])))]);
      else {
        const width = this.evaluation.row(left, t).value.length;
        for (let k = 0; k < width; k++) {
          const [row, column] = weight(k);
          yield signed([this.factor(left, t, k), this.number(at(layer, matrix[1], null, row, column))]);
        }
      }
      return;
    }
    yield* this.sums(e, t, signed);
  }

  /** Sums over the units of a row, one term for each; else a product of factors. */
  private *sums(e: Expression, t: number, signed: (factors: Factor[]) => Term): Generator<Term> {
    const { i, j } = this.address;
    const unit = Math.max(i, j);
    const name = Array.isArray(e) && e[0] === "f" ? functionOf(this.layer.cell, e[1]) : "";
    if (name === "sum" || name === "mean") {
      const inner = (e as ["f", string, Expression])[2];
      const width = this.evaluation.row(inner, t).value.length;
      const share = name === "mean" ? [{ value: 1 / width, address: null }] : [];
      for (let k = 0; k < width; k++) yield signed([...this.factors(inner, t, k), ...share]);
      return;
    }
    yield signed(this.factors(e, t, unit));
  }

  private factors(e: Expression, t: number, i: number): Factor[] {
    if (Array.isArray(e) && e[0] === "*") return children(e).map((factor) => this.factor(factor, t, i));
    return [this.factor(e, t, i)];
  }

  private factor(e: Expression, t: number, i: number): Factor {
    if (typeof e === "number") return { value: e, address: null };
    if (isName(e)) {
      const step = e[2] === undefined ? null : t + e[2] * onward(this.layer);
      const width = sizes(this.tape, { name: keyOf(e), layer: this.layer.position })[0] ?? 1;
      const unit = width === 1 ? 0 : i;
      if (keyOf(e) === "x" && step !== null) return this.number(addressOfInput(this.layer, step, unit));
      return this.number(at(this.layer, keyOf(e), step, unit));
    }
    const { value } = this.evaluation.row(e, t);
    const unit = value.length === 1 ? 0 : i;
    return { value: value[unit], address: null, of: { expression: e, layer: this.layer, unit } };
  }

  /** An entry of a matrix that is made of others. */
  private entry(e: Expression, t: number): Factor {
    const { i, j } = this.address;
    const isTurned = Array.isArray(e) && e[0] === "T";
    const inner = isTurned ? e[1] : e;
    if (isName(inner) && inner[1] !== "I")
      return this.number(at(this.layer, keyOf(inner), null, isTurned ? j : i, isTurned ? i : j));
    return { value: this.evaluation.entry(e, t, i, j)[0], address: null, of: { expression: e, layer: this.layer } };
  }

  /** One entry of aᵀ b at a step. */
  private outer(e: Expression, t: number): Factor[] | null {
    if (!this.evaluation.outer(e, t)) return null;
    const { i, j } = this.address;
    const [, left, right] = e as ["@", ["T", Expression], Expression];
    return [this.factor(left[1], t, i), this.factor(right, t, j)];
  }

  private number(address: Address): Factor {
    return { value: valueAt(this.tape, address) ?? Number.NaN, address };
  }

  private product(group: number, ...addresses: Address[]): Term {
    const factors = addresses.map((address) => this.number(address));
    return { group, factors, value: factors.reduce((all, { value }) => all * value, 1) };
  }

  /** This entry of an expression, and the magnitudes that it is made of. */
  private measured(e: Expression, t: number): [number, number] {
    const { address, evaluation, tape } = this;
    if (address.t === null && sizes(tape, address).length > 1) return evaluation.entry(e, t, address.i, address.j);
    const { value, magnitude } = evaluation.row(e, t);
    const at = value.length === 1 ? 0 : address.i;
    return [value[at], magnitude[at]];
  }

  private judged(
    tag: string,
    groups: Group[],
    terms: Term[],
    read: Expression[],
    t: number,
    beside = 0,
    count = 0,
  ): Explanation {
    const magnitude = read.reduce((sum: number, e) => sum + this.measured(e, t)[1], beside);
    const all = read.reduce((sum: number, e) => sum + countOf(this.layer, e), count);
    return { ...this.result(tag, "sum", "", groups, terms), ...this.apart(total(terms), magnitude, all) };
  }

  private result(tag: string, kind: Explanation["kind"], words: string, groups: Group[], terms: Term[]) {
    const { address, value } = this;
    return { address, value, tag, kind, words, groups, terms, related: [] };
  }

  private apart(derived: number, magnitude: number, count: number) {
    return { derived, residual: relative(this.value, derived, magnitude), bound: (8 + count) * this.tape.eps };
  }
}

export function given(address: Address, value: number, words: string): Explanation {
  return {
    address,
    value,
    tag: "",
    kind: "given",
    words,
    groups: [],
    terms: [],
    derived: value,
    residual: 0,
    bound: 0,
    related: [],
  };
}

function sizeOf(terms: Term[]): number {
  return terms.reduce((sum, { value }) => sum + Math.abs(value), 0);
}

/** How far a number is from what it should be, beside the magnitudes that it is made of. */
export function relative(value: number, derived: number, scale: number): number {
  const difference = Math.abs(value - derived);
  return difference === 0 ? 0 : difference / scale;
}

/** The sum, with the rounding errors of the additions carried along (Neumaier), so that it is the terms' own. */
export function total(terms: Pick<Term, "value">[]): number {
  let sum = 0;
  let lost = 0;
  for (const { value } of terms) {
    const next = sum + value;
    lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
  }
  return Number.isFinite(lost) ? sum + lost : sum;
}

export interface Share {
  group: Group;
  value: number;
  /** The sum of the magnitudes. */
  magnitude: number;
}

/** The terms by group, in the order of the groups. */
export function shares({ groups, terms }: Explanation): Share[] {
  return groups.map((group, place) => {
    const own = terms.filter((each) => each.group === place);
    return { group, value: total(own), magnitude: sizeOf(own) };
  });
}
