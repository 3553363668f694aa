// Prints how long one step of the cursor takes to redraw on tapes of 256 steps and 128 units, elman and lstm.
//
//     CHROMIUM=/usr/bin/chromium npm run redraw

import { fileURLToPath } from "node:url";
import { chromium } from "@playwright/test";

const STEPS = 100;
const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args });
const page = await browser.newPage({ viewport: { width: 1280, height: 860 } });

for (const [name, what, hash] of [
  ["large", "elman, side A, nothing asked", "#t=60"],
  ["large", "elman, side B, one number asked", "#t=60&side=B&sel=dh,7"],
  ["large_lstm", "lstm, side A, nothing asked", "#t=60"],
  ["large_lstm", "lstm, side B, one number asked", "#t=60&side=B&sel=dh,7"],
]) {
  await page.goto(`file://${fileURLToPath(new URL(`../golden/${name}.html`, import.meta.url))}${hash}`);
  await page.reload();
  await page.locator(".badge", { hasText: "derived again here" }).waitFor();
  await page.locator(".answer").waitFor();
  const times = await page.evaluate(async (steps) => {
    const found = [];
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    for (let step = 0; step < steps; step++) {
      await frame();
      const start = performance.now();
      window.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      await Promise.resolve();
      document.body.getBoundingClientRect();
      const laidOut = performance.now();
      await frame();
      found.push([laidOut - start, performance.now() - start]);
    }
    return found;
  }, STEPS);
  const at = (column, share) => {
    const sorted = times.map((row) => row[column]).sort((one, other) => one - other);
    return sorted[Math.floor(share * (sorted.length - 1))].toFixed(1);
  };
  console.log(
    `${what}: script and layout ${at(0, 0.5)} ms (95 % within ${at(0, 0.95)}), until painted ${at(1, 0.5)} ms (95 % within ${at(1, 0.95)})`,
  );
}
await browser.close();
