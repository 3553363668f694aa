// What the player gives away as Python is run by Python: every copy prints the number, and the number derived again.

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type Address, AROUND, around, at, known, NETWORK, sizes, valueAt } from "../../src/core/address.ts";
import { code } from "../../src/core/code.ts";
import { asNumPy } from "../../src/core/copy.ts";
import { edgeBefore, type Tape } from "../../src/core/tape.ts";
import { explain } from "../../src/core/terms.ts";
import { goldens } from "./golden.ts";

/** The last entry of every quantity, at the first step, in the middle, and before the first. */
function some(tape: Tape): Address[] {
  const last = (name: string, layer: number): [number, number] => {
    const [rows = 1, columns] = sizes(tape, { name, layer });
    return [rows - 1, columns === undefined ? -1 : columns - 1];
  };
  const steps = [0, tape.T >> 1];
  const own = tape.layers.flatMap((layer) =>
    known(layer).flatMap((name) =>
      [...steps, edgeBefore(tape, layer)].map((t) => at(layer, name, t, ...last(name, layer.position))),
    ),
  );
  const network = AROUND.flatMap((name) => steps.map((t) => around(name, t, ...last(name, NETWORK))));
  return [...own, ...network].filter((address) => valueAt(tape, address) !== undefined);
}

const copies = goldens.flatMap(({ name, tape }) =>
  some(tape).map((address) => {
    const explanation = explain(tape, address);
    return { name, tape, explanation, text: explanation ? asNumPy(tape, explanation) : "" };
  }),
);
/** Lines of every layer whose gradients are those of one row, except under a loss that the tape does not know. */
const codes = goldens.flatMap(({ name, tape: { layers, ...tape } }) =>
  layers
    .filter(({ above }) => tape.rows === 1 && (above !== "output" || tape.loss))
    .map(({ position }) => ({
      name,
      position,
      lines: code({ layers, ...tape }, position)
        .map(({ text }) => text)
        .join("\n"),
    })),
);
const root = fileURLToPath(new URL("../../../", import.meta.url));
const ran = spawnSync(`${root}.venv/bin/python`, [`${root}web/tests/copies.py`], {
  input: JSON.stringify({ copies: copies.map(({ name, text }) => [name, text]), codes: codes.map(Object.values) }),
  encoding: "utf8",
  maxBuffer: 1e8,
});

it("can be run", () => expect(ran.stderr.split("\n").slice(-6).join("\n")).toBe(""));

const printed = ran.status === 0 ? JSON.parse(ran.stdout) : { copies: [], codes: [] };

describe.each(goldens.map(({ name }) => name))("%s", (golden) => {
  it("prints each number as it stands on the tape, and once more derived from its terms", () => {
    let derived = 0;
    for (const [index, { name, tape, explanation, text }] of copies.entries()) {
      if (name !== golden || !explanation) continue;
      const [value, again] = printed.copies[index] ?? [];
      expect(value, text).toBe(explanation.value);
      if (again === undefined) continue;
      derived++;
      const size = explanation.terms.reduce((sum, term) => sum + Math.abs(term.value), Math.abs(value));
      expect(Math.abs(again - value), text).toBeLessThanOrEqual(1e3 * tape.eps * size);
    }
    expect(derived).toBeGreaterThan(15);
  });
});

it.each(codes.map(({ name, position }, place) => [name, position, place] as const))(
  "the lines for %s, layer at %d, give the gradients that are on the tape",
  (_, __, place) => {
    for (const [parameter, apart] of Object.entries(printed.codes[place] ?? { none: 1 }))
      expect(apart, parameter).toBeLessThan(1e-9);
  },
);
