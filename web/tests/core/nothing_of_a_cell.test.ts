// What reads the sheet knows no equation, no name and no function of any cell.

import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { FUNCTIONS } from "../../src/core/functions.ts";
import { goldens } from "./golden.ts";

const names = new Set(
  goldens.flatMap(({ tape }) =>
    tape.layers.flatMap(({ cell }) => [...Object.keys(cell.given), ...cell.steps.map(({ name }) => name)]),
  ),
);
/** Sums are taken apart into terms, and two of them are called as their numbers are. */
const known = ["sum", "mean", "total"];
/** The network around the cell is known by name, and its g. */
const allowed = ["n", "d", "f", "A", "B", "x", "o", "y", "w", "L", "r", "softmax", "W_ho", "b_o"];

it.each([
  "terms",
  "verify",
  "sweep",
  "output",
  "reach",
  "kept",
  "evaluate",
  "formula",
  "code",
  "notation",
  "address",
  "copy",
  "sheet",
])("%s.ts knows nothing of any cell", (file) => {
  const source = readFileSync(new URL(`../../src/core/${file}.ts`, import.meta.url), "utf8");
  const text = source.replace(/\/\/.*|\/\*[\s\S]*?\*\//g, "");
  const quoted = [...text.matchAll(/["'`](?:d\.|own\.)?([\p{L}_0-9]+)["'`](?! in )/gu)].map(([, word]) => word);
  const functions = Object.keys(FUNCTIONS).filter((name) => !known.includes(name));
  const begun = [...text.matchAll(/["'`](?:before\.|after\.)?(?:d\.|own\.)([\p{L}_0-9]+)["'`]/gu)].map(
    ([, word]) => word,
  );
  const isOfCell = (word: string) => names.has(word) || functions.includes(word) || begun.includes(word);
  const found = quoted.filter((word) => isOfCell(word) && !allowed.includes(word));
  expect(found).toEqual([]);
});
