// Long work in short slices, so that the page stays alive meanwhile.

const SLICE = 12;
/** The longest that work waits for the browser to be idle, where the browser knows. */
const PATIENCE = 200;

function later(slice: () => void): () => void {
  if ("requestIdleCallback" in window) {
    const waiting = window.requestIdleCallback(slice, { timeout: PATIENCE });
    return () => window.cancelIdleCallback(waiting);
  }
  const waiting = setTimeout(slice, 0);
  return () => clearTimeout(waiting);
}

/** Runs a generator to its end, a few milliseconds at a time; returns what stops it. */
export function inSlices<Step, Result>(
  work: Generator<Step, Result>,
  tell: { progress?: (step: Step) => void; done: (result: Result) => void; failed?: (error: unknown) => void },
): () => void {
  const slice = () => {
    const end = performance.now() + SLICE;
    try {
      for (;;) {
        const step = work.next();
        if (step.done) return tell.done(step.value);
        if (performance.now() < end) continue;
        tell.progress?.(step.value);
        break;
      }
    } catch (error) {
      if (!tell.failed) throw error;
      return tell.failed(error);
    }
    stop = later(slice);
  };
  let stop = later(slice);
  return () => stop();
}
