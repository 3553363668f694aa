// The line of the sheet that made a number, or the part of it that did.

import { isGradient, letterOf } from "./address.ts";
import type { Notation } from "./notation.ts";
import { type Cell, type Expression, type Line, type Name, termsOf, type Words } from "./sheet.ts";
import { edgeBefore, type Layer, layersAbove, onward, type Tape, topLayers } from "./tape.ts";
import type { Explanation } from "./terms.ts";
import { ANY, type Time, type Token } from "./writing.ts";

/** How steps are written around step t of a layer: by their numbers. */
export function timeAt(tape: Tape, layer: Layer | undefined, t: number | null): Time {
  if (t === null) return ANY;
  return (step) => String(tape.first + t + 1 + step * (layer ? onward(layer) : 1));
}

const EQUALS: Words = { w: " = " };

/** The equation that made a number, with its step in it; empty for numbers that were given. */
export function equationOf(tape: Tape, notation: Notation, { address, kind, tag }: Explanation): Token[] {
  if (kind === "given") return [];
  const layer = tape.layers[address.layer];
  const time = timeAt(tape, layer, address.t);
  if (!layer) {
    const parts = aroundParts(tape, topLayers(tape)[0].cell, address.name, tag);
    return parts ? notation.parts(parts, time) : [];
  }
  const { cell } = layer;
  const letter = letterOf(address.name);
  if (!isGradient(address.name)) {
    const line = cell.a.find(({ parts, tag }) => tag <= "A3" && Array.isArray(parts[0]) && parts[0][1] === letter);
    return line && line.tag > "A1" ? notation.line(line, time) : [];
  }
  if (address.t === null) {
    const line = cell.back.get(letter);
    return line ? notation.line(line, time) : [];
  }
  const isFirst = address.t === edgeBefore(tape, layer);
  const left: Name = ["d", letter, 0];
  const uses = (cell.back.get(letter)?.terms ?? []).filter(
    ({ from }) => from[0] !== "o" && (!isFirst || from[1] === 1),
  );
  const own = isFirst ? [] : ownParts(tape, layer, letter);
  if (address.name.startsWith("own."))
    return [{ glyph: notation.glyph(left, time, "own") }, ...notation.parts([EQUALS, ...own], time)];
  const later = uses.flatMap(({ value }, place): (Expression | Words)[] => {
    if (own.length === 0 && place === 0) return [value];
    const [[sign, term], ...others] = termsOf(value);
    return sign < 0 && others.length === 0 ? [{ w: " − " }, term] : [{ w: " + " }, value];
  });
  return notation.parts([left, EQUALS, ...own, ...later], time);
}

/** What the own part of a gradient is made of, as the sheet writes it or in words. */
function ownParts(tape: Tape, layer: Layer, letter: string): (Expression | Words)[] {
  if (!layer.arrays.has(`own.${letter}`)) return [];
  if (letter === layer.cell.output && layer.above === "output") {
    const use = layer.cell.back.get(letter)?.terms?.find(({ from }) => from[0] === "o");
    return use ? [use.value] : [];
  }
  if (letter !== layer.cell.output || layer.above === "outside") return [{ w: "what comes from above" }];
  const above = layersAbove(tape, layer);
  return [["d", "x", 0], { w: `(layer ${above[0].layer + 1}${above.length > 1 ? ", both ways" : ""})` }];
}

/** The network around the cells, which is known by name. */
function aroundParts(tape: Tape, cell: Cell, name: string, tag: string): (Expression | Words)[] | null {
  if (name === "loss") return [["n", "loss", 0], EQUALS, ["f", "loss", ["n", "ŷ", 0], ["n", "y", 0]]];
  const lines: Line[] = [...cell.a, ...cell.b];
  const found = lines.find((line) => line.tag === tag)?.parts;
  if (!found) return null;
  if (name === "d.o" && tape.loss === "squared_error") return [found[0], found[1], 2, ...found.slice(2)];
  if (name === "o" && !tape.b_o) return [found[0], found[1], termsOf(found[2] as Expression)[0][1]];
  return found;
}
