// Puts the player, or a message, into an element.

import { mount, unmount } from "svelte";
import { Problem, readTape } from "../core/tape.ts";
import Message from "../view/Message.svelte";
import Page from "../view/Page.svelte";
import type { Host } from "./host.ts";

/** Returns what takes it away again. */
export function open(target: HTMLElement, source: unknown, host: Host): () => void {
  const app = (() => {
    try {
      return mount(Page, { target, props: { tape: readTape(source), host } });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return mount(Message, { target, props: { text: error.message } });
    }
  })();
  return () => {
    void unmount(app);
  };
}
