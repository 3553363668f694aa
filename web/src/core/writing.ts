// Expressions as tokens that MathML, TeX and plain text are made of, with brackets where bptt.sheet.printing has them.

import type { Address } from "./address.ts";
import { FUNCTIONS } from "./functions.ts";
import { children, type Expression, isName, isWords, type Name, type Names, termsOf, type Words } from "./sheet.ts";

/** One symbol: ∂ in front or not, a letter or word, time and index where the notation puts them. */
export interface Glyph {
  d: boolean;
  base: string;
  sub: string;
  sup: string;
  /** Written after the symbol, before what stands above it: (t) or [t]. */
  tail: string;
}

export type Token =
  | { glyph: Glyph; of?: Name; asks?: Address }
  | { sign: string; sup?: string }
  | { name: string }
  | { words: string }
  | { over: string }
  | { value: number; asks?: Address };

/** How the step of a name is written: 0 for t, −1 for t−1. */
export type Time = (step: number) => string;

export const ANY: Time = (step) => (step === 0 ? "t" : step > 0 ? "t+1" : "t−1");

const [SUM, TIMES, PRODUCT, POWER, ATOM] = [1, 2, 3, 4, 5];

export function write(parts: (Expression | Words)[], time: Time, style: Names["style"]): Token[] {
  const writer = new Writer(time, style);
  let least = SUM;
  return parts.flatMap((part) => {
    if (!isWords(part)) {
      const tokens = writer.write(part, least);
      least = SUM;
      return tokens;
    }
    const word = part.w.trim();
    least = word.startsWith("Σ") ? TIMES : SUM;
    if (word.startsWith("Σ")) return [{ over: word.slice(2) }];
    return word.length === 1 ? [{ sign: word }] : [{ words: word }];
  });
}

class Writer {
  constructor(
    private readonly time: Time,
    private readonly style: Names["style"],
  ) {}

  /** In brackets where it binds less than `least`. */
  write(e: Expression, least = SUM): Token[] {
    const [tokens, binds] = this.written(e);
    return binds < least ? [{ sign: "(" }, ...tokens, { sign: ")" }] : tokens;
  }

  private written(e: Expression): [Token[], number] {
    if (typeof e === "number") return e < 0 ? [[{ sign: "−" }, { value: -e }], SUM] : [[{ value: e }], ATOM];
    switch (e[0]) {
      case "n":
      case "d":
        return [[{ glyph: this.glyph(e), of: e }], ATOM];
      case "size":
        return [[{ glyph: this.glyph(["n", e[1]]) }], ATOM];
      case "T":
        return [this.raised(e[1], "⊤"), POWER];
      case "²":
        return [this.raised(e[1], "2"), POWER];
      case "@":
        return [[...this.write(e[1], PRODUCT), ...this.write(e[2], POWER)], PRODUCT];
      case "*":
        return [
          joined(
            children(e).map((factor) => this.write(factor, isCall(factor) ? TIMES : POWER)),
            "⊙",
          ),
          TIMES,
        ];
      case "/":
        return [[...this.write(e[1], POWER), { sign: "/" }, ...this.write(e[2], POWER)], TIMES];
      case "+":
        return [
          termsOf(e).flatMap(([sign, term], place): Token[] => {
            const before: Token[] = sign < 0 ? [{ sign: "−" }] : place > 0 ? [{ sign: "+" }] : [];
            return [...before, ...this.write(term, TIMES)];
          }),
          SUM,
        ];
      default: {
        const [name, given] = [e[1] as string, children(e)];
        const form = FUNCTIONS[name]?.form;
        if (form) return [this.form(given[0] === 1 ? form.replace("{0} ⊙ ", "") : form, given), TIMES];
        const inside = joined(
          given.map((each) => this.write(each)),
          ",",
        );
        return [[{ name }, { sign: "(" }, ...inside, { sign: ")" }], ATOM];
      }
    }
  }

  private form(form: string, given: Expression[]): Token[] {
    return form.split(/(\{\d\}|[[\]])|\s+/).flatMap((part): Token[] => {
      if (!part) return [];
      const place = /^\{(\d)\}$/.exec(part)?.[1];
      if (place) return this.write(given[Number(place)], POWER);
      return /^\d+$/.test(part) ? [{ value: Number(part) }] : [{ sign: part }];
    });
  }

