// How the tests open a page: from the disk, every request and every error noted.

import { fileURLToPath } from "node:url";
import { expect, type Page } from "@playwright/test";

export const pathOf = (name: string) => fileURLToPath(new URL(`../../golden/${name}.html`, import.meta.url));

export interface Seen {
  requests: string[];
  errors: string[];
}

/** Opens a page of `tests/golden_pages.py` and waits until every number has been derived again. */
export async function open(page: Page, name: string, hash = ""): Promise<Seen> {
  const seen = watch(page);
  await page.goto(`file://${pathOf(name)}${hash}`);
  await expect(page.locator(".badge")).toContainText("derived again here");
  return seen;
}

export function watch(page: Page): Seen {
  const seen: Seen = { requests: [], errors: [] };
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("pageerror", (error) => seen.errors.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") seen.errors.push(message.text());
  });
  page.on("dialog", (dialog) => seen.errors.push(`dialog ${dialog.message()}`));
  return seen;
}

/** The symbol and value that the panel of questions stands at. */
export const asked = (page: Page) => page.locator(".ask .title");
