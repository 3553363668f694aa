// Long work in short slices, so that the page stays alive meanwhile.

const SLICE = 12;

/** Runs a generator to its end, a few milliseconds at a time; returns what stops it. */
export function inSlices<Step, Result>(
  work: Generator<Step, Result>,
  tell: { progress?: (step: Step) => void; done: (result: Result) => void; failed?: (error: unknown) => void },
): () => void {
  let timer = 0;
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
    timer = window.setTimeout(slice, 0);
  };
  timer = window.setTimeout(slice, 0);
  return () => window.clearTimeout(timer);
}
