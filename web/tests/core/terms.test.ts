import { describe, expect, it } from "vitest";
import {
  type Address,
  AROUND,
  around,
  at,
  inPython,
  known,
  NETWORK,
  read,
  sizes,
  valueAt,
} from "../../src/core/address.ts";
import { number } from "../../src/core/format.ts";
import { edgeBefore, isWhole, outputOf, type Tape } from "../../src/core/tape.ts";
import { explain, shares } from "../../src/core/terms.ts";
import { golden, goldens, lstm, word } from "./golden.ts";

function* everyNumber(tape: Tape): Generator<Address> {
  const all = tape.layers.flatMap((layer) =>
    known(layer).map((name) => ({
      of: (t: number, i: number, j: number) => at(layer, name, t, i, j),
      name,
      layer: layer.position,
    })),
  );
  const network = AROUND.map((name) => ({
    of: (t: number, i: number, j: number) => around(name, t, i, j),
    name,
    layer: NETWORK,
  }));
  for (const { of, name, layer } of [...all, ...network]) {
    const [rows = 1, columns] = sizes(tape, { name, layer });
    const edge = layer < 0 ? 0 : edgeBefore(tape, tape.layers[layer]);
    for (const t of [edge, ...Array.from({ length: tape.T }, (_, step) => step)])
      for (let i = 0; i < rows; i++)
        for (let j = columns === undefined ? -1 : 0; j < (columns ?? 0); j++) {
          const address = of(t, i, j);
          if (valueAt(tape, address) !== undefined && (address.t !== null || t === 0)) yield address;
        }
  }
}

describe.each(goldens)("$name", ({ tape, expected }) => {
  it("has terms that sum to each number, within rounding", () => {
    let count = 0;
    for (const address of everyNumber(tape)) {
      const explanation = explain(tape, address);
      expect(explanation, JSON.stringify(address)).toBeDefined();
      if (!explanation || explanation.kind === "given") continue;
      count++;
      expect(
        explanation.residual,
        `${JSON.stringify(address)} ${explanation.value} ${explanation.derived}`,
      ).toBeLessThanOrEqual(explanation.bound);
    }
    expect(count).toBeGreaterThan(10 * tape.T);
  });

  it("gives no number as given that the sheet has an equation for", () => {
    for (const address of everyNumber(tape)) {
      const layer = tape.layers[address.layer];
      if (!layer || address.t === null || address.t < 0 || address.t >= tape.T || address.name.startsWith("own."))
        continue;
      const isGiven = layer.cell.inputs.includes(address.name);
      expect(explain(tape, address)?.kind === "given", JSON.stringify(address)).toBe(isGiven);
    }
  });

  it("finds the terms that plain torch finds", () => {
    for (const { address, tag, terms, value, python } of expected.terms) {
      const found = read(tape, address, 0);
      expect(found, address).toBeDefined();
      const explanation = explain(tape, found as Address);
      expect(explanation?.tag, address).toBe(tag);
      expect(inPython(tape, found as Address), address).toBe(python);
      expect(explanation?.value, address).toBe(value);
      const own = (explanation?.terms ?? []).map((term) => term.value);
      expect(own.length, address).toBe(terms.length);
      for (const [index, term] of terms.entries())
        expect(Math.abs(own[index] - term), address).toBeLessThanOrEqual(
          16 * tape.eps * Math.max(1e-3, Math.abs(term)),
        );
    }
  });

  it("leads from every term to another number or to an end", () => {
    for (const address of everyNumber(tape))
      for (const term of explain(tape, address)?.terms ?? [])
        for (const factor of term.factors) if (factor.address) expect(valueAt(tape, factor.address)).toBe(factor.value);
  });
});

it.each([
  ["an Elman cell", word, ["dW_hh,2,3", "da@4,3", "dh@4,3", "do@4,1", "loss@4"]],
  ["an LSTM", lstm, ["dW_hf,2,3", "daf@6,3", "df@6,3", "dc@6,3", "dc@7,3", "du@7,3", "dh@7,3", "do@7,1", "loss@7"]],
])("leads from a weight's gradient of %s to one character's loss by taking terms", (_, tape, path) => {
  const steps = path.map((text) => read(tape, text, 0) as Address);
  for (const [index, address] of steps.slice(0, -1).entries()) {
    const explanation = explain(tape, address);
    const linked = [
      ...(explanation?.terms ?? []).flatMap((term) => term.factors.map((factor) => factor.address)),
      ...(explanation?.related ?? []).map(({ address }) => address),
    ];
    expect(linked).toContainEqual(steps[index + 1]);
  }
});

it("says beside the loss of a step with what weight it is a part of L", () => {
  for (const { tape } of goldens.filter(({ tape }) => tape.loss)) {
    const t = Array.from({ length: tape.T }, (_, step) => step).find((step) => outputOf(tape, step) >= 0) as number;
    const part = explain(tape, around("L", null))?.terms.find((term) => term.t === t)?.value as number;
    expect(explain(tape, around("loss", t))?.related).toEqual([
      { address: around("w", t), words: `its weight in L, where it adds ${number(part)}` },
      {
        address: around("L", null),
        words: `the sum of w · loss over all steps${tape.rows > 1 ? " and rows" : ""}`,
      },
    ]);
    expect(explain(tape, around("w", t))?.related.map(({ address }) => address)).toEqual([
      around("loss", t),
      around("L", null),
    ]);
  }
});

const groups = (tape: Tape, text: string) => {
  const explanation = explain(tape, read(tape, text, 0) as Address);
  return (explanation ? shares(explanation) : []).map(({ group }) => [group.hue, group.from?.[0] ?? null]);
};

it("splits ∂h into what this step and what the next one sends back", () => {
  const explanation = explain(word, at(word.layers[0], "d.h", 0, 1));
  const [own, later] = explanation ? shares(explanation) : [];
  expect([own.group.hue, later.group.hue]).toEqual(["here", "there"]);
  expect(own.value).toBeCloseTo(valueAt(word, at(word.layers[0], "own.h", 0, 1)) as number, 14);
  expect(own.value + later.value).toBeCloseTo(explanation?.value as number, 14);
});

it("tells the way through the memory of an LSTM from the way through its gates", () => {
  expect(groups(lstm, "dc@3,1")).toEqual([
    ["here", "u"],
    ["there", "c"],
  ]);
  expect(groups(lstm, "dh@3,1")).toEqual([["here", "o"], ...["ai", "af", "ag", "aq"].map((gate) => ["there", gate])]);
  expect(groups(lstm, "c@3,1").map(([hue]) => hue)).toEqual(["there", "here"]);
});

it("ends at the first states", () => {
  expect(explain(lstm, read(lstm, "dc@0,2", 0) as Address)?.terms.length).toBe(1);
  expect(explain(lstm, read(lstm, "dh@0,2", 0) as Address)?.tag).toBe("B11");
  expect(explain(lstm, read(lstm, "c@0,2", 0) as Address)?.words).toBe("the state the sequence begins with");
});

it("names what other steps and rows add to a sum as a term of its own", () => {
  const { tape } = golden("window");
  expect(isWhole(tape)).toBe(false);
  const explanation = explain(tape, at(tape.layers[0], "d.W_hh", null, 0, 0));
  const words = explanation?.terms.map((term) => explanation.groups[term.group].words);
  expect(words).toEqual([...Array(tape.T).fill(""), "steps and rows not shown"]);
});
