import { describe, expect, it } from "vitest";
import { type Address, at, same, valueAt } from "../../src/core/address.ts";
import { countOf } from "../../src/core/evaluate.ts";
import { type Floats, isWhole, Problem, readTape, type Tape } from "../../src/core/tape.ts";
import { type Explanation, explain } from "../../src/core/terms.ts";
import { finish, notFinite, verify } from "../../src/core/verify.ts";
import { golden, goldens } from "./golden.ts";

const verdictOf = (tape: Tape) => finish(verify(tape));

describe.each(goldens)("$name", ({ tape }) => {
  it("is found right in every number", () => {
    const verdict = verdictOf(tape);
    expect(verdict.wrong).toEqual([]);
    expect(verdict.done).toBe(true);
    const arrays = tape.layers.flatMap((layer) => layer.cell.steps.map(({ name }) => layer.arrays.get(name) as Floats));
    const states = arrays.reduce((sum, array) => sum + 2 * array.length, 0);
    expect(verdict.count).toBeGreaterThanOrEqual(states);
    if (isWhole(tape)) expect(verdict.count).toBeGreaterThan(states + (tape.dW_ho?.length ?? 0));
    expect(verdict.worst).toBeLessThanOrEqual(verdict.bound);
  });

  const [layer] = tape.layers;
  const isSummed = (key: string) => key.startsWith("d.") && at(layer, key, 0).t === null;
  it.each([...layer.arrays.keys()].filter((key) => isWhole(tape) || !isSummed(key)))(
    "is found wrong where %s is",
    (key) => {
      const wrong = broken(tape, key);
      const { wrong: found, wrongCount } = verdictOf(wrong);
      expect(wrongCount).toBeGreaterThan(0);
      for (const address of found) expect(isRight(wrong, address), JSON.stringify(address)).toBe(false);
      const layer = wrong.layers[0];
      for (const { name } of layer.cell.steps)
        for (const near of [name, `d.${name}`, `own.${name}`]) {
          const address = at(layer, near, 1);
          if (valueAt(wrong, address) === undefined || wrongCount > found.length) continue;
          expect(
            found.some((each) => same(each, address)),
            near,
          ).toBe(!isRight(wrong, address));
        }
    },
  );
});

/** The same tape with every number of an array of the first layer off by something else. */
function broken(tape: Tape, key: string): Tape {
  const [layer, ...others] = tape.layers;
  const array = (layer.arrays.get(key) as Floats).map((value, k) => value + 0.01 * (k + 1));
  return { ...tape, layers: [{ ...layer, arrays: new Map([...layer.arrays, [key, array]]) }, ...others] };
}

function isRight(tape: Tape, address: Address): boolean {
  const { residual, bound } = explain(tape, address) as Explanation;
  return residual <= bound;
}

it.each([
  ["word", "a", 4 + 4],
  ["numbers", "a", 1 + 3],
  ["gru", "m", 4],
  ["lstm", "af", 4],
  ["lstm", "c", 3],
  ["two_memories", "us", 9],
  ["two_memories", "r", 1],
])("counts the roundings of one entry: in %s of %s %d", (name, value, count) => {
  const [layer] = golden(name).tape.layers;
  expect(countOf(layer, layer.cell.steps.find((each) => each.name === value)?.value ?? 0)).toBe(count);
});

it("says where numbers stop being finite", () => {
  const { tape } = golden("word");
  const [layer] = tape.layers;
  const [h, dh] = [(layer.arrays.get("h") as Floats).slice(), (layer.arrays.get("d.h") as Floats).slice()];
  h[2 * layer.H + 1] = Number.NaN;
  dh[0] = Number.POSITIVE_INFINITY;
  const broken = { ...tape, layers: [{ ...layer, arrays: new Map([...layer.arrays, ["h", h], ["d.h", dh]]) }] };
  expect(notFinite(tape)).toEqual({ count: 0, first: null });
  expect(notFinite(broken)).toEqual({ count: 2, first: at(layer, "h", 2, 1) });
});

describe("a damaged page", () => {
  const { raw } = golden("word");
  const arrays = raw.arrays as Record<string, { dtype: string; shape: number[]; data: string }>;
  const refused = (change: (copy: typeof raw & { arrays: typeof arrays }) => void) => {
    const copy = structuredClone(raw) as typeof raw & { arrays: typeof arrays };
    change(copy);
    expect(() => readTape(copy)).toThrow(Problem);
  };
  it("is refused for another schema", () => refused((copy) => (copy.schema = 1)));
  it("is refused for text that is not JSON", () => expect(() => readTape("{")).toThrow(Problem));
  it.each([null, 3, [], "null", undefined])("is refused for %s", (value) =>
    expect(() => readTape(value)).toThrow(Problem),
  );
  it("is refused without cells", () => refused((copy) => delete (copy as Record<string, unknown>).cells));
  it("is refused with a cell that says nothing", () => refused((copy) => Object.assign(copy, { cells: [{}] })));
  it("is refused with an array that no equation has", () =>
    refused((copy) => (copy.arrays["layers.0.forward.zz"] = copy.arrays["layers.0.forward.h"])));
  it("is refused without layers", () => refused((copy) => (copy.layers = [])));
  it("is refused with a loss that nobody knows", () => refused((copy) => (copy.loss = "hinge")));
  it.each(Object.keys(arrays))("is refused where %s is cut short", (name) =>
    refused((copy) => (copy.arrays[name].data = copy.arrays[name].data.slice(0, -8))),
  );
  it.each(["a", "h", "d.a", "d.h", "own.h", "x", "W_hh", "before.h"])("is refused without %s", (name) =>
    refused((copy) => delete copy.arrays[`layers.0.forward.${name}`]),
  );
  it.each(["o", "y_hat", "loss", "d.o", "w", "targets", "L", "W_ho"])("is refused without %s", (name) =>
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
    const [own, other] = [readTape(copy), readTape(raw)];
    const address = at(own.layers[0], "h", 1, 1);
    expect(valueAt(own, address)).toBe(valueAt(other, address));
  });
});
