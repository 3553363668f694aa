// The sheet under the names of other books: bptt.sheet.notations once more, which the tests compare word for word.

import {
  type Cell,
  type Expression,
  isName,
  isWords,
  type Line,
  mapped,
  type Name,
  names,
  termsOf,
  type Words,
} from "./sheet.ts";
import { type Glyph, plainText, type Time, type Token, write } from "./writing.ts";

const TRANSPOSED = "ᵀ";

export class Notation {
  private readonly chosen: Cell["notations"][string];

  constructor(cell: Cell, key: string) {
    this.chosen = cell.notations[key] ?? cell.notations.bptt;
  }

  /** Where the parts of a library's parameters lie. */
  get note(): string {
    return this.chosen.note;
  }

  /** A whole line of the sheet. */
  line({ parts }: Line, time: Time): Token[] {
    const [first] = parts;
    const isTurned =
      isName(first) && first[0] === "d" && first[2] === undefined && this.there(first).endsWith(TRANSPOSED);
    return this.parts(
      parts.map((part) => (isTurned && !isWords(part) ? flipped(part) : part)),
      time,
    );
  }

  /** Expressions and words in turn. */
  parts(parts: (Expression | Words)[], time: Time): Token[] {
    const [first, ...rest] = parts;
    const all: (Expression | Words)[] = [];
    if (isName(first) || (Array.isArray(first) && first[0] === "T")) {
      const written = termsOf(this.translated(first)).map(([, term]) => term);
      for (const term of written.slice(0, -1)) all.push(term, { w: " = " }); // all of them have this one gradient
      all.push(written[written.length - 1]);
    } else all.push(isWords(first) ? first : this.translated(first));
    for (const part of rest) all.push(isWords(part) ? part : this.translated(part));
    return write(all, time, this.chosen.style);
  }

  /** One expression, or one name. */
  expression(e: Expression, time: Time): Token[] {
    return write([this.translated(e)], time, this.chosen.style);
  }

  /** A name with its step as one symbol; `beside` is raised behind it. */
  glyph(name: Name, time: Time, beside = ""): Glyph {
    const symbols = this.expression(name, time).flatMap((token) => ("glyph" in token ? [token.glyph] : []));
    const [first] = symbols;
    const base = symbols.map((symbol) => plainText({ ...symbol, d: false })).join(" + ");
    const glyph = symbols.length > 1 ? { d: first.d, base: `(${base})`, sub: "", sup: "", tail: "" } : first;
    return beside ? { ...glyph, sup: [glyph.sup, beside].filter(Boolean).join(" ") } : glyph;
  }

  private there([, name, step]: Name): string {
    return this.chosen.names[step === undefined ? name : `${name}_t`] ?? name;
  }

  /** The same with all names replaced, and products turned round where vectors are columns. */
  private translated(e: Expression): Expression {
    if (typeof e === "number") return e;
    if (isName(e)) {
      const there = this.there(e);
      const parts = there.split(" + ").map((part): Name => [e[0], part.replace(TRANSPOSED, ""), e[2], e[1]]);
      if (parts.length > 1) return ["+", ...parts.map((part): [number, Expression] => [1, part])];
      return there.endsWith(TRANSPOSED) ? ["T", parts[0]] : parts[0];
    }
    if (e[0] === "T") {
      const inside = this.translated(e[1]);
      return Array.isArray(inside) && inside[0] === "T" ? inside[1] : ["T", inside];
    }
    if (e[0] === "@") {
      const [left, right] = [this.translated(e[1]), this.translated(e[2])];
      return this.chosen.columns ? chain(right, left) : ["@", left, right];
    }
    return e[0] === "+" ? this.sum(e) : mapped(e, (child) => this.translated(child));
  }

  private sum(e: Expression): Expression {
    const terms = [...termsOf(e)];
    if (this.chosen.bias_first && terms.some(([, term]) => Array.isArray(term) && term[0] === "@"))
      terms.sort(([, one], [, other]) => this.rank(one) - this.rank(other));
    return [
      "+",
      ...terms.flatMap(([sign, term]): [number, Expression][] => {
        const inside = this.translated(term);
        return sign > 0 ? termsOf(inside) : [[sign, inside]];
      }),
    ];
  }

  private rank(term: Expression): number {
    if (isName(term) && term[0] === "n" && term[2] === undefined) return 0;
    return Array.isArray(term) && term[0] === "@" && [...names(term)].some(([, name]) => name === "x") ? 2 : 1;
  }
}

/** A matrix, transposed. */
function flipped(e: Expression): Expression {
  if (Array.isArray(e) && e[0] === "T") return e[1];
  if (Array.isArray(e) && e[0] === "@") return ["@", flipped(e[2]), flipped(e[1])];
  if (Array.isArray(e) && e[0] === "+") return mapped(e, flipped);
  return ["T", e];
}

/** A product of several is read from the left. */
function chain(left: Expression, right: Expression): Expression {
  if (Array.isArray(right) && right[0] === "@") return ["@", chain(left, right[1]), right[2]];
  return ["@", left, right];
}
