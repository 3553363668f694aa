// What the reader is looking at: one cursor, one side, one selection that all views share.

import { type Address, at, isGradient, letterOf, NETWORK, same, sideOf, valueAt } from "../core/address.ts";
import type { Theme } from "../core/colour.ts";
import { Notation } from "../core/notation.ts";
import { type Reach, reach } from "../core/reach.ts";
import { initial, type Part, type Side, type View } from "../core/state.ts";
import { cannotRunFree, runFree } from "../core/sweep.ts";
import { type Layer, Problem, type Tape } from "../core/tape.ts";
import { notFinite, type Verdict, verify } from "../core/verify.ts";
import { ANY, type Glyph } from "../core/writing.ts";
import { inSlices } from "./slices.ts";

type Forcing = "truth" | "own";

export class Player {
  readonly truth: Tape;
  view: View = $state() as View;
  forcing = $state<Forcing>("truth");
  playing = $state(false);
  theme = $state<Theme>("light");
  /** Bumped when a number is asked about, so that a narrow page can scroll to the answer. */
  asked = $state(0);
  verdict = $state.raw<Verdict | null>(null);
  /** Every loss traced back to the states of the chosen layer, as soon as that is done; why it cannot be. */
  reach = $state.raw<Reach | null>(null);
  traced = $state(0);
  refused = $state("");
  /** The state that the reader follows back. */
  through = $state("");
  /** Whether gates are shown of the chosen unit alone. */
  isSingle = $state(false);
  /** Learning rate for "what would this weight become". */
  rate = $state(0.1);
  private free = $state.raw<Tape | null>(null);
  readonly tape = $derived.by(() => (this.forcing === "own" && this.free ? this.free : this.truth));
  readonly layer: Layer = $derived.by(() => this.tape.layers[this.view.layer]);
  readonly notation = $derived.by(() => new Notation(this.truth.layers[0].cell, this.view.notation));
  readonly broken = $derived.by(() => notFinite(this.tape));
  readonly whyNotFree: string;

  constructor(tape: Tape, view: View = initial(tape)) {
    this.truth = tape;
    this.view = view;
    this.whyNotFree = cannotRunFree(tape);
  }

  /** A quantity of the chosen layer: h_t, ∂h_t, W_hh. */
  symbol(name: string, time = ANY): Glyph {
    const own = name.startsWith("own.") ? "own" : "";
    const isTimed = at(this.layer, name, 0).t !== null;
    return this.notation.glyph([isGradient(name) ? "d" : "n", letterOf(name), isTimed ? 0 : undefined], time, own);
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
    if (view.selection && view.selection.t !== null) {
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
    const { selection } = view;
    if (!selection || sideOf(selection.name) === side) return;
    const isAround = selection.layer === NETWORK;
    const answer = this.tape.y_hat ? "y_hat" : "o";
    const other = isAround
      ? { o: "d.o", y_hat: "d.o", "d.o": answer }[selection.name]
      : isGradient(selection.name)
        ? letterOf(selection.name)
        : `d.${selection.name}`;
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
    if (address.t !== null) {
      view.t = Math.max(0, Math.min(this.tape.T - 1, address.t));
      view.side = sideOf(address.name);
    }
    if (address.layer !== NETWORK) view.layer = address.layer;
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

  /** The unit that is selected, of whatever width its row is, or the first. */
  get unit(): number {
    const { selection } = this.view;
    return selection && selection.t !== null && selection.layer !== NETWORK ? selection.i : 0;
  }

  /** Of which unit gates are shown; −1 for the mean of all. */
  get gated(): number {
    return this.isSingle ? this.unit : -1;
  }

  /** What a question begins with: the first unit of the output, or its gradient. */
  get start(): Address {
    const { output } = this.layer.cell;
    return at(this.layer, this.view.side === "A" ? output : `d.${output}`, this.view.t);
  }

  /** Up and down: the entry before or after the selected one. */
  moveSelection(by: number): void {
    const selection = this.view.selection ?? { ...this.start, i: -by };
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

  /** Traces all losses back, a few milliseconds at a time; returns what stops it. */
  trace(): () => void {
    const { tape, layer } = this;
    this.reach = null;
    this.refused = "";
    this.traced = 0;
    return inSlices(reach(tape, layer), {
      progress: (t) => {
        this.traced = t / tape.T;
      },
      done: (result) => {
        this.reach = result;
      },
      failed: (error) => {
        if (!(error instanceof Problem)) throw error;
        this.refused = error.message;
      },
    });
  }

  close(): void {
    this.stopVerifying();
  }
}
