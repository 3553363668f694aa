import { describe, expect, it } from "vitest";
import { FUNCTIONS } from "../../src/core/functions.ts";
import { above, byLag, reach, saturation } from "../../src/core/reach.ts";
import { cannotRunFree, fedBy, parting, runFree, truncated } from "../../src/core/sweep.ts";
import { type Layer, Problem, type Tape } from "../../src/core/tape.ts";
import { finish, verify } from "../../src/core/verify.ts";
import { golden, goldens, lstm, stacked, word } from "./golden.ts";

const norms = (tape: Tape, layer: Layer, state = layer.cell.output) =>
  finish(reach(tape, layer)).norms.get(state) as Float64Array;

describe.each(goldens.filter(({ expected }) => expected.reach.length > 0))("$name", ({ tape, expected }) => {
  it("has the gradients of single losses that autograd has", () => {
    for (const layer of tape.layers) {
      for (const [state, rows] of Object.entries(expected.reach[layer.position])) {
        const found = norms(tape, layer, state);
        for (const [t, row] of rows.entries())
          for (let k = 0; k < tape.T; k++) {
            const wanted = row[k] ?? Number.NaN;
            if (Number.isNaN(wanted)) expect(found[t * tape.T + k]).toBeNaN();
            else
              expect(Math.abs(found[t * tape.T + k] - wanted)).toBeLessThanOrEqual(1e3 * tape.eps * Math.max(...row));
          }
      }
    }
  });
});

describe.each(goldens.filter(({ expected }) => Object.keys(expected.truncated).length > 0))(
  "$name",
  ({ tape, expected }) => {
    it.each(Object.keys(expected.truncated))("loses with windows of %s what autograd loses", (k) => {
      const found = truncated(tape, Number(k));
      expect(found.length).toBe(expected.truncated[k].length);
      for (const [index, wanted] of expected.truncated[k].entries()) {
        expect(found[index].name).toBe(wanted.name);
        expect(found[index].layer.position).toBe(wanted.layer);
        if (wanted.cosine === null) expect(found[index].cosine).toBeNaN();
        else expect(found[index].cosine).toBeCloseTo(wanted.cosine, 9);
        expect(found[index].error).toBeCloseTo(wanted.error as number, 9);
      }
    });

    it("loses nothing with a window as long as the tape", () => {
      for (const { error } of truncated(tape, tape.T)) expect(error).toBeLessThan(1e-6);
    });
  },
);

it("refuses layers that dropout hides", () => {
  const { tape } = golden("both_ways_dropped");
  expect(() => finish(reach(tape, tape.layers[0]))).toThrow(Problem);
  expect(norms(tape, tape.layers[2]).some((value) => value > 0)).toBe(true);
});

it("fits the rate of a gradient that halves with each step", () => {
  const T = 12;
  const halves = Float64Array.from({ length: T * T }, (_, index) => {
    const [t, k] = [Math.floor(index / T), index % T];
    return k > t ? 0 : 3 * 0.5 ** (t - k);
  });
  const sources = Array.from({ length: T }, (_, t) => t);
  const { rate, steps, curve } = byLag(halves, T, sources, -1);
  expect(rate).toBeCloseTo(0.5, 12);
  expect(steps).toBe(7);
  expect(curve[3]).toBeCloseTo(0.125, 12);
});

it("knows no share of a norm that overflows", () => {
  const norms = Float64Array.of(1, 0, 0, Number.POSITIVE_INFINITY, 1, 0, 0.25, 0.5, 1);
  expect(byLag(norms, 3, [0, 1, 2], -1).curve).toEqual([1, Number.NaN, 0.25]);
});

it("is measured by the nearest state that a loss asks anything of", () => {
  const norms = Float64Array.of(0, 0, 0, 2, 0, 0, 1, 4, 0);
  const { nearest, curve, steps } = byLag(norms, 3, [0, 1, 2], -1);
  expect({ nearest, curve, steps }).toEqual({ nearest: 1, curve: [Number.NaN, 1, 0.25], steps: -1 });
});

it("draws the fitted line where the curve lies, not from 100 %", () => {
  const norms = Float64Array.of(1, 0, 0, 0.5, 1, 0, 0.05, 0.5, 1);
  const { rate, start, curve } = byLag(norms, 3, [0, 1, 2], -1);
  expect(curve).toEqual([1, 0.5, 0.05]);
  expect(rate).toBeCloseTo(Math.sqrt(0.05), 12);
  expect(start * rate).toBeCloseTo((1 * 0.5 * 0.05) ** (1 / 3), 12);
});

