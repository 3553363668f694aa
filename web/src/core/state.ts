// What a link to a page remembers: `#t=5&side=B&sel=da,3`. Everything counts from 1, as on the page.

import { type Address, read, written } from "./address.ts";
import type { ScaleKind } from "./colour.ts";
import { gates, keptStates } from "./kept.ts";
import { names } from "./sheet.ts";
import type { Tape } from "./tape.ts";

export type Side = "A" | "B";
const PARTS = [
  "text",
  "network",
  "numbers",
  "output",
  "heat",
  "reach",
  "kept",
  "weight",
  "code",
  "ask",
  "badge",
  "controls",
] as const;
export type Part = (typeof PARTS)[number];
const COLOURINGS = ["loss", "unit", "dh", "none"] as const;
export type Colouring = (typeof COLOURINGS)[number];

export interface View {
  t: number;
  side: Side;
  /** Position in `Tape.layers`. */
  layer: number;
  selection: Address | null;
  /** The numbers asked about on the way to the selection. */
  trail: Address[];
  notation: string;
  colouring: Colouring;
  /** The gate whose marks stand over the symbols; "all" and "none". */
  gate: string;
  scale: ScaleKind;
  /** Steps in a window of truncated BPTT; 0 for the whole tape. */
  window: number;
  /** Parts of the page that are hidden, for teaching. */
  hidden: Part[];
}

export function initial(tape: Tape): View {
  const { cell } = tape.layers[tape.layers.length - 1];
  const keeping = keptStates(cell).flatMap(([, much]) => [...names(much)].map(([, name]) => name));
  return {
    t: 0,
    side: "A",
    layer: tape.layers.findIndex((layer) => layer.layer === tape.layers[tape.layers.length - 1].layer),
    selection: null,
    trail: [],
    notation: "bptt",
    colouring: tape.lossOf ? "loss" : "unit",
    gate: gates(cell).find((name) => keeping.includes(name)) ?? "none",
    scale: "all",
    window: 0,
    hidden: [],
  };
}

export function toHash(tape: Tape, view: View): string {
  const start = initial(tape);
  const parts: [string, string][] = [["t", String(tape.first + view.t + 1)]];
  if (view.side !== start.side) parts.push(["side", view.side]);
  if (view.layer !== start.layer) parts.push(["layer", layerName(tape, view.layer)]);
  if (view.selection) parts.push(["sel", written(tape, view.selection, view.t)]);
  if (view.trail.length > 0) parts.push(["trail", view.trail.map((address) => written(tape, address)).join(";")]);
  if (view.notation !== start.notation) parts.push(["notation", view.notation]);
  if (view.colouring !== start.colouring) parts.push(["colour", view.colouring]);
  if (view.gate !== start.gate) parts.push(["gate", view.gate]);
  if (view.scale !== start.scale) parts.push(["scale", view.scale]);
  if (view.window > 0) parts.push(["window", String(view.window)]);
  if (view.hidden.length > 0) parts.push(["hide", view.hidden.join(",")]);
  return `#${parts.map(([key, value]) => `${key}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3B/g, ";").replace(/%40/g, "@").replace(/%3A/g, ":")}`).join("&")}`;
}

/** The view a hash describes; what is missing or makes no sense on this tape is as at the start. */
export function fromHash(tape: Tape, hash: string): View {
  const view = initial(tape);
  const given = new Map<string, string>();
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [key, value = ""] = part.split("=", 2);
    given.set(key, decoded(value));
  }
  const t = Number(given.get("t")) - 1 - tape.first;
  if (Number.isInteger(t) && t >= 0 && t < tape.T) view.t = t;
  if (given.get("side") === "B") view.side = "B";
  const layer = tape.layers.findIndex((_, position) => layerName(tape, position) === given.get("layer"));
  if (layer >= 0) view.layer = layer;
  view.selection = read(tape, given.get("sel") ?? "", view.t) ?? null;
  view.trail = (given.get("trail") ?? "").split(";").flatMap((text) => read(tape, text, view.t) ?? []);
  const notation = (given.get("notation") ?? "").toLowerCase();
  if (Object.hasOwn(tape.layers[0].cell.notations, notation)) view.notation = notation;
  const colouring = COLOURINGS.find((known) => known === given.get("colour"));
  if (colouring) view.colouring = colouring;
  const gate = given.get("gate") ?? "";
  if (["all", "none"].includes(gate) || tape.layers.some(({ cell }) => gates(cell).includes(gate))) view.gate = gate;
  const scale = given.get("scale");
  if (scale === "step" || scale === "log") view.scale = scale;
  const window = Number(given.get("window") ?? 0);
  if (Number.isInteger(window) && window > 0 && window < tape.T) view.window = window;
  const hide = (given.get("hide") ?? "").split(",");
  view.hidden = PARTS.filter((part) => hide.includes(part));
  return view;
}

/** "1", or "1r" for the direction that reads backwards. */
export function layerName(tape: Tape, position: number): string {
  const layer = tape.layers[position];
  return `${layer.layer + 1}${layer.direction === "reverse" ? "r" : ""}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}
