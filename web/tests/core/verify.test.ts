import { describe, expect, it } from "vitest";
import { at, valueAt } from "../../src/core/address.ts";
import { isWhole, Problem, readTape, type Tape } from "../../src/core/tape.ts";
import { explain } from "../../src/core/terms.ts";
import { notFinite, type Verdict, verify } from "../../src/core/verify.ts";
import { golden, goldens } from "./golden.ts";

function verdictOf(tape: Tape): Verdict {
  let step = verify(tape).next();
  const numbers = verify(tape);
  while (!step.done) step = numbers.next();
  return step.value;
}

describe.each(goldens)("$name", ({ tape }) => {
  it("is found right in every number", () => {
    const verdict = verdictOf(tape);
    expect(verdict.wrong).toEqual([]);
    expect(verdict.done).toBe(true);
    const states = tape.layers.reduce((sum, layer) => sum + 4 * tape.T * layer.H, 0);
    expect(verdict.count).toBeGreaterThanOrEqual(states);
    if (isWhole(tape)) expect(verdict.count).toBeGreaterThan(states + tape.layers[0].H ** 2);
    expect(verdict.worst).toBeLessThanOrEqual(verdict.bound);
  });

  it.each(["a", "h", "dh", "da", "dh_direct", "W_hh"] as const)("is found wrong where %s is", (name) => {
    const layer = tape.layers[0];
    const broken: Tape = { ...tape, layers: tape.layers.map((each) => ({ ...each })) };
    const array = layer[name].slice();
    array[array.length - 1] += 0.01;
    broken.layers[0][name] = array;
    expect(verdictOf(broken).wrongCount).toBeGreaterThan(0);
  });
});

it("agrees with the explanation of single numbers", () => {
  for (const { tape } of goldens) {
    const { where, worst } = verdictOf(tape);
    const explanation = where && explain(tape, where);
    if (explanation && explanation.kind !== "given")
      expect(explanation.residual).toBeLessThanOrEqual(explanation.bound);
    expect(worst).toBeGreaterThanOrEqual(0);
  }
});

it("says where numbers stop being finite", () => {
  const { tape } = golden("word");
  const layer = { ...tape.layers[0], h: tape.layers[0].h.slice(), dh: tape.layers[0].dh.slice() };
  layer.h[2 * layer.H + 1] = Number.NaN;
  layer.dh[0] = Number.POSITIVE_INFINITY;
  const broken = { ...tape, layers: [layer] };
  expect(notFinite(tape)).toEqual({ count: 0, first: null });
  expect(notFinite(broken)).toEqual({ count: 2, first: at("h", 0, 2, 1) });
});

describe("a damaged page", () => {
  const { raw } = golden("word");
  const arrays = raw.arrays as Record<string, { dtype: string; shape: number[]; data: string }>;
  const refused = (change: (copy: typeof raw & { arrays: typeof arrays }) => void) => {
    const copy = structuredClone(raw) as typeof raw & { arrays: typeof arrays };
    change(copy);
    expect(() => readTape(copy)).toThrow(Problem);
  };
  it("is refused for another schema", () => refused((copy) => (copy.schema = 2)));
  it("is refused for text that is not JSON", () => expect(() => readTape("{")).toThrow(Problem));
  it.each([null, 3, [], "null", undefined])("is refused for %s", (value) =>
    expect(() => readTape(value)).toThrow(Problem),
  );
  it("is refused without layers", () => refused((copy) => (copy.layers = [])));
  it("is refused with a loss that nobody knows", () => refused((copy) => (copy.loss = "hinge")));
  it.each(Object.keys(arrays))("is refused where %s is cut short", (name) =>
    refused((copy) => (copy.arrays[name].data = copy.arrays[name].data.slice(0, -8))),
  );
  it.each(["a", "h", "da", "dh", "x", "W_hh", "h_before"])("is refused without %s", (name) =>
    refused((copy) => delete copy.arrays[`layers.0.forward.${name}`]),
  );
  it.each(["o", "y_hat", "loss", "do", "w", "targets", "L", "W_ho"])("is refused without %s", (name) =>
    refused((copy) => delete copy.arrays[name]),
  );
  it("is refused with a class outside the outputs", () =>
    refused(
      (copy) =>
        (copy.arrays.targets.data = btoa(String.fromCharCode(...new Uint8Array(new Int32Array([0, 1, 2, 9]).buffer)))),
    ));
  it("is read from binary arrays too", () => {
    const copy = structuredClone(raw) as { arrays: Record<string, { data: unknown }> };
    for (const entry of Object.values(copy.arrays)) {
      const bytes = Uint8Array.from(atob(entry.data as string), (character) => character.charCodeAt(0));
      entry.data = new DataView(bytes.buffer);
    }
    expect(valueAt(readTape(copy), at("h", 0, 1, 1))).toBe(valueAt(readTape(raw), at("h", 0, 1, 1)));
  });
});
