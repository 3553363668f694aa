// The keyboard, the same in a page and in a notebook.

import type { Player } from "./player.svelte.ts";

/** Listens on the page or on the widget's own element; returns what stops it. */
export function keys(target: Window | HTMLElement, player: Player, help: () => void): () => void {
  const press = (event: Event) => {
    const { key, ctrlKey, metaKey, altKey, target: on } = event as KeyboardEvent;
    if (ctrlKey || metaKey || altKey) return;
    const element = on instanceof HTMLElement ? on : null;
    if (element?.matches("input[type=number], textarea, select")) return;
    if (element?.matches("input[type=range]") && (key.startsWith("Arrow") || key === "Home" || key === "End")) return;
    if (key === " " && element?.matches("button")) return;
    const act = actions(player, help)[key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  };
  target.addEventListener("keydown", press);
  return () => target.removeEventListener("keydown", press);
}

function actions(player: Player, help: () => void): Record<string, () => void> {
  const { tape, view } = player;
  return {
    ArrowLeft: () => player.go(view.t - 1),
    ArrowRight: () => player.go(view.t + 1),
    ArrowUp: () => player.moveSelection(-1),
    ArrowDown: () => player.moveSelection(1),
    Home: () => player.go(0),
    End: () => player.go(tape.T - 1),
    " ": () => {
      if (!player.playing && !player.advance()) player.go(player.direction > 0 ? 0 : tape.T - 1);
      player.playing = !player.playing;
    },
    b: () => player.flip(),
    Backspace: () => player.back(),
    Escape: () => {
      player.playing = false;
      view.selection = null;
      view.trail = [];
    },
    "?": help,
  };
}
