// Nothing that is written may be cut off, run into its neighbour or be struck through.

import { expect, type Page, test } from "@playwright/test";
import { open } from "./open.ts";

const WIDTHS = [390, 768, 1280, 1920];

/** Remembers, for each canvas, the numbers written into its cells when it was last drawn. */
function listen() {
  const written = new Map<HTMLCanvasElement, { text: string; x: number; y: number; width: number }[]>();
  Object.assign(window, { written });
  const { fillText, clearRect } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    written.set(this.canvas, []);
    clearRect.apply(this, box);
  };
  CanvasRenderingContext2D.prototype.fillText = function (text, x, y, room = Number.POSITIVE_INFINITY) {
    const { width } = this.measureText(text);
    const isLegible = text !== "" && width < 1.7 * room;
    written.get(this.canvas)?.push({ text: isLegible ? text : "", x, y, width: Math.min(width, room) });
    fillText.call(this, text, x, y, room);
  };
}

async function resize(page: Page, width: number): Promise<void> {
  await page.setViewportSize({ width, height: 860 });
  await page.evaluate(async () => {
    for (let frame = 0; frame < 2; frame++) await new Promise((resolve) => requestAnimationFrame(resolve));
  });
}

/** What cannot be read on the page after each of these changes of the hash; `only` looks into one part of it. */
async function unreadable(page: Page, hashes: string[], only = ".player"): Promise<string[]> {
  return page.evaluate(
    async ([hashes, only]) => {
      const all: string[] = [];
      for (const hash of hashes) all.push(...(await problemsAt(hash)).map((problem) => `${hash}: ${problem}`));
      return all;

      async function problemsAt(hash: string): Promise<string[]> {
        if (location.hash !== hash) {
          const changed = new Promise((resolve) => addEventListener("hashchange", resolve, { once: true }));
          location.hash = hash;
          await changed;
        }
        await new Promise((resolve) => setTimeout(resolve));
        const root = document.querySelector(only) as HTMLElement;
        const found: string[] = [];
        const scrolls = ".strip, .code, .hidden";
        const nameOf = (element: Element) =>
          `${element.closest("section, header, .deck, aside")?.getAttribute("aria-label") ?? ""} ${element.tagName}.${element.getAttribute("class")}`;

        /** What is left of a box where a scrolling or hiding element around it ends. */
        const visible = (part: DOMRect, inside: Element | null): DOMRect => {
          if (!inside) return part;
          if (getComputedStyle(inside).overflowX === "visible") return visible(part, inside.parentElement);
          const edge = inside.getBoundingClientRect();
          const [left, top] = [Math.max(part.left, edge.left), Math.max(part.top, edge.top)];
          const [right, bottom] = [Math.min(part.right, edge.right), Math.min(part.bottom, edge.bottom)];
          return visible(
            new DOMRect(left, top, Math.max(0, right - left), Math.max(0, bottom - top)),
            inside.parentElement,
          );
        };

        for (const element of [root, ...root.querySelectorAll("*")]) {
          const { overflowX, overflowY, textOverflow } = getComputedStyle(element);
          if (element.matches(scrolls) || textOverflow === "ellipsis") continue;
          const { scrollWidth, clientWidth, scrollHeight, clientHeight } = element;
          if (overflowX !== "visible" && scrollWidth > clientWidth + 1)
            found.push(`${nameOf(element)}: ${scrollWidth} wide in ${clientWidth}`);
          if (overflowY === "hidden" && scrollHeight > clientHeight + 1)
            found.push(`${nameOf(element)}: ${scrollHeight} high in ${clientHeight}`);
        }

        const texts: { text: string; element: Element; whole: Element; box: DOMRect; part: DOMRect }[] = [];
        const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
          const [node, element] = [walk.currentNode, walk.currentNode.parentElement as Element];
          if (!node.textContent?.trim() || element.closest(`${scrolls}, option, title, textarea`)) continue;
          const range = document.createRange();
          range.selectNodeContents(node);
          const whole = element.closest("math, .glyph, button") ?? element;
          for (const part of range.getClientRects()) {
            const box = visible(part, element);
            if (box.width > 0 && box.height > 0)
              texts.push({ text: node.textContent.trim(), element, whole, box, part });
          }
        }
        for (const { text, element, part } of texts) {
          if (getComputedStyle(element).textOverflow === "ellipsis") continue;
          const around = (element.closest("svg, td, section, aside, .player") as Element).getBoundingClientRect();
          if (
            part.left < around.left - 1 ||
            part.right > around.right + 1 ||
            part.top < around.top - 6 ||
            part.bottom > around.bottom + 6
          )
            found.push(`${nameOf(element)}: "${text}" outside`);
        }
        for (const [index, one] of texts.entries())
          for (const other of texts.slice(index + 1)) {
            if (one.whole === other.whole) continue;
            const across = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
            const down = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
            const apart = one.element.closest("svg, .network") ? 3 : -1;
            if (across > -apart && down > 5)
              found.push(`${nameOf(one.element)}: "${one.text}" runs into "${other.text}"`);
          }

        const isBare = (element: Element | null): boolean =>
          element === null ||
          element.matches(".network") ||
          (getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)" && isBare(element.parentElement));
        for (const line of root.querySelectorAll<SVGPathElement>(".network path.line")) {
          const corner = (line.ownerSVGElement as SVGSVGElement).getBoundingClientRect();
          for (let along = 0; along <= line.getTotalLength(); along += 2) {
            const { x, y } = line.getPointAtLength(along);
            const struck = texts.find(
              ({ element, box }) =>
                element.closest(".network") &&
                isBare(element) &&
                Math.abs(corner.left + x - (box.left + box.right) / 2) < box.width / 2 &&
                Math.abs(corner.top + y - (box.top + box.bottom) / 2) < box.height / 2 - 3,
            );
            if (struck) {
              found.push(`"${struck.text}" is struck through`);
              break;
            }
          }
        }

        const drawn = (
          window as unknown as {
            written: Map<HTMLCanvasElement, { text: string; x: number; y: number; width: number }[]>;
          }
        ).written;
        for (const [canvas, numbers] of drawn) {
          if (!canvas.isConnected || numbers.length === 0) continue;
          const label = canvas.parentElement?.getAttribute("aria-label") ?? "";
          const [, count, rows, columns] = /(?:, (\d+) numbers|, (\d+) by (\d+))$/.exec(label) ?? [];
          const cells = count ? Number(count) : Number(rows) * Number(columns);
          if (numbers.length !== cells || numbers.some(({ text }) => text === ""))
            found.push(`${label}: ${numbers.filter(({ text }) => text).length} written`);
          for (const [index, { text, x, y, width }] of numbers.entries()) {
            const next = numbers[index + 1];
            if (
              x - width / 2 < 0 ||
              x + width / 2 > canvas.clientWidth ||
              (next?.y === y && next.x - x < (width + next.width) / 2)
            )
              found.push(`${label}: "${text}" is wider than its cell`);
          }
        }
        return [...new Set(found)];
      }
    },
    [hashes, only] as const,
  );
}