  /** Squared or transposed; a square stands outside brackets where something is raised already. */
  private raised(e: Expression, sup: string): Token[] {
    const tokens = this.write(e, ATOM);
    const last = tokens[tokens.length - 1];
    if (tokens.length === 1 && "glyph" in last) {
      if (sup === "2" && this.style === "^") return [{ sign: "(" }, last, { sign: ")", sup }];
      return [{ ...last, glyph: { ...last.glyph, sup: last.glyph.sup + sup } }];
    }
    return "sign" in last && last.sign === ")"
      ? [...tokens.slice(0, -1), { ...last, sup }]
      : [...tokens, { sign: "", sup }];
  }

  private glyph([kind, name, step]: Name): Glyph {
    const [stem, ...below] = name.split("_");
    const [letters, raised = ""] = stem.split("^");
    const isWord = Array.from(letters.replace(/\u0303/g, "")).length > 2 && !/^.\d+$/u.test(letters);
    const glyph = { d: kind === "d", base: isWord ? name : letters, sub: "", sup: isWord ? "" : raised, tail: "" };
    const subs = isWord ? [] : below;
    if (step === undefined) return { ...glyph, sub: subs.join(", ") };
    const time = this.time(step);
    if (this.style === "_") return { ...glyph, sub: [...subs, time].join(", ") };
    const sub = subs.join(", ");
    if (this.style === "^") return { ...glyph, sub, sup: `${glyph.sup}(${time})` };
    return { ...glyph, sub, tail: `${this.style[0]}${time}${this.style[1]}` };
  }
}

function isCall(e: Expression): boolean {
  return Array.isArray(e) && !isName(e) && e[0] === "f";
}

function joined(all: Token[][], sign: string): Token[] {
  return all.flatMap((tokens, place) => (place > 0 ? [{ sign }, ...tokens] : tokens));
}

export function plainText(glyph: Glyph): string {
  const sup = glyph.sup ? `^${glyph.sup}` : "";
  return `${glyph.d ? "∂" : ""}${glyph.base}${glyph.sub ? `_${glyph.sub}` : ""}${glyph.tail}${sup}`;
}

/** Tokens as a line of plain text, as the sheet would print them. */
export function textOf(tokens: Token[]): string {
  const written = tokens.map((token) => {
    if ("glyph" in token) return plainText(token.glyph).replace(/\^⊤$/, "ᵀ");
    if ("value" in token) return String(token.value);
    if ("name" in token) return token.name;
    if ("sign" in token) return token.sign + (token.sup === "2" ? "²" : token.sup ? "ᵀ" : "");
    return "over" in token ? `Σ_${token.over}` : token.words;
  });
  return written
    .join(" ")
    .replace(/ ([),\]²ᵀ])/g, "$1")
    .replace(/([([]) /g, "$1")
    .replace(/(\p{L}{3,}|[φσg]) \(/gu, "$1(");
}

const GREEK = "αβγδεζηθικλμνξοπρστυφχψω";
const CALLED =
  "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi o pi rho sigma tau upsilon varphi chi psi omega".split(
    " ",
  );

function texLetters(text: string): string {
  const letters = Array.from(text.replace(/ŷ/g, "\\hat{y}").replace(/(.)\u0303/gu, "\\tilde{$1}"));
  return letters
    .map((letter) => (GREEK.includes(letter) ? `\\${CALLED[Array.from(GREEK).indexOf(letter)]} ` : letter))
    .join("");
}

export function tex({ d, base, sub, sup, tail }: Glyph): string {
  const isWord = Array.from(base.replace(/\u0303/g, "")).length > 1;
  const letter = isWord ? `\\mathrm{${texLetters(base).replace(/_/g, "\\_")}}` : texLetters(base);
  const below = sub ? `_{${texScript(sub)}}` : "";
  const above = sup ? `^{${texScript(sup.replace("⊤", "\\top "))}}` : "";
  return `${d ? "\\partial " : ""}${letter}${below}${tail.replace("−", "-")}${above}`;
}

function texScript(script: string): string {
  const text = texLetters(script.trim().replace(/−/g, "-"));
  return /[a-z]{3}/.test(text) && !text.includes("\\") ? `\\mathrm{${text}}` : text;
}
