// Two bundles from one source: the script inside a page (IIFE) and the widget's module (ESM). `--mode page|widget`.

import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Nothing in the script may look like markup to the page that it stands in. */
const inert: Plugin = {
  name: "inert-in-html",
  generateBundle(_, bundle) {
    for (const chunk of Object.values(bundle)) {
      if (chunk.type !== "chunk") continue;
      chunk.code = chunk.code.replace(/<(?=\/script|script|!--)/gi, "\\x3C");
    }
  },
};

export default defineConfig(({ mode }) => {
  const format = mode === "widget" ? "es" : "iife";
  return {
    plugins: [svelte({ emitCss: false }), inert],
    build: {
      target: "es2022",
      outDir: process.env.BUNDLE || "../src/bptt/tape/bundle",
      emptyOutDir: false,
      minify: true,
      lib: { entry: `src/hosts/${mode}.ts`, formats: [format], name: "player", fileName: () => `${mode}.js` },
      rolldownOptions: { output: { minify: true } },
    },
  };
});
