// The notebook widget: the tape arrives as binary arrays, cursor, side and selection are shared with Python.

import { read, written } from "../core/address.ts";
import { initial, type View } from "../core/state.ts";
import type { Tape } from "../core/tape.ts";
import { open } from "./open.ts";

/** What anywidget hands in, as far as it is used here. */
interface Model {
  get(key: string): unknown;
  set(key: string, value: unknown): void;
  save_changes(): void;
  on(event: string, callback: () => void): void;
  off(event: string, callback: () => void): void;
}

const SHARED = ["cursor", "side", "selection"];

function viewOf(model: Model, tape: Tape, before: View): View {
  const t = Math.max(0, Math.min(tape.T - 1, Number(model.get("cursor")) - 1 - tape.first || 0));
  const text = String(model.get("selection") ?? "");
  const selection = text ? (read(tape, text, t) ?? null) : null;
  return { ...before, t, side: model.get("side") === "B" ? "B" : "A", selection, trail: [] };
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  let latest: View | null = null;
  return open(el, model.get("_tape"), {
    wholePage: false,
    read: (tape) => viewOf(model, tape, initial(tape)),
    write: (tape, view) => {
      latest = view;
      const values = {
        cursor: tape.first + view.t + 1,
        side: view.side,
        selection: view.selection ? written(tape, view.selection, view.t) : "",
      };
      const moved = Object.entries(values).filter(([key, value]) => model.get(key) !== value);
      for (const [key, value] of moved) model.set(key, value);
      if (moved.length > 0) model.save_changes();
    },
    changed: (tape, callback) => {
      const follow = () => {
        const before = latest ?? initial(tape);
        const view = viewOf(model, tape, before);
        const same =
          view.t === before.t &&
          view.side === before.side &&
          model.get("selection") === (before.selection ? written(tape, before.selection, before.t) : "");
        if (!same) callback(view);
      };
      for (const key of SHARED) model.on(`change:${key}`, follow);
      return () => {
        for (const key of SHARED) model.off(`change:${key}`, follow);
      };
    },
  });
}

export default { render };
