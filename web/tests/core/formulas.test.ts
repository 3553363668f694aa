// Every equation of every built-in cell in every notation: the MathML that the page shows, read back as text, is what
// the sheet says, word for word. Python writes what that is.

import { readFileSync } from "node:fs";
import { render } from "svelte/server";
import { describe, expect, it } from "vitest";
import { type Address, read } from "../../src/core/address.ts";
import { equationOf } from "../../src/core/formula.ts";
import { Notation } from "../../src/core/notation.ts";
import { type Cell, cellOf } from "../../src/core/sheet.ts";
import { type Explanation, explain } from "../../src/core/terms.ts";
import { ANY, type Token } from "../../src/core/writing.ts";
import Formula from "../../src/view/Formula.svelte";
import { golden, lstm, stacked, word } from "./golden.ts";

interface Said {
  cell: Parameters<typeof cellOf>[0];
  said: Record<string, [string, string][]>;
}
const file = new URL("../../golden/formulas.json", import.meta.url);
const cells = JSON.parse(readFileSync(file, "utf8")) as Record<string, Said>;

interface Node {
  tag: string;
  children: (Node | string)[];
}

/** The elements of a piece of markup. */
function parsed(markup: string): Node {
  const root: Node = { tag: "", children: [] };
  const open = [root];
  for (const [, close, tag, text] of markup.replace(/<!--.*?-->/gs, "").matchAll(/<(\/?)(\w+)[^>]*>|([^<]+)/g)) {
    const inside = open[open.length - 1];
    if (text !== undefined) inside.children.push(text);
    else if (close) open.pop();
    else {
      const node = { tag, children: [] };
      inside.children.push(node);
      if (tag !== "wbr") open.push(node);
    }
  }
  return root;
}

const SPACED = ["=", "+", "−", "⊙", "·", ">", "≥", "<", "≤"];
const ENTITIES: Record<string, string> = { "&lt;": "<", "&gt;": ">", "&amp;": "&" };

/** MathML as the sheet writes text: h_{t-1}, W_hoᵀ, h_t², Σ_t. */
function asText(markup: string): string {
  const words = (node: Node | string): string[] => {
    if (typeof node === "string")
      return node.trim() ? [node.trim().replace(/&\w+;/g, (entity) => ENTITIES[entity])] : [];
    const inside = node.children.flatMap((child) => {
      const found = words(child);
      return found.length > 0 ? [found] : [];
    });
    if (node.tag === "msub") return [inside[0].join("") + below(inside[1].join(""))];
    if (node.tag === "msup") return [inside[0].join("") + raised(inside[1].join(""))];
    if (node.tag === "msubsup") return [inside[0].join("") + both(inside[1].join(""), inside[2].join(""))];
    if (node.tag === "munder") return [`Σ_${inside[1].join("")}`];
    const isSymbol =
      node.tag === "mrow" &&
      inside.length > 0 &&
      !node.children.some((child) => typeof child !== "string" && child.tag === "mo");
    return isSymbol &&
      node.children.every(
        (child) => typeof child === "string" || ["mi", "mrow", "mtext", "msub", "msup", "msubsup"].includes(child.tag),
      )
      ? [inside.flat().join("")]
      : inside.flat();
  };
  const below = (sub: string) =>
    sub
      .split(", ")
      .map((part) => (/[−+]/.test(part) ? `_{${part.replace("−", "-")}}` : `_${part}`))
      .join("");
  const raised = (sup: string) =>
    sup
      .replace(/^([^T2]+)/, "^$1")
      .replace(/T$/, "ᵀ")
      .replace(/2$/, "²")
      .replace("−", "-");
  const both = (sub: string, sup: string) => (/^[^T2]/.test(sup) ? raised(sup) + below(sub) : below(sub) + raised(sup));
  return words(parsed(markup))
    .map((word) => (SPACED.includes(word) ? ` ${word} ` : word.replace(/−(?=1[)\]])/, "-")))
    .reduce((text, word) => {
      const isJoined =
        text === "" ||
        /[\s([∂/]$/.test(text) ||
        /^[\s,)\]/]/.test(word) ||
        (word === "(" &&
          /(^|[\s([−])[\p{Ll}φσ]+$/u.test(text) &&
          /[a-zφσ]{3,}$|[φσg]$/u.test(text) &&
          !text.endsWith("hand"));
      return text + (isJoined ? "" : " ") + word;
    }, "")
    .replace(
      /(^|[(=⊙+·[,]|take) *− /g,
      (_, before) => `${before}${before === "" || before === "(" || before === "[" ? "" : " "}−`,
    )
    .replace(/ {2,}/g, " ")
    .trim();
}

const shown = (tokens: Token[]) => asText(render(Formula, { props: { tokens } }).body);

describe.each(Object.entries(cells))("%s", (_, { cell: raw, said }) => {
  const cell: Cell = cellOf(raw);
  it.each(Object.keys(said))("is shown as the sheet writes it, under the names of %s", (key) => {
    const notation = new Notation(cell, key);
    const lines = [...cell.a, ...cell.b];
    const found = lines.map((line) => [line.tag, shown(notation.line(line, ANY))]);
    expect(found).toEqual(said[key].map(([tag, text]) => [tag, text.replace(/ \/ /g, "/")]));
  });
});

it.each([
  [
    "its step, counted from the beginning of the whole tape",
    golden("window").tape,
    "a@13,1",
    "a_13 = x_13 W_xh + h_12 W_hh + b_h",
  ],
  ["what it sends on", word, "dh@2,1", "∂h_2 = ∂o_2 W_hoᵀ + ∂a_3 W_hhᵀ"],
  ["the way through the memory", lstm, "dc@2,1", "∂c_2 = ∂u_2 ⊙ (1 − u_2²) + ∂c_3 ⊙ f_3"],
  ["a first state", lstm, "dc@0,1", "∂c_0 = ∂c_1 ⊙ f_1"],
  ["the layer above", stacked, "dh@2,1", "∂h_2 = ∂x_2 (layer 2) + ∂a_3 W_hhᵀ"],
  ["the layer above alone", stacked, "own.h@2,1", "∂h^own_2 = ∂x_2 (layer 2)"],
  ["a squared error", golden("numbers").tape, "do@5,1", "∂o_5 = 2 w_5 (ŷ_5 − y_5)"],
  ["the other direction of time", golden("both_ways").tape, "1r:a@2,1", "a_2 = x_2 W_xh + h_3 W_hh + b_h"],
  ["a loss", word, "loss@2", "loss_2 = loss(ŷ_2, y_2)"],
  ["a sum over steps", lstm, "dW_hf,1,1", "∂W_hf = Σ_t h_{t-1}ᵀ ∂af_t"],
] as const)("names in the equation of a number %s", (_, tape, text, equation) => {
  const explanation = explain(tape, read(tape, text, 0) as Address) as Explanation;
  expect(shown(equationOf(tape, new Notation(tape.layers[0].cell, "bptt"), explanation))).toBe(equation);
});
