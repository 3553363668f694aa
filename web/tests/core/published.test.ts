// Some fifty published cells, one row of two, with a loss that the page does not know: nothing here was made for them.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { at, known, sizes, valueAt, written } from "../../src/core/address.ts";
import { code } from "../../src/core/code.ts";
import { asNumPy, asTex } from "../../src/core/copy.ts";
import { equationOf } from "../../src/core/formula.ts";
import { Notation } from "../../src/core/notation.ts";
import { readTape } from "../../src/core/tape.ts";
import { explain } from "../../src/core/terms.ts";
import { finish, verify } from "../../src/core/verify.ts";

const file = new URL("../../golden/published.json", import.meta.url);
const pages = JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;

describe.each(Object.entries(pages))("%s", (_, page) => {
  const tape = readTape(page);
  const [layer] = tape.layers;

  it("is found right in every number", () => {
    const { wrong, count } = finish(verify(tape));
    expect(wrong).toEqual([]);
    expect(count).toBeGreaterThan(2 * tape.T * layer.H);
  });

  it("has an equation, terms and copies for its numbers", () => {
    const notation = new Notation(layer.cell, "bptt");
    let count = 0;
    for (const name of known(layer))
      for (const t of [0, tape.T - 1]) {
        const [rows = 1, columns] = sizes(tape, { name, layer: 0 });
        const address = at(layer, name, t, rows - 1, columns === undefined ? -1 : columns - 1);
        if (valueAt(tape, address) === undefined) continue;
        const explanation = explain(tape, address);
        expect(explanation, name).toBeDefined();
        if (!explanation || explanation.kind === "given") continue;
        count++;
        const place = written(tape, address);
        expect(explanation.residual, place).toBeLessThanOrEqual(explanation.bound);
        expect(equationOf(tape, notation, explanation), place).not.toEqual([]);
        expect(asTex(tape, notation, explanation), place).toContain("=");
        expect(asNumPy(tape, explanation), place).not.toContain("undefined");
      }
    expect(count).toBeGreaterThan(layer.cell.steps.length);
    for (const { text } of code(tape, 0)) expect(text).not.toContain("undefined");
  });
});