for (const [name, hashes] of [
  ["word", ["#t=3", "#t=2&side=B&sel=dh,2", "#t=4&sel=loss&trail=dW_hh,1,1;da@4,1;dh@4,1;do@4,4"]],
  ["numbers", ["#t=3&sel=a,1", "#t=4&side=B&sel=do,1"]],
  ["bits", ["#t=3&sel=h,1", "#t=3&side=B&sel=da,1"]],
  ["stacked", ["#t=5&side=B&sel=2:dh,3&window=3", "#t=5&layer=1&sel=a,2&notation=pytorch"]],
  ["both_ways", ["#t=2&layer=1r&sel=1r:a,1", "#t=2&side=B&layer=2r&sel=2r:dh,1"]],
  ["window", ["#t=14&side=B&sel=dW_hh,1,1"]],
  ["packed", ["#t=2", "#t=2&side=B&sel=dW_hh,2,1"]],
  ["lstm", ["#t=3", "#t=3&side=B&sel=dc,2", "#t=4&side=B&sel=dh,1&notation=keras"]],
  ["gru", ["#t=3&sel=n,1&gate=all", "#t=3&side=B&sel=dz,2"]],
  ["gru_v1", ["#t=2&layer=1r&sel=1r:an,1", "#t=2&side=B&sel=dh,1"]],
  ["mgu", ["#t=2&side=B&sel=df,1"]],
  ["peephole", ["#t=2&side=B&sel=dc,1&notation=pytorch"]],
  ["two_memories", ["#t=3&sel=r,1", "#t=3&side=B&sel=ds,2&notation=goodfellow"]],
  ["hostile", ["#t=3&sel=y_hat,1", "#t=3&side=B&sel=do,1"]],
  ["deep", ["#t=50&side=B&sel=dW_hh,1,1", "#t=60&layer=1&sel=1:h,1&scale=log"]],
  ["exploding", ["#t=3&sel=h,1", "#t=3&side=B&sel=dh,1"]],
] as [string, string[]][])
  test(`${name} can be read in full`, async ({ page }) => {
    await page.addInitScript(listen);
    await open(page, name, hashes[0]);
    await expect(page.locator("#reach .answer").first()).toBeVisible();
    for (const width of WIDTHS) {
      await resize(page, width);
      expect(await unreadable(page, hashes), `${width} pixels`).toEqual([]);
    }
  });

for (const [name, letters] of [
  ["word", ["a", "h"]],
  ["lstm", ["ai", "g", "c", "h"]],
  ["two_memories", ["r", "s", "h"]],
] as [string, string[]][])
  test(`every equation of ${name} can be read in full in every notation`, async ({ page }) => {
    test.setTimeout(120_000);
    await page.addInitScript(listen);
    await open(page, name);
    const notations = await page
      .getByLabel("notation")
      .locator("option")
      .evaluateAll((all) => all.map((option) => (option as HTMLOptionElement).value));
    const others = "text,network,numbers,output,heat,reach,kept,weight,code";
    const output = letters[letters.length - 1];
    const own = letters.flatMap((letter) => [`${letter},1`, `d${letter},1`]);
    const around = ["o,1", "y_hat,1", "loss", "L", "do,1", "dW_ho,1,1"];
    const numbers = [...own, ...around, `own.${output},1`, `d${output}@0,1`];
    for (const width of WIDTHS) {
      await resize(page, width);
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        const written = colorScheme === "light" ? notations : ["bptt"];
        const hashes = written.flatMap((notation) =>
          numbers.map((number) => `#t=3&side=B&sel=${number}&notation=${notation}&hide=${others}`),
        );
        expect(await unreadable(page, hashes, ".ask:has(.equation)"), `${width} ${colorScheme}`).toEqual([]);
      }
    }
  });
