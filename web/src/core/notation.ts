// The sheet's symbols under the names of other books, as parts that MathML, TeX and plain text are made of.

import type { Address } from "./address.ts";
import type { Tape } from "./tape.ts";

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
  | { glyph: Glyph }
  | { sign: string }
  | { words: string }
  | { over: string }
  | { value: number; of?: Address };

/** How a step is written beside h: h_5, h(5), h⁽⁵⁾ or output[5]. */
type Style = "sub" | "call" | "sup" | "bracket";

const TRANSPOSED = "ᵀ";
/** Names on this page for what the sheet writes with letters of its own. */
const SHEET_NAMES: Record<string, string> = {
  y_hat: "ŷ",
  slope: "φ′",
  own: "∂h",
  future: "∂h",
  dh0: "∂h",
  h_before: "h",
  da_after: "∂a",
};

export class Notation {
  private readonly names: Map<string, string>;
  private readonly style: Style;

  constructor(tape: Tape, chosen: string) {
    const here = tape.notations.here ?? [];
    const there = tape.notations[chosen] ?? here;
    this.names = new Map(here.map((name, index) => [name, there[index] ?? name]));
    this.style = styleOf(this.names.get("h_t") ?? "h_t");
  }

  /** Whether the notation has a word of its own for everything on the sheet. */
  get missing(): string[] {
    return [...this.names].filter(([, there]) => there === "–").map(([here]) => here);
  }

  /** A symbol of the sheet, "h", "W_hh" or "ŷ", at a time such as "5" or "t−1"; "" for none. */
  glyph(name: string, time: string, d = false, transposed = false): Glyph {
    const timed = this.names.get(`${name}_t`);
    const foreign = timed ?? this.names.get(name);
    const usable = foreign && foreign !== "–" ? foreign.split(" / ")[0] : timed === undefined ? name : `${name}_t`;
    if (time && (timed !== undefined || !this.names.has(name)))
      return this.atTime(usable.replace(/_t$|\(t\)$/, ""), time, d);
    let base = usable;
    let isTransposed = transposed;
    if (base.endsWith(TRANSPOSED)) {
      base = base.slice(0, -1);
      isTransposed = !isTransposed;
    }
    const [letter, ...rest] = base.split("_");
    const splits = rest.length > 0 && letter.length <= 2;
    if (!splits && base.includes(" ")) base = `(${base})`;
    return {
      d,
      base: splits ? letter : base,
      sub: splits ? rest.join("_") : "",
      sup: isTransposed ? "⊤" : "",
      tail: "",
    };
  }

  private atTime(base: string, time: string, d: boolean): Glyph {
    const glyph = { d, base, sub: "", sup: "", tail: "" };
    if (this.style === "sub" || base === "loss" || base === "w") return { ...glyph, sub: time };
    if (this.style === "sup") return { ...glyph, sup: `(${time})` };
    return { ...glyph, tail: this.style === "call" ? `(${time})` : `[${time}]` };
  }

  /** A number of the tape by its name on this page: the symbol of the sheet with its time. */
  ofName(name: string, time: string): Glyph {
    if (name === "y" || name === "w" || name === "loss" || name === "L")
      return this.glyph(name, name === "L" ? "" : time);
    const sheet = SHEET_NAMES[name];
    if (sheet) {
      const d = sheet.startsWith("∂");
      const glyph = this.glyph(d ? sheet.slice(1) : sheet, time, d);
      return name === "own" || name === "future"
        ? { ...glyph, sup: [glyph.sup, name].filter(Boolean).join(" ") }
        : glyph;
    }
    const d = name.startsWith("d");
    return this.glyph(d ? name.slice(1) : name, time, d);
  }

  /** A formula of the sheet as tokens: with the number of the step where it has t; t stays without one. */
  formula(text: string, step?: number, reverse = false): Token[] {
    const pattern = /Σ(?:_([a-z]+))?|(∂?)([A-Za-zŷφδ]+(?:_\{[^}]*\}|_[A-Za-z]+)?)(ᵀ?)('?)|([=+−·×⊙()/,:])|(\d+)/gu;
    return [...text.matchAll(pattern)].map(([, over = "", d, symbol, transposed, prime, sign, digits]) => {
      if (sign) return { sign };
      if (digits) return { value: Number(digits) };
      if (!symbol) return { over };
      return this.token(symbol, d === "∂", transposed !== "", prime !== "", step, reverse);
    });
  }

  private token(
    symbol: string,
    d: boolean,
    transposed: boolean,
    prime: boolean,
    step: number | undefined,
    reverse: boolean,
  ): Token {
    const [, base, sub = ""] = /^([^_]+)(?:_\{?([^}]*)\}?)?$/u.exec(symbol) as unknown as [string, string, string?];
    const time = /^t(?:([+−-])1)?$/.exec(sub);
    if (time) {
      const shift = time[1] === undefined ? 0 : (time[1] === "+" ? 1 : -1) * (reverse ? -1 : 1);
      const written = step === undefined ? (shift === 0 ? "t" : shift > 0 ? "t+1" : "t−1") : String(step + shift);
      const glyph = this.glyph(base, written, d);
      return { glyph: transposed ? { ...glyph, sup: `${glyph.sup}⊤` } : glyph };
    }
    if (sub === "" && base.length > 1 && base !== "loss") return { words: base };
    const glyph = this.glyph(sub ? `${base}_${sub}` : base, "", d, transposed);
    return { glyph: prime ? { ...glyph, base: `${glyph.base}′` } : glyph };
  }
}

function styleOf(name: string): Style {
  if (name.includes("(t)")) return "call";
  if (name.includes("_t")) return "sub";
  return name.length === 1 ? "sup" : "bracket";
}

export function plainText(glyph: Glyph): string {
  const sup = glyph.sup ? `^${glyph.sup}` : "";
  return `${glyph.d ? "∂" : ""}${glyph.base}${glyph.sub ? `_${glyph.sub}` : ""}${glyph.tail}${sup}`;
}

const GREEK: Record<string, string> = { φ: "\\varphi", "φ′": "\\varphi'", δ: "\\delta", ŷ: "\\hat{y}" };

export function tex(glyph: Glyph): string {
  const { d, base, sub, sup, tail } = glyph;
  const letter = GREEK[base] ?? (base.length > 1 ? `\\mathrm{${base.replace(/_/g, "\\_")}}` : base);
  const below = sub ? `_{${texScript(sub)}}` : "";
  const above = sup ? `^{${texScript(sup.replace("⊤", "\\top "))}}` : "";
  return `${d ? "\\partial " : ""}${letter}${below}${tail.replace("−", "-")}${above}`;
}

function texScript(script: string): string {
  const text = script.trim().replace(/−/g, "-");
  return /[a-z]{2}/.test(text) && !text.startsWith("\\") ? `\\mathrm{${text}}` : text;
}
