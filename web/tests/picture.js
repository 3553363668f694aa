// Makes the picture in the README from the page of the word "hello".
//
//     CHROMIUM=/usr/bin/chromium npm run picture

import { fileURLToPath } from "node:url";
import { chromium } from "@playwright/test";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1.5 });
await page.goto(`file://${here("../golden/word.html")}#t=2&side=B&sel=dh,2`);
await page.locator(".badge", { hasText: "derived again here" }).waitFor();
await page.screenshot({ path: here("../../docs/player.png") });
await browser.close();
