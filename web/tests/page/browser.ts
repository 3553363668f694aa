// One Chromium for all tests: started before the first of them, closed after the last. Each test has a context of its own.

import { chromium } from "@playwright/test";

export default async function start(): Promise<() => Promise<void>> {
  const server = await chromium.launchServer({
    executablePath: process.env.CHROMIUM,
    args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
  });
  process.env.CHROMIUM_SERVER = server.wsEndpoint();
  return () => server.close();
}
