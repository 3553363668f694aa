import { vitePreprocess } from "@sveltejs/vite-plugin-svelte";
import { transform } from "lightningcss";

/** Styles travel inside the script, so they are minified before Svelte sees them. */
const smallStyles = {
  name: "small-styles",
  style: ({ content, filename }) => {
    const { code } = transform({
      filename: filename ?? "",
      code: Buffer.from(content),
      minify: true,
      nonStandard: { deepSelectorCombinator: true },
      customAtRules: {},
    });
    return { code: code.toString() };
  },
};

export default {
  preprocess: [vitePreprocess({ style: false }), smallStyles],
  compilerOptions: { runes: true, css: "injected", cssHash: ({ hash, css }) => `_${hash(css).slice(0, 3)}` },
};
