// What the reader is looking at: one cursor, one side, one selection that all views share.

import { type Address, at, isOfStep, same, sideOf, valueAt } from "../core/address.ts";
import type { Theme } from "../core/colour.ts";
import { Notation } from "../core/notation.ts";
import { initial, type Part, type Side, type View } from "../core/state.ts";
import { cannotRunFree, runFree } from "../core/sweep.ts";
import type { Layer, Tape } from "../core/tape.ts";
import { notFinite, type Verdict, verify } from "../core/verify.ts";
import { inSlices } from "./slices.ts";

export type Forcing = "truth" | "own";

export class Player {
  readonly truth: Tape;
  view: View = $state() as View;
  forcing = $state<Forcing>("truth");
  playing = $state(false);
  theme = $state<Theme>("light");
  /** Bumped when a number is asked about, so that a narrow page can scroll to the answer. */
  asked = $state(0);
  verdict = $state.raw<Verdict | null>(null);
  /** Learning rate for "what would this weight become". */
  rate = $state(0.1);
  private free = $state.raw<Tape | null>(null);
  readonly tape = $derived.by(() => (this.forcing === "own" && this.free ? this.free : this.truth));
  readonly layer: Layer = $derived.by(() => this.tape.layers[this.view.layer]);
  readonly notation = $derived.by(() => new Notation(this.truth, this.view.notation));
  readonly broken = $derived.by(() => notFinite(this.tape));
  readonly whyNotFree: string;

  constructor(tape: Tape, view: View = initial(tape)) {
    this.truth = tape;
    this.view = view;
    this.whyNotFree = cannotRunFree(tape);
  }

  shows(part: Part): boolean {
    return !this.view.hidden.includes(part);
  }

  /** Moves the cursor; the selected number goes along. */
  go(t: number): void {
    const { view, tape } = this;
    const step = Math.max(0, Math.min(tape.T - 1, t));
    if (step === view.t) return;
    view.t = step;
    if (view.selection && isOfStep(view.selection.name)) {
      const moved = { ...view.selection, t: step };
      view.selection = valueAt(tape, moved) === undefined ? null : moved;
      view.trail = [];
    }
  }

  /** One step in the direction in which this side runs; false at its end. */
  advance(): boolean {
    const next = this.view.t + this.direction;
    if (next < 0 || next >= this.tape.T) return false;
    this.go(next);
    return true;
  }

  /** +1 where the chosen layer's numbers of this side follow each other from left to right. */
  get direction(): 1 | -1 {
    return (this.layer.direction === "forward") === (this.view.side === "A") ? 1 : -1;
  }

  /** The other side; a selected number makes way for its counterpart there. */
  flip(side: Side = this.view.side === "A" ? "B" : "A"): void {
    const { view } = this;
    if (side === view.side) return;
    view.side = side;
    const counterpart: Record<string, Address["name"]> = {
      h: "dh",
      a: "da",
      x: "dx",
      y_hat: "do",
      o: "do",
      dh: "h",
      da: "a",
      dx: "x",
      do: "y_hat",
    };
    const { selection } = view;
    if (!selection || sideOf(selection.name) === side) return;
    const other = counterpart[selection.name];
    const address = other ? { ...selection, name: other } : null;
    view.selection = address && valueAt(this.tape, address) !== undefined ? address : null;
    view.trail = [];
  }

  /** Asks where a number comes from. `onward` keeps the number asked about before on the trail. */
  ask(address: Address, onward = false): void {
    const { view } = this;
    if (valueAt(this.tape, address) === undefined) return;
    const before = view.selection;
    if (before && same(before, address)) return;
    if (onward && before) {
      const known = view.trail.findIndex((earlier) => same(earlier, address));
      view.trail = known >= 0 ? view.trail.slice(0, known) : [...view.trail, before];
    } else view.trail = [];
    view.selection = address;
    if (isOfStep(address.name)) {
      view.t = address.t;
      view.side = sideOf(address.name);
    }
    if (!["o", "y_hat", "y", "w", "loss", "do", "L"].includes(address.name) && !address.name.endsWith("o"))
      view.layer = address.layer;
    this.asked++;
  }

  /** Back along the trail. */
  back(): void {
    const { view } = this;
    const last = view.trail[view.trail.length - 1];
    if (!last) {
      view.selection = null;
      return;
    }
    const rest = view.trail.slice(0, -1);
    this.ask(last);
    view.trail = rest;
  }

  /** The unit that is selected, or the first. */
  get unit(): number {
    const { selection } = this.view;
    const byUnit = ["a", "h", "dh", "own", "future", "slope", "da", "h_before", "dh0", "da_after"];
    return selection && byUnit.includes(selection.name) ? Math.min(selection.i, this.layer.H - 1) : 0;
  }

  /** Up and down: the entry before or after the selected one. */
  moveSelection(by: number): void {
    const selection = this.view.selection ?? at(this.view.side === "A" ? "h" : "dh", this.view.layer, this.view.t, -by);
    const along = selection.j >= 0 ? { ...selection, j: selection.j + by } : { ...selection, i: selection.i + by };
    if (valueAt(this.tape, along) !== undefined) this.ask(along);
  }

  force(forcing: Forcing): void {
    if (forcing === "own") this.free ??= runFree(this.truth);
    this.forcing = forcing;
    this.verifyAll();
  }

  private stopVerifying: () => void = () => {};

  /** Derives every number again, a few milliseconds at a time. */
  verifyAll(): void {
    this.stopVerifying();
    this.verdict = null;
    this.stopVerifying = inSlices(verify(this.tape), {
      progress: (verdict) => {
        this.verdict = { ...verdict };
      },
      done: (verdict) => {
        this.verdict = { ...verdict };
      },
    });
  }

  close(): void {
    this.stopVerifying();
  }
}
