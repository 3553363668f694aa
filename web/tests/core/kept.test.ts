// Gates, what of a state is kept, and the parts of its gradient, found in the equations alone.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { arriving, factors, gates, kept, keptStates, parts, products, shown } from "../../src/core/kept.ts";
import { Notation } from "../../src/core/notation.ts";
import type { Cell, Expression } from "../../src/core/sheet.ts";
import { type Floats, readTape, type Tape } from "../../src/core/tape.ts";
import { ANY, textOf } from "../../src/core/writing.ts";
import { golden, goldens, lstm, word } from "./golden.ts";

const file = new URL("../../golden/published.json", import.meta.url);
const published = Object.entries(JSON.parse(readFileSync(file, "utf8")) as Record<string, string>).map(
  ([name, page]) => ({ name, tape: readTape(page) }),
);
const tapes = new Map<string, Tape>([...goldens, ...published].map(({ name, tape }) => [name, tape]));
const cellOf = (name: string) => (tapes.get(name) as Tape).layers[0].cell;

it.each([
  ["lstm", "i f q"],
  ["gru", "r z"],
  ["mgu", "f"],
  ["highway", "f"],
  ["two_memories", "f"],
  ["word", ""],
  ["scrn", ""],
  ["phased lstm", "us us2 u"],
  ["softmax gate", "s"],
])("the gates of %s are %s", (name, found) => {
  expect(gates(cellOf(name)).join(" ")).toBe(found);
});

describe("what is kept", () => {
  const said = (cell: Cell, much: Expression) =>
    textOf(new Notation(cell, "bptt").expression(much, (step) => ANY(step - 1)));
  it.each([
    ["word", {}],
    ["highway", {}],
    ["lstm", { c: "f_t" }],
    ["gru", { h: "z_t" }],
    ["mgu", { h: "1 − f_t" }],
    ["peephole", { c: "f_t" }],
    ["two_memories", { h: "f_t", s: "1 − α" }],
    ["indrnn", { h: "u ⊙ [h_t > 0]" }],
    ["ctrnn", { h: "1 − s" }],
    ["lstm of 1997", { c: "1" }],
    ["star", { h: "(1 − h_t^2) ⊙ (1 − k_t)" }],
    ["recurrent highway, two deep", { h: "(1 − v_t) ⊙ (1 − us_t)" }],
    ["zoneout lstm", { h: "k", c: "m + (1 − m) ⊙ us_t" }],
    ["liquid, one substep", { h: "1 / (1 + δ ⊙ (k + f_t))" }],
    ["legendre memory, learned", {}],
  ])("of %s", (name, found) => {
    const cell = cellOf(name);
    expect(Object.fromEntries(keptStates(cell).map(([state, much]) => [state, said(cell, much)]))).toEqual(found);
  });
});

const factorsOf = (tape: Tape, place: number, state: string) => {
  const layer = tape.layers[place];
  return factors(tape, layer, state, kept(layer.cell, state) as Expression);
};

it("multiplies the forget gates between two steps, forward and backward in time", () => {
  const [layer] = lstm.layers;
  const f = layer.arrays.get("f") as Floats;
  const of = factorsOf(lstm, 0, "c");
  const at = (s: number, i: number) => f[s * layer.H + i];
  const found = products(of, lstm, layer, 1, 2);
  expect(found[0]).toBeCloseTo(at(1, 2), 12);
  expect(found[1]).toBe(1);
  expect(found[3]).toBeCloseTo(at(2, 2) * at(3, 2), 12);
  const mean = products(of, lstm, layer, 1, -1)[3];
  const each = Array.from({ length: layer.H }, (_, i) => at(2, i) * at(3, i));
  expect(mean).toBeCloseTo(each.reduce((sum, own) => sum + own, 0) / layer.H, 12);
});

it("follows a layer that reads backwards", () => {
  const { tape } = golden("gru_v1");
  const layer = tape.layers.find(({ direction }) => direction === "reverse");
  if (!layer) throw new Error("no such layer");
  const z = layer.arrays.get("z") as Floats;
  const found = products(factorsOf(tape, layer.position, "h"), tape, layer, 1, 0);
  expect(found[0]).toBeCloseTo(z[0], 12);
  expect(found[3]).toBeCloseTo(z[layer.H] * z[2 * layer.H], 12);
});

it("shows the mean size of all units, or one", () => {
  const rows = Float64Array.of(1, -2, 3, -4);
  expect(shown(rows, 2, 1, -1)).toBe(3.5);
  expect(shown(rows, 2, 1, 1)).toBe(-4);
  expect(shown(rows, 1, 3, 7)).toBe(-4);
});

it("measures a gradient by the first loss from the later step on", () => {
  const [layer] = word.layers;
  const tape = { ...word, T: 3 };
  const none = Number.NaN;
  const norms = Float64Array.of(5, 7, 9, 2, 8, 0, 1, 3, 6);
  expect(arriving(norms, [0, 1, 2], tape, layer, 1)).toEqual([2 / 8, 1, 3 / 6]);
  expect(arriving(norms, [2], tape, layer, 0)).toEqual([1, 1 / 3, 1 / 6]);
  expect(arriving(norms, [1], tape, layer, 2)).toEqual([none, none, none]);
  const silent = Float64Array.of(none, none, none, 2, 0, 0, 1, 3, 6);
  expect(arriving(silent, [1, 2], tape, layer, 1)).toEqual([1 / 3, 1, 3 / 6]);
});

describe.each([...tapes])("%s", (_, tape) => {
  it("has gradients that are the sums of their parts", () => {
    for (const layer of tape.layers)
      for (const [state, much] of keptStates(layer.cell)) {
        const { here, kept, other } = parts(tape, layer, state, much);
        const whole = layer.arrays.get(`d.${state}`) as Floats;
        const largest = Math.max(...[...here, ...kept, ...other].map(Math.abs));
        for (const [i, wanted] of whole.entries())
          expect(Math.abs(here[i] + kept[i] + other[i] - wanted)).toBeLessThanOrEqual(1e3 * tape.eps * largest);
      }
  });
});
