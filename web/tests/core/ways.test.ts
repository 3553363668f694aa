// The arrows of the picture of a network are what its equations read.

import { describe, expect, it } from "vitest";
import { between, type Cell, cellOf, names, ways } from "../../src/core/sheet.ts";
import { goldens, lstm, word } from "./golden.ts";

/** On side A, then those along which no gradient comes back; ′ is the step before. */
const drawn = (cell: Cell, laneOf?: (name: string) => string) => {
  const all = ways(cell, laneOf);
  const text = (of: typeof all) => of.map(({ from, to, step }) => `${from}${step ? "′" : ""}→${to}`).sort();
  return [text(all), text(all.filter(({ isSent }) => !isSent))];
};
const folded = (cell: Cell) => drawn(cell, (name) => (between(cell).includes(name) ? "folded" : name));
const gates = ["i", "f", "g", "q"];

it("of a plain cell", () => {
  const { cell } = word.layers[0];
  expect(drawn(cell)).toEqual([["a→h", "h′→a", "x→a"], []]);
  expect(ways(cell).map(({ weights }) => [...weights])).toEqual([["W_xh"], ["W_hh"], []]);
});

describe("of an LSTM", () => {
  const { cell } = lstm.layers[0];

  it("whose gates are folded", () => {
    const all = ["c′→c", "folded→c", "c→folded", "folded→h", "h′→folded", "x→folded"].sort();
    expect(folded(cell)).toEqual([all, []]);
  });

  it("whose gates are unfolded", () => {
    const ofGates = gates.flatMap((gate) => [`x→a${gate}`, `h′→a${gate}`, `a${gate}→${gate}`]);
    const others = ["f→c", "c′→c", "i→c", "g→c", "c→u", "q→h", "u→h"];
    expect(drawn(cell)).toEqual([[...ofGates, ...others].sort(), []]);
  });
});

it("of a Jordan network, whose state is what it is fed", () => {
  const [x, fed, before, f, a, h] = [
    ["n", "x", 0],
    ["n", "fed", 0],
    ["n", "f", -1],
    ["n", "f", 0],
    ["n", "a", 0],
    ["n", "h", 0],
  ];
  const sum = ["+", [1, ["@", x, ["n", "W_xh"]]], [1, ["@", before, ["n", "W_fh"]]]];
  const lines = [
    [f, fed],
    [a, sum],
    [h, ["f", "tanh", a]],
  ];
  const back = [
    ["d", "f", 0, "a", 1],
    ["d", "a", 0, "h", 0],
    ["d", "x", 0, "a", 0],
  ];
  const none = { functions: {}, constants: {}, given: {}, widths: {}, shapes: {}, notations: {} };
  const cell = cellOf({
    ...none,
    name: "jordan",
    output: "h",
    states: ["f"],
    inputs: ["x", "fed"],
    a: lines.map(([left, right]) => ({ tag: "A3", parts: [left, { w: " = " }, right] })),
    b: back.map(([d, name, at, from, step]) => ({
      tag: "B6",
      parts: [[d, name, at], 0],
      terms: [{ from: [from, step] }],
    })),
  } as unknown as Parameters<typeof cellOf>[0]);
  expect(drawn(cell)).toEqual([["a→h", "f′→a", "x→a"], []]);
});

describe.each(goldens)("of $name", ({ tape }) => {
  it("leaves out no value that a line reads, and draws none that it does not", () => {
    for (const { cell } of tape.layers) {
      const values = ["x", ...cell.steps.map(({ name }) => name)];
      const read = cell.steps.flatMap(({ name, value }) =>
        [...names(value)].flatMap(([, of, step]) => (values.includes(of) ? [`${of}${step ? "′" : ""}→${name}`] : [])),
      );
      expect(drawn(cell)[0]).toEqual([...new Set(read)].sort());
    }
  });
});
