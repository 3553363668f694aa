// Where the player lives: the only place that knows how a tape arrives and who else moves the cursor.

import type { View } from "../core/state.ts";
import type { Tape } from "../core/tape.ts";

export interface Host {
  /** Whether the page belongs to the player, its keyboard and scrolling included. */
  wholePage: boolean;
  /** The view to begin with. */
  read(tape: Tape): View;
  /** Tells the outside what is looked at. */
  write(tape: Tape, view: View): void;
  /** Calls back when the outside wants another view; returns what stops that. */
  changed(tape: Tape, callback: (view: View) => void): () => void;
}
