import { describe, expect, it } from "vitest";
import { type Address, around, at, inPython, known, read, valueAt, written } from "../../src/core/address.ts";
import { contrast, css, diverging, scaled, textOn } from "../../src/core/colour.ts";
import { asNumber, asNumPy, asTex, glyphOf, indexOf } from "../../src/core/copy.ts";
import { exact, number, visible, visibleText } from "../../src/core/format.ts";
import { Notation } from "../../src/core/notation.ts";
import { isName, type Line } from "../../src/core/sheet.ts";
import { fromHash, initial, toHash } from "../../src/core/state.ts";
import { edgeBefore } from "../../src/core/tape.ts";
import { type Explanation, explain } from "../../src/core/terms.ts";
import { ANY, plainText, tex, textOf } from "../../src/core/writing.ts";
import { golden, goldens, lstm, stacked, word } from "./golden.ts";

const [layer] = word.layers;

describe("numbers", () => {
  it.each([
    [0.000615, "6.15e−4"],
    [0.25, "0.25"],
    [-12.3456, "−12.35"],
    [0, "0"],
    [1234567, "1.235e6"],
    [Number.NaN, "NaN"],
    [Number.NEGATIVE_INFINITY, "−∞"],
    [0.1 + 0.2, "0.3000"],
  ])("%d is written %s", (value, text) => expect(number(value)).toBe(text));

  it("are copied so that they read back to the bit", () => {
    for (const value of [0.1, 1 / 3, 123456.789, 1e-30])
      expect(Math.fround(Number(exact(Math.fround(value), true)))).toBe(Math.fround(value));
    expect(exact(1 / 3, false)).toBe(String(1 / 3));
  });
});

describe("symbols from outside", () => {
  it.each([
    [" ", "␣"],
    ["\n", "↵"],
    ["\u202e", "U+202E"],
    ["\u200b", "U+200B"],
    ["\u0301", "U+0301"],
    ["\ud800", "U+D800"],
    ["🙂", "🙂"],
    ["a", "a"],
    ["", "∅"],
  ])("%j is shown as %s", (symbol, text) => expect(visible(symbol)).toBe(text));

  it("stay short", () => {
    expect(visible("x".repeat(1e6)).length).toBeLessThan(20);
    expect(visibleText("y".repeat(1e6), 40)).toBe(`${"y".repeat(40)}…`);
  });
});

describe("addresses", () => {
  it("come back from text", () => {
    for (const { tape } of goldens) {
      const last = tape.layers[tape.layers.length - 1];
      const steps = [-1, 0, 1, tape.T];
      const names = known(last).flatMap((name) => [...steps.map((t) => at(last, name, t)), at(last, name, null, 0, 0)]);
      const all = [...names, around("d.o", 1), around("y_hat", 1), around("L", null), around("d.W_ho", null, 0, 1)];
      for (const address of all) {
        if (valueAt(tape, address) !== undefined) expect(read(tape, written(tape, address), 0)).toEqual(address);
      }
    }
    expect(read(word, "da,3", 2)).toEqual(at(layer, "d.a", 2, 2));
    expect(written(word, at(layer, "d.a", 2, 2), 2)).toBe("da,3");
    expect(written(word, at(layer, "d.h", -1, 2), 2)).toBe("dh@0,3");
  });
  it.each(["", "da,99", "nothing,1", "da@77,1", "9:h,1", "h,0", "__proto__,1", "<img>"])("%j means no number", (text) =>
    expect(read(word, text, 0)).toBeUndefined(),
  );
  it("mean no number where the steps beside those shown end", () => {
    const { tape } = golden("window");
    const steps = ["10", "11", "22", "23", "3", "9", "24", "99"];
    const found = (name: string) => steps.map((step) => read(tape, `${name}@${step},1`, 0) !== undefined);
    expect(found("h")).toEqual([true, true, true, false, false, false, false, false]);
    expect(found("da")).toEqual([false, true, true, true, false, false, false, false]);
  });
  it("name the number in Python", () => {
    expect(inPython(word, at(layer, "d.a", 2, 1))).toBe('tape.layers[0].totals["a"][2, 0, 1]');
    expect(inPython(stacked, at(stacked.layers[1], "d.W_hh", null, 1, 2))).toBe('tape.layers[1].grad("W_hh")[1, 2]');
  });
});

