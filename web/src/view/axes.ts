// Axes of plots: shares by powers of ten, and steps with what was read there.

import { number, percent, visible } from "../core/format.ts";
import { above } from "../core/reach.ts";
import { inputClass, type Tape } from "../core/tape.ts";

/** The power of ten below which no curve is followed. */
const FLOOR = -12;

/** Room for these shares and lines beside them, from one height to another. */
export function decades(shares: number[], beside: number[], top: number, bottom: number) {
  const positive = shares.filter((share) => share > 0);
  const low = Math.max(FLOOR, Math.min(-2, Math.floor(Math.log10(Math.min(...positive)))));
  const high = Math.max(0, Math.log10(Math.max(...positive, ...beside.filter(Number.isFinite))));
  const floor = 10 ** low;
  const y = (share: number) => top + ((bottom - top) * (high - Math.log10(share))) / (high - low);
  const apart = Math.max(1, Math.ceil((high - low) / 6));
  const powers = Array.from({ length: Math.floor(high) - low + 1 }, (_, index) => low + index);
  const ticks = powers
    .filter((power) => power % apart === 0)
    .map((power) => {
      const share = 10 ** power;
      const label = power > 0 ? `×${number(share)}` : floor < 9e-5 ? number(share, 1) : percent(share);
      return { y: y(share), label };
    });
  const path = (curve: number[], x: (place: number) => number) =>
    above(curve, floor)
      .map((run) => `M${run.map(([place, share]) => `${x(place).toFixed(1)} ${y(share).toFixed(1)}`).join("L")}`)
      .join("");
  return { y, ticks, floor, isCut: low === FLOOR, path };
}

/** The width of one character of a label. */
const CHARACTER = 7.3;

/** A label for some of the steps: every symbol that was read if all have room, else round numbers of steps. */
export function labels(tape: Tape, across: number): string[] {
  const read = Array.from({ length: tape.T }, (_, t) => inputClass(tape, t)).map((index) =>
    index < 0 ? "" : visible(tape.vocabulary?.[index] ?? String(index + 1)),
  );
  const wide = (text: string) => CHARACTER * text.length + 4;
  if (read.every((symbol) => symbol !== "" && wide(symbol) <= across)) return read;
  const apart = wide(String(tape.first + tape.T)) / across;
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((steps) => steps >= apart) ?? tape.T;
  return read.map((_, t) => ((tape.first + t + 1) % every === 0 ? String(tape.first + t + 1) : ""));
}
