import { readdirSync, readFileSync } from "node:fs";
import { readTape, type Tape } from "../../src/core/tape.ts";

export interface Golden {
  name: string;
  tape: Tape;
  raw: Record<string, unknown>;
  expected: {
    terms: { address: string; tag: string; terms: number[]; value: number; python: string }[];
    reach: Record<string, number[][]>[];
    truncated: Record<string, { layer: number; name: string; cosine: number | null; error: number | null }[]>;
  };
}

/** A tape is there as data and as a page. */
const folder = readdirSync(new URL("../../golden/", import.meta.url));
const names = folder.filter((file) => file.endsWith(".json") && folder.includes(file.replace(".json", ".html")));

export function golden(name: string): Golden {
  const file = new URL(`../../golden/${name}.json`, import.meta.url);
  const { tape, expected } = JSON.parse(readFileSync(file, "utf8"));
  return { name, tape: readTape(tape), raw: tape, expected };
}

export const goldens = names.map((file) => golden(file.replace(".json", "")));
export const word = golden("word").tape;
export const lstm = golden("lstm").tape;
export const stacked = golden("stacked").tape;