describe("the hash", () => {
  it("remembers what is seen", () => {
    for (const { tape } of goldens) {
      const view = {
        ...initial(tape),
        t: 1,
        side: "B" as const,
        selection: at(tape.layers[0], `d.${tape.layers[0].cell.output}`, 1, 2),
        trail: [0, 1, edgeBefore(tape, tape.layers[0])].map((t) =>
          at(tape.layers[0], tape.layers[0].cell.output, t, 1),
        ),
        notation: "pytorch",
        gate: "all",
        window: 2,
      };
      expect(fromHash(tape, toHash(tape, view))).toEqual(view);
    }
    expect(toHash(word, { ...initial(word), t: 1, side: "B", selection: at(layer, "d.a", 1, 2) })).toBe(
      "#t=2&side=B&sel=da,3",
    );
  });
  it.each(["#t=99&side=C&sel=zz&notation=constructor&window=-1", "#%E0%A4%A", "#t=1e9", "garbage"])(
    "%j leaves the start",
    (hash) => expect(fromHash(word, hash)).toEqual(initial(word)),
  );
  it("hides parts for teaching", () =>
    expect(fromHash(word, "#hide=code,reach,nonsense").hidden).toEqual(["reach", "code"]));
});

it("knows no names but those of the cell", () => {
  const { cell } = layer;
  const notation = new Notation(cell, "pytorch");
  for (const name of ["constructor", "toString"]) {
    expect([cell.constants[name], cell.given[name], cell.widths[name], cell.shapes[name]]).toEqual(
      Array(4).fill(undefined),
    );
    expect(plainText(notation.glyph(["n", name], () => ""))).toBe(name);
    expect(read(word, `${name},1`, 0)).toBeUndefined();
  }
});

describe("symbols", () => {
  const notation = new Notation(word.layers[0].cell, "bptt");
  it.each([
    [["d", "h", 0], "\\partial h_{3}"],
    [["n", "ŷ", 0], "\\hat{y}_{3}"],
    [["n", "W_hh"], "W_{hh}"],
    [["n", "ζ"], "\\zeta "],
    [["n", "af", 0], "\\mathrm{af}_{3}"],
  ] as const)("%j is put out as TeX", ([kind, name, step], text) =>
    expect(tex(notation.glyph([kind, name, step], () => "3"))).toBe(text),
  );
});

it.each([
  ["h", "h_t = q_t ⊙ u_t"],
  ["ai", "ai_t = x_t W_xi + h_t−1 W_hi + b_i"],
  ["i", "i_t = σ(ai_t)"],
] as const)("the line of %s is written as text", (name, text) => {
  const { cell } = lstm.layers[0];
  const line = cell.a.find(({ parts: [left] }) => isName(left) && left[1] === name && left[2] === 0) as Line;
  expect(textOf(new Notation(cell, "bptt").line(line, ANY))).toBe(text);
});

describe("copies", () => {
  const { cell } = layer;
  it("say which layer a number belongs to where there are several", () => {
    expect(plainText(glyphOf(stacked, new Notation(cell, "bptt"), at(stacked.layers[1], "h", 1, 0)))).toBe("h_2^⟨2⟩");
  });
  const explanation = explain(word, at(layer, "d.h", 1, 0)) as Explanation;
  it("hold the number, the equation and the way to derive it", () => {
    expect(Number(asNumber(word, explanation))).toBe(explanation.value);
    expect(asTex(word, new Notation(cell, "bptt"), explanation)).toMatch(/^\\partial h_\{2\}\{\[1\]\} = .*\\cdot/);
    expect(asNumPy(word, explanation)).toContain('tape.layers[0].totals["h"][1, 0, 0]');
  });
  it("hold what is more than one name as TeX, too", () => {
    const own = explain(lstm, read(lstm, "daq@2,1", 0) as Address) as Explanation;
    expect(asTex(lstm, new Notation(lstm.layers[0].cell, "bptt"), own)).toContain("(1 - q_{2})");
  });
  it("name numbers by the notation", () => {
    expect(plainText(glyphOf(word, new Notation(cell, "posts"), at(layer, "h", 1, 0)))).toBe("a(2)");
    expect(indexOf(word, at(layer, "W_hh", null, 1, 2))).toBe("[2,3]");
  });
});

describe("colours", () => {
  it.each(["light", "dark"] as const)("can be read in the %s theme", (theme) => {
    for (let value = -1; value <= 1; value += 0.05) {
      const background = diverging(value, theme);
      if (background)
        expect(contrast(background, textOn(background, theme)), css(background)).toBeGreaterThanOrEqual(4.5);
    }
  });
  it("are symmetric scales", () => {
    expect(scaled(-2, 4, "all")).toBe(-0.5);
    expect(scaled(0, 4, "log")).toBe(0);
    expect(scaled(-4, 4, "log")).toBe(-1);
    expect(scaled(1, 0, "all")).toBe(0);
  });
});
