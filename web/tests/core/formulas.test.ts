// Every equation that the page can show, in every notation: what formulas.txt says, to be read with one's own eyes.

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { at, GRADIENT_NAMES, isMatrix, type Name, STEP_NAMES, written } from "../../src/core/address.ts";
import { number } from "../../src/core/format.ts";
import { equationOf } from "../../src/core/formula.ts";
import { Notation, plainText, type Token } from "../../src/core/notation.ts";
import type { Activation, Tape } from "../../src/core/tape.ts";
import { type Explanation, explain } from "../../src/core/terms.ts";
import { type Golden, goldens, word } from "./golden.ts";

const NAMES: Name[] = [...STEP_NAMES, ...GRADIENT_NAMES, "dh0", "L"];

function changed(activation: Activation): Tape {
  return { ...word, b_o: null, layers: word.layers.map((layer) => ({ ...layer, activation, b_h: null })) };
}

function asText(tokens: Token[]): string {
  const words = tokens.map((token) => {
    if ("glyph" in token) return plainText(token.glyph);
    if ("over" in token) return token.over ? `Σ_${token.over}` : "Σ";
    if ("value" in token) return number(token.value);
    return "sign" in token ? token.sign : token.words;
  });
  return words
    .join(" ")
    .replace(/ ([),])/g, "$1")
    .replace(/\( /g, "(")
    .replace(/(φ′?|g|loss) \(/g, "$1(");
}

/** In the order of the sheet, each with the first number that it was seen at. */
function shown(): string {
  const tapes = [
    ...goldens.filter(({ name }) => name !== "window"),
    { name: "without biases", tape: changed("identity") },
  ];
  const seen = new Map<string, string>();
  for (const { name: from, tape } of tapes)
    for (const layer of tape.layers)
      for (const name of NAMES) {
        const address = at(name, layer.position, 2, 0, isMatrix(name) ? 0 : -1);
        const explanation = explain(tape, address);
        if (!explanation) continue;
        const equations = Object.keys(tape.notations).map((notation) => [
          notation,
          asText(equationOf(tape, new Notation(tape, notation), explanation)),
        ]);
        if (equations.every(([, text]) => text === "")) continue;
        const rows = equations.map(([notation, text]) => `  ${notation.padEnd(16)}${text}`).join("\n");
        if (!seen.has(rows)) seen.set(rows, `${explanation.tag}  ${written(tape, address)} of ${from}`);
      }
  return [...seen].map(([rows, where]) => `${where}\n${rows}\n`).join("\n");
}

const inWindow = goldens.find(({ name }) => name === "window") as Golden;

it("counts steps from the beginning of the whole tape", () => {
  const explanation = explain(inWindow.tape, at("a", 0, 2, 0)) as Explanation;
  expect(asText(equationOf(inWindow.tape, new Notation(inWindow.tape, "here"), explanation))).toBe(
    "a_13 = x_13 W_xh + h_12 W_hh + b_h",
  );
});

it("shows the equations that were read", () => {
  expect(shown()).toBe(readFileSync(new URL("formulas.txt", import.meta.url), "utf8"));
});
