// The page: its tape stands in a script element, its view in the hash.

import { fromHash, toHash } from "../core/state.ts";
import { open } from "./open.ts";

const target = document.getElementById("player");
const source = document.getElementById("tape")?.textContent ?? "";
document.body.style.margin = "0";
if (target)
  open(target, source, {
    wholePage: true,
    read: (tape) => fromHash(tape, location.hash),
    write: (tape, view) => {
      try {
        history.replaceState(null, "", toHash(tape, view));
      } catch {
        // A page inside another page's srcdoc has no address to change.
      }
    },
    changed: (tape, callback) => {
      const follow = () => callback(fromHash(tape, location.hash));
      addEventListener("hashchange", follow);
      return () => removeEventListener("hashchange", follow);
    },
  });
