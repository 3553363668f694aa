import { describe, expect, it } from "vitest";
import {
  type Address,
  at,
  GRADIENT_NAMES,
  inPython,
  type Name,
  read,
  STEP_NAMES,
  sizes,
  valueAt,
} from "../../src/core/address.ts";
import { number } from "../../src/core/format.ts";
import { isWhole, outputOf, type Tape } from "../../src/core/tape.ts";
import { explain, shares } from "../../src/core/terms.ts";
import { goldens, word } from "./golden.ts";

const EVERY: Name[] = [...STEP_NAMES, ...GRADIENT_NAMES, "W_xh", "W_hh", "b_h", "W_ho", "b_o", "dh0", "L", "h_before"];

function* everyNumber(tape: Tape): Generator<Address> {
  for (const layer of tape.layers)
    for (const name of EVERY) {
      const [rows = 1, columns] = sizes(tape, name, layer);
      for (let t = 0; t < tape.T; t++)
        for (let i = 0; i < rows; i++)
          for (let j = columns === undefined ? -1 : 0; j < (columns ?? 0); j++) {
            const address = at(name, layer.position, t, i, j);
            if (valueAt(tape, address) !== undefined) yield address;
            if (address.t < 0) break;
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

  it("finds the terms that plain torch finds", () => {
    for (const { address, tag, terms, value, python } of expected.terms) {
      const found = read(tape, address, 0);
      expect(found, address).toBeDefined();
      const explanation = explain(tape, found as Address);
      expect(explanation?.tag, address).toBe(tag);
      expect(inPython(tape, found as Address), address).toBe(python);
      expect(explanation?.value, address).toBeCloseTo(value, 6);
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

it("leads from a weight's gradient to one character's loss by taking terms", () => {
  const steps = ["dW_hh,2,3", "da@4,3", "dh@4,3", "do@4,1", "loss@4"].map((text) => read(word, text, 0) as Address);
  for (const [index, address] of steps.slice(0, -1).entries()) {
    const explanation = explain(word, address);
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
    const part = explain(tape, at("L", 0, -1))?.terms.find((term) => term.t === t)?.value as number;
    expect(explain(tape, at("loss", 0, t))?.related).toEqual([
      { address: at("w", 0, t), words: `its weight in L, where it adds ${number(part)}` },
      {
        address: at("L", 0, -1),
        words: `the sum of w · loss over all steps${tape.rows > 1 ? " and rows" : ""}`,
      },
    ]);
    expect(explain(tape, at("w", 0, t))?.related.map(({ address }) => address)).toEqual([
      at("loss", 0, t),
      at("L", 0, -1),
    ]);
  }
});

it("splits ∂h into own output and future", () => {
  const explanation = explain(word, at("dh", 0, 0, 1));
  const [own, future] = shares(explanation?.terms ?? []);
  expect(own.group).toBe("own");
  expect(future.group).toBe("future");
  expect(own.value).toBeCloseTo(valueAt(word, at("own", 0, 0, 1)) as number, 14);
  expect(future.value).toBeCloseTo(valueAt(word, at("future", 0, 0, 1)) as number, 14);
});

it("names what other steps and rows add to a sum as a term of its own", () => {
  const { tape } = goldens.find(({ name }) => name === "window") as { tape: Tape };
  expect(isWhole(tape)).toBe(false);
  const terms = explain(tape, at("dW_hh", 0, -1, 0, 0))?.terms ?? [];
  expect(terms.map((term) => term.group)).toEqual([...Array(tape.T).fill("step"), "rest"]);
});
