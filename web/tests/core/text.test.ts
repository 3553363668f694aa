import { describe, expect, it } from "vitest";
import { at, inPython, read, written } from "../../src/core/address.ts";
import { contrast, css, diverging, scaled, textOn } from "../../src/core/colour.ts";
import { asNumber, asNumPy, asTex, glyphOf, indexOf } from "../../src/core/copy.ts";
import { exact, number, visible, visibleText } from "../../src/core/format.ts";
import { Notation, plainText, tex } from "../../src/core/notation.ts";
import { fromHash, initial, toHash } from "../../src/core/state.ts";
import { type Explanation, explain } from "../../src/core/terms.ts";
import { goldens, stacked, word } from "./golden.ts";

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
    for (const { tape } of goldens)
      for (const address of [at("da", 0, 2, 1), at("dW_hh", 0, -1, 1, 2), at("h", tape.layers.length - 1, 1, 2)])
        expect(read(tape, written(tape, address), 0)).toEqual(address);
    expect(read(word, "da,3", 2)).toEqual(at("da", 0, 2, 2));
    expect(written(word, at("da", 0, 2, 2), 2)).toBe("da,3");
  });
  it.each(["", "da,99", "nothing,1", "da@77,1", "9:h,1", "h,0", "__proto__,1", "<img>"])("%j means no number", (text) =>
    expect(read(word, text, 0)).toBeUndefined(),
  );
  it("name the number in Python", () => {
    expect(inPython(word, at("da", 0, 2, 1))).toBe("tape.da[2, 0, 1]");
    expect(inPython(stacked, at("dW_hh", 1, -1, 1, 2))).toBe('tape.grad("W_hh", layer=1)[1, 2]');
  });
});

describe("the hash", () => {
  it("remembers what is seen", () => {
    for (const { tape } of goldens) {
      const view = {
        ...initial(tape),
        t: 1,
        side: "B" as const,
        selection: at("da", 0, 1, 2),
        trail: [at("dW_hh", 0, -1, 0, 1)],
        notation: "PyTorch",
        window: 2,
      };
      expect(fromHash(tape, toHash(tape, view))).toEqual(view);
    }
    expect(toHash(word, { ...initial(word), t: 1, side: "B", selection: at("da", 0, 1, 2) })).toBe(
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

describe("notations", () => {
  it("put out TeX", () => {
    const notation = new Notation(word, "here");
    expect(tex(notation.ofName("dh", "3"))).toBe("\\partial h_{3}");
    expect(tex(notation.ofName("y_hat", "3"))).toBe("\\hat{y}_{3}");
  });
});

describe("copies", () => {
  it("say which layer a number belongs to where there are several", () => {
    expect(plainText(glyphOf(stacked, new Notation(stacked, "here"), at("h", 1, 1, 0)))).toBe("h_2^⟨2⟩");
  });
  const explanation = explain(word, at("dh", 0, 1, 0)) as Explanation;
  it("hold the number, the equation and the way to derive it", () => {
    expect(Number(asNumber(word, explanation))).toBe(explanation.value);
    expect(asTex(word, new Notation(word, "here"), explanation)).toMatch(/^\\partial h_\{2\}\{\[1\]\} = .*\\cdot/);
    expect(asNumPy(word, explanation)).toContain("tape.dh[1, 0, 0]");
  });
  it("name numbers by the notation", () => {
    expect(plainText(glyphOf(word, new Notation(word, "side A/B posts"), at("h", 0, 1, 0)))).toBe("a(2)");
    expect(indexOf(at("W_hh", 0, -1, 1, 2))).toBe("[2,3]");
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
