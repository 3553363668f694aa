// The page in Debian's Chromium (or another that CHROMIUM names); nothing is downloaded.

import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: "tests/page",
  globalSetup: "./tests/page/browser.ts",
  fullyParallel: true,
  workers: 2,
  timeout: 60_000,
  expect: { timeout: 20_000 },
  reporter: "line",
  use: {
    viewport: { width: 1280, height: 860 },
    connectOptions: { wsEndpoint: process.env.CHROMIUM_SERVER ?? "" },
  },
});
