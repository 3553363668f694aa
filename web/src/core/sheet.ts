// A cell as the page carries it: its equations as trees (bptt.sheet.data says how they are written).

/** A value or its cotangent, at a step or without time; in another notation also what the sheet calls it. */
export type Name = ["n" | "d", string, number?, string?];

export type Expression =
  | number
  | Name
  | ["size", string]
  | ["T" | "²", Expression]
  | ["@" | "/", Expression, Expression]
  | ["*", ...unknown[]]
  | ["+", ...unknown[]]
  | ["f", string, ...unknown[]];

export interface Words {
  w: string;
}

export interface Use {
  value: Expression;
  /** The line of side A that this share comes from, and its step: 0, 1 for t+1, nothing for a fixed line. */
  from: [string, number?];
}

export interface Line {
  tag: string;
  parts: (Expression | Words)[];
  once?: boolean;
  terms?: Use[];
}

interface Equation {
  tag: string;
  name: string;
  value: Expression;
}

export interface Names {
  of: string;
  names: Record<string, string>;
  style: "_" | "^" | "()" | "[]";
  columns: boolean;
  bias_first: boolean;
  note: string;
}

export interface Cell {
  name: string;
  output: string;
  states: string[];
  inputs: string[];
  functions: Record<string, string>;
  constants: Record<string, number>;
  /** Kinds of what has no equation. */
  given: Record<string, string>;
  widths: Record<string, string>;
  shapes: Record<string, [string, string]>;
  a: Line[];
  b: Line[];
  notations: Record<string, Names>;
  /** Of every step, in order, and those made once per call. */
  steps: Equation[];
  fixed: Equation[];
  /** The lines of side B that are sums of shares, by what they are the gradient of. */
  back: Map<string, Line>;
}

/** The cell of what `as_data` wrote. What is looked up by name has no names but those of the cell: no `constructor`. */
export function cellOf(raw: Omit<Cell, "steps" | "fixed" | "back">): Cell {
  const equations = raw.a.flatMap((line) => {
    const [left, equals, value] = line.parts;
    if (line.parts.length !== 3 || !isName(left) || line.tag > "A3" || !isWords(equals) || isWords(value)) return [];
    return [{ tag: line.tag, name: left[1], value, isFixed: left[2] === undefined }];
  });
  const back = raw.b.flatMap((line): [string, Line][] => {
    const [left] = line.parts;
    const whole = line.parts[line.parts.length - 1] as Expression;
    const terms = line.terms?.map(({ value = whole, from }) => ({ value, from }));
    return terms && Array.isArray(left) && left[0] === "d" ? [[left[1], { ...line, terms }]] : [];
  });
  const named = <T>(of: Record<string, T>): Record<string, T> => Object.assign(Object.create(null), of);
  return {
    ...raw,
    functions: named(raw.functions),
    constants: named(raw.constants),
    given: named(raw.given),
    widths: named(raw.widths),
    shapes: named(raw.shapes),
    notations: named(
      Object.fromEntries(Object.entries(raw.notations).map(([key, of]) => [key, { ...of, names: named(of.names) }])),
    ),
    steps: equations.filter((each) => !each.isFixed),
    fixed: equations.filter((each) => each.isFixed),
    back: new Map(back),
  };
}

export function isWords(part: Expression | Words): part is Words {
  return typeof part === "object" && !Array.isArray(part);
}

export function isName(e: Expression | Words): e is Name {
  return Array.isArray(e) && (e[0] === "n" || e[0] === "d");
}

export function children(e: Expression): Expression[] {
  if (typeof e === "number") return [];
  switch (e[0]) {
    case "n":
    case "d":
    case "size":
      return [];
    case "+":
      return termsOf(e).map(([, term]) => term);
    case "f":
      return e.slice(2) as Expression[];
    default:
      return e.slice(1) as Expression[];
  }
}

/** The same expression with each child changed. */
export function mapped(e: Expression, change: (child: Expression) => Expression): Expression {
  if (typeof e === "number") return e;
  switch (e[0]) {
    case "n":
    case "d":
    case "size":
      return e;
    case "+":
      return ["+", ...termsOf(e).map(([sign, term]) => [sign, change(term)])];
    case "f":
      return ["f", e[1], ...children(e).map(change)];
    default:
      return [e[0], ...children(e).map(change)] as Expression;
  }
}

export function* names(e: Expression): Generator<Name> {
  if (isName(e)) yield e;
  for (const child of children(e)) yield* names(child);
}

/** The terms of a sum with their signs; any other expression is one term. */
export function termsOf(e: Expression): [number, Expression][] {
  return Array.isArray(e) && e[0] === "+" ? (e.slice(1) as [number, Expression][]) : [[1, e]];
}

/** The function a name in a cell stands for. */
export function functionOf(cell: Cell, name: string): string {
  return cell.functions[name] ?? name;
}

/** How the numbers of an expression are reached: by its name, or by `d.` and its name. */
export function keyOf(e: Name): string {
  return e[0] === "d" ? `d.${e[1]}` : e[1];
}

/** Values that are neither states nor inputs: gates and the like, in the order of their equations. */
export function between(cell: Cell): string[] {
  return cell.steps.map(({ name }) => name).filter((name) => !cell.states.includes(name) && name !== cell.output);
}

/** A value that a line reads, both by their lanes: at the same step, or a state of the step before. */
export interface Way {
  from: string;
  to: string;
  step: 0 | -1;
  /** The matrices that it is multiplied with. */
  weights: Set<string>;
  /** Whether a gradient comes back. */
  isSent: boolean;
}

/** What the lines read of each other and of x, once for each two lanes; within a lane only the step before counts. */
export function ways(cell: Cell, laneOf = (name: string) => name): Way[] {
  const found = new Map<string, Way>();
  for (const { name, value } of cell.steps)
    for (const [, read, step] of names(value)) {
      const [from, to] = [laneOf(read), laneOf(name)];
      if ((step !== 0 && step !== -1) || (from === to && step === 0)) continue;
      if (read !== "x" && cell.inputs.includes(read)) continue;
      const way = found.get(`${from} ${to} ${step}`) ?? { from, to, step, weights: new Set(), isSent: false };
      for (const matrix of multiplied(value, ["n", read, step])) way.weights.add(matrix);
      way.isSent ||= cell.back.get(read)?.terms?.some(({ from }) => from[0] === name && from[1] === -step) ?? false;
      found.set(`${from} ${to} ${step}`, way);
    }
  return [...found.values()];
}

/** The matrices that a value is multiplied with. */
function* multiplied(e: Expression, of: Name): Generator<string> {
  if (Array.isArray(e) && e[0] === "@" && String(e[1]) === String(of) && isName(e[2])) yield e[2][1];
  for (const child of children(e)) yield* multiplied(child, of);
}
