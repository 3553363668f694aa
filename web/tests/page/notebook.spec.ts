import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test } from "@playwright/test";
import { asked } from "./open.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));
let server: ChildProcess;
let port: number;

const free = () =>
  new Promise<number>((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });

test.beforeAll(async () => {
  test.setTimeout(90_000);
  port = await free();
  const command = [
    "run",
    "web/tests/notebooks/sync.py",
    "--headless",
    "--no-token",
    "--host",
    "127.0.0.1",
    "--port",
    String(port),
  ];
  server = spawn(`${root}.venv/bin/marimo`, command, {
    cwd: root,
    env: { ...process.env, PYTHONPATH: `${root}tests` },
    stdio: "ignore",
  });
  await expect
    .poll(async () => (await fetch(`http://127.0.0.1:${port}/health`).catch(() => null))?.ok ?? false, {
      timeout: 60_000,
    })
    .toBe(true);
});

test.afterAll(() => {
  server.kill();
});

test("in marimo, cursor, side and selection are shared with Python both ways", async ({ page }) => {
  test.setTimeout(120_000);
  await page.goto(`http://127.0.0.1:${port}/`);
  await expect(page.locator(".badge")).toContainText("derived again here", { timeout: 60_000 });
  await page.getByRole("button", { name: "Step right" }).click();
  await expect(page.getByText("python sees step 2 side A number []")).toBeVisible();
  await page.locator(".player").press("b");
  await page.locator(".player").press("ArrowDown");
  await expect(page.getByText("python sees step 2 side B number [dh,1]")).toBeVisible();
  await page.getByRole("button", { name: "jump from python" }).click();
  await expect(page.locator("output.time")).toHaveText("t = 3 of 4");
  await expect(asked(page)).toContainText("∂h3[2]");
});