describe("a curve above a floor", () => {
  it.each([
    [
      "lies above it",
      [1, 0.1, 0.01],
      [
        [
          [0, 1],
          [1, 0.1],
          [2, 0.01],
        ],
      ],
    ],
    [
      "ends where it sinks below it",
      [1, 0.01, 1e-6, 1e-9],
      [
        [
          [0, 1],
          [1, 0.01],
          [1.25, 1e-3],
        ],
      ],
    ],
    [
      "comes back",
      [1, 1e-4, 1e-2],
      [
        [
          [0, 1],
          [0.75, 1e-3],
        ],
        [
          [1.5, 1e-3],
          [2, 1e-2],
        ],
      ],
    ],
    [
      "falls to nothing",
      [1, 0.1, 0, 0],
      [
        [
          [0, 1],
          [1, 0.1],
          [1, 1e-3],
        ],
      ],
    ],
    [
      "begins at nothing",
      [0, 0.1],
      [
        [
          [1, 1e-3],
          [1, 0.1],
        ],
      ],
    ],
    ["has a gap", [1, Number.NaN, 0.1], [[[0, 1]], [[2, 0.1]]]],
  ])("%s", (_, curve, runs) => {
    const found = above(curve, 1e-3);
    expect(found.map((run) => run.length)).toEqual(runs.map((run) => run.length));
    for (const [index, point] of found.flat().entries())
      for (const axis of [0, 1]) expect(point[axis]).toBeCloseTo(runs.flat()[index][axis], 12);
  });
});

describe("a network on its own answers", () => {
  it("is right in every number and reads what it said", () => {
    for (const tape of [word, golden("window").tape, lstm, golden("peephole").tape, golden("two_memories").tape]) {
      const free = runFree(tape);
      expect(finish(verify(free)).wrong).toEqual([]);
      for (let t = 1; t < free.T; t++) expect(fedBy(free, t)).not.toBe("none");
    }
  });

  it("parts from the truth where its answer was wrong", () => {
    const free = runFree(word);
    const step = parting(word, free);
    expect(step).toBeGreaterThan(0);
    expect(fedBy(free, step)).toBe("own");
    for (let t = 1; t < word.T; t++) expect(fedBy(word, t)).toBe("truth");
  });

  it("is not offered where outputs cannot be inputs", () => {
    expect(cannotRunFree(golden("numbers").tape)).not.toBe("");
    expect(cannotRunFree(golden("both_ways").tape)).not.toBe("");
    expect(cannotRunFree(stacked)).toBe("");
    expect(() => runFree(golden("numbers").tape)).toThrow(Problem);
  });
});

describe("saturated units", () => {
  it.each([
    ["tanh", [0, 0.95, -0.95, 0.951, -0.951, 1], 3],
    ["σ", [0.05, 0.95, 0.5, 0.049, 0.951, 0, 1], 4],
    ["relu", [0, 1e-300, 0.01, 5], 1],
  ])("of %s are counted by its value", (name, values, count) => {
    expect(values.filter(FUNCTIONS[name].saturates?.at as (y: number) => boolean).length).toBe(count);
  });

  it("are a share of the units at each step, of every value that has any", () => {
    const [layer] = lstm.layers;
    const f = new Float64Array(lstm.T * layer.H).fill(0.5);
    f.set([0.01, 0.99, 0.5, 0.95], 2 * layer.H);
    const found = saturation(lstm, { ...layer, arrays: new Map([...layer.arrays, ["f", f]]) });
    expect(found.map(({ name, words }) => `${name}: ${words}`)).toEqual([
      "i: σ below 0.05 or above 0.95",
      "f: σ below 0.05 or above 0.95",
      "g: tanh beyond ±0.95",
      "q: σ below 0.05 or above 0.95",
      "u: tanh beyond ±0.95",
    ]);
    expect(found[1].shares).toEqual([0, 0, 0.5, 0, 0, 0, 0]);
  });

  it("of a relu are those that are zero", () => {
    const { tape } = golden("numbers");
    const [layer] = tape.layers;
    const cell = { ...layer.cell, functions: { ...layer.cell.functions, φ: "relu" } };
    const h = new Float64Array(tape.T * layer.H).fill(0.5);
    h[0] = 0;
    expect(saturation(tape, { ...layer, cell, arrays: new Map([...layer.arrays, ["h", h]]) })).toEqual([
      { name: "h", words: "relu at 0", shares: Array.from({ length: tape.T }, (_, t) => (t === 0 ? 1 / layer.H : 0)) },
    ]);
  });
});
