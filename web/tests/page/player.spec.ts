import { readdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import AxeBuilder from "@axe-core/playwright";
import { expect, type Page, test } from "@playwright/test";
import { asked, open, pathOf, watch } from "./open.ts";

const folder = dirname(pathOf(""));
const files = readdirSync(folder).filter((file) => file.endsWith(".html") && file !== "exported_notebook.html");
const pages = files.map((file) => file.replace(".html", ""));

for (const name of pages)
  test(`${name} opens offline and finds every number right`, async ({ page }) => {
    const seen = await open(page, name, "#t=2&side=B");
    await expect(page.locator(".badge b")).toContainText("✓");
    await expect(page.locator(".network canvas").first()).toBeVisible();
    expect(seen.requests.filter((url) => !url.startsWith("file://"))).toEqual([]);
    expect(seen.requests.length).toBe(1);
    expect(seen.errors).toEqual([]);
  });

test("the keyboard steps, flips, chooses and lets go", async ({ page }) => {
  await open(page, "word");
  const time = page.locator("output.time");
  await expect(time).toHaveText("t = 1 of 4");
  await page.keyboard.press("ArrowRight");
  await expect(time).toHaveText("t = 2 of 4");
  await page.keyboard.press("End");
  await expect(time).toHaveText("t = 4 of 4");
  await page.keyboard.press("ArrowLeft");
  await expect(time).toHaveText("t = 3 of 4");
  await page.keyboard.press("b");
  await expect(page.getByRole("button", { name: "B gradients" })).toHaveAttribute("aria-pressed", "true");
  await page.keyboard.press("ArrowDown");
  await expect(asked(page)).toContainText("∂h3[1]");
  await page.keyboard.press("ArrowDown");
  await expect(asked(page)).toContainText("∂h3[2]");
  await page.keyboard.press("Home");
  await expect(asked(page)).toContainText("∂h1[2]");
  await page.keyboard.press("b");
  await expect(asked(page)).toContainText("h1[2]");
  await page.keyboard.press("Escape");
  await expect(page.getByRole("heading", { name: "Ask any number" })).toBeVisible();
  await page.keyboard.press("?");
  await expect(page.locator(".keys")).toBeVisible();
});

test("it plays forward on side A and backward in time on side B", async ({ page }) => {
  await page.clock.install();
  await open(page, "word");
  await page.keyboard.press("Space");
  await page.clock.runFor(5000);
  await expect(page.locator("output.time")).toHaveText("t = 4 of 4");
  await page.keyboard.press("b");
  await page.getByRole("button", { name: "Play backwards in time" }).click();
  await page.clock.runFor(5000);
  await expect(page.locator("output.time")).toHaveText("t = 1 of 4");
});

test("flipping puts gradients into the same cells in the same places", async ({ page }) => {
  await open(page, "stacked");
  const places = () =>
    page
      .locator(".network .block canvas")
      .evaluateAll((all) => all.map((canvas) => JSON.stringify(canvas.getBoundingClientRect())));
  const look = () =>
    page
      .locator(".network .block canvas")
      .evaluateAll((all) => all.map((canvas) => (canvas as HTMLCanvasElement).toDataURL()));
  const [before, shown] = [await places(), await look()];
  await page.keyboard.press("b");
  await expect(page.getByRole("heading", { name: "Side B: gradients" })).toBeVisible();
  expect(await places()).toEqual(before);
  const flipped = await look();
  for (const [index, image] of flipped.entries()) expect(image).not.toBe(shown[index]);
});

test("one click answers where a number comes from, more clicks lead to one character's loss", async ({ page }) => {
  await open(page, "word");
  const canvas = page.getByRole("img", { name: "Gradient of W_hh" }).locator("canvas");
  await canvas.click({ position: { x: 12, y: 12 } });
  await expect(asked(page)).toContainText("∂Whh[1,1]");
  await page.locator(".ask").getByRole("button", { name: "∂a4[1]" }).click();
  await page.locator(".ask").getByRole("button", { name: "∂h4[1]" }).click();
  await page.locator(".ask").getByRole("button", { name: "∂o4[4]" }).click();
  await expect(page.locator(".ask .equation")).toContainText("=");
  await page.locator(".ask").getByRole("button", { name: "loss4" }).click();
  await expect(asked(page)).toContainText("loss4");
  await expect(page.locator(".trail .crumb")).toHaveText(["∂Whh[1,1]", "∂a4[1]", "∂h4[1]", "∂o4[4]"]);
  await page.locator(".trail .crumb").nth(1).click();
  await expect(asked(page)).toContainText("∂a4[1]");
  await page.keyboard.press("Backspace");
  await expect(asked(page)).toContainText("∂Whh[1,1]");
});

test("through the gates of an LSTM it is as short a way", async ({ page }) => {
  await open(page, "lstm");
  const canvas = page.getByRole("img", { name: "Gradient of W_hi" }).locator("canvas");
  await canvas.click({ position: { x: 12, y: 12 } });
  await expect(asked(page)).toContainText("∂Whi[1,1]");
  const press = (name: string) => page.locator(".ask table").getByRole("button", { name, exact: true }).click();
  await press("∂ai7[1]");
  await page.locator(".ask .compound .asks").first().click();
  await expect(asked(page)).toContainText("i7[1]");
  await page.keyboard.press("Backspace");
  await press("∂i7[1]");
  await press("∂c7[1]");
  await press("∂u7[1]");
  await press("∂h7[1]");
  await press("∂o7[4]");
  await page.locator(".ask").getByRole("button", { name: "loss7" }).click();
  await expect(asked(page)).toContainText("loss7");
});

test("the gates of an LSTM fold, its memory is a lane above the hidden state", async ({ page }) => {
  await open(page, "lstm", "#t=2&side=B&sel=dc,2");
  const symbols = () => page.locator(".network .label").allTextContents();
  expect(await symbols()).toEqual(["∂ot", "∂ct", "∂ht", "xt"]);
  await expect(page.locator(".ask .legend li")).toHaveText([/this step/, /from step 3/]);
  await expect(page.locator(".ask .legend .there, .ask li.there")).toHaveCount(1);
  await page.getByRole("button", { name: "Show the values between" }).click();
  expect((await symbols()).slice(3, -1)).toEqual(
    ["u", "q", "aq", "g", "ag", "f", "af", "i", "ai"].map((gate) => `∂${gate}t`),
  );
  await page.getByRole("button", { name: "Fold the values between" }).click();
  expect(await symbols()).toEqual(["∂ot", "∂ct", "∂ht", "xt"]);
});

test("what is asked of a memory from outside arrives there alone", async ({ page }) => {
  await open(page, "unseen", "#t=4&side=B");
  const arrows = page.locator(".network .arrow.here.active");
  await expect(arrows).toHaveCount(5);
  await page.keyboard.press("ArrowRight");
  await expect(arrows).toHaveCount(6);
});

test("a page says which part of a batch it shows", async ({ page }) => {
  await open(page, "padded");
  await expect(page.locator(".notice").first()).toContainText(
    "Sequence 2 of row 2 of 3 of the batch, from its step 5 on.",
  );
  await open(page, "long");
  await expect(page.locator(".notice").first()).toHaveText(/^Steps 1 to 512 of 30000 are shown\. tape\.page/);
});

test("a short bracket of an equation stands on one line", async ({ page }) => {
  await open(page, "lstm", "#t=2&side=B&sel=dc,2");
  const parts = await page.locator(".ask .equation math").allTextContents();
  expect(parts.map((part) => part.replace(/\s/g, "")).filter((part) => part.includes("("))).toEqual(["⊙(1−u22)"]);
});

test("a number shows its terms, their sum and what rounding left", async ({ page }) => {
  await open(page, "word", "#t=2&side=B&sel=dh,2");
  await expect(page.locator(".ask tbody tr")).toHaveCount(8);
  await expect(page.locator(".ask .legend li")).toHaveText([/this step\s*−0\.09547/, /from step 3\s*−0\.04711/]);
  await expect(page.locator(".ask tfoot")).toContainText("−0.142580");
  await expect(page.locator(".ask .residual")).toContainText("✓");
  await page.locator(".ask .live .asks").last().click();
  await expect(asked(page)).toContainText("∂h2own[2]");
  await expect(page.locator(".ask tbody tr")).toHaveCount(4);
});

test("the hash holds the view, both ways", async ({ page }) => {
  await open(page, "word", "#t=3&side=B&sel=da,3");
  await expect(page.locator("output.time")).toHaveText("t = 3 of 4");
  await expect(asked(page)).toContainText("∂a3[3]");
  await page.keyboard.press("ArrowRight");
  await expect.poll(() => page.evaluate(() => location.hash)).toBe("#t=4&side=B&sel=da,3");
  await page.evaluate(() => {
    location.hash = "#t=1&sel=h,2";
  });
  await expect(asked(page)).toContainText("h1[2]");
});

test("a number that the tape does not have leaves the address", async ({ page }) => {
  await open(page, "word", "#t=3&sel=2:da,3");
  const hash = () => page.evaluate(() => location.hash);
  await expect.poll(hash).toBe("#t=3");
  await page.evaluate(() => {
    location.hash = "#t=3&sel=2:da,3";
  });
  await expect.poll(hash).toBe("#t=3");
  await expect(page.getByRole("heading", { name: "Ask any number" })).toBeVisible();
});

test("the loss of a step is said with the weight that makes it a part of the whole", async ({ page }) => {
  await open(page, "window", "#t=14");
  const output = page.getByRole("region", { name: "Output of step 14" });
  const text = (await output.locator("p").last().textContent()) ?? "";
  const [loss, w, adds, L] = [...text.matchAll(/=\s*([\d.]+)/g)].map(([, number]) => Number(number));
  expect(w).toBe(1 / 40);
  expect(adds).toBeCloseTo(w * loss, 4);
  expect(adds).toBeLessThan(L);
  await output.getByRole("button", { name: String(w), exact: true }).click();
  await expect(asked(page)).toContainText("w14");
  await page.locator(".ask").getByRole("button", { name: "L", exact: true }).click();
  await expect(page.locator(".ask .meaning")).toContainText("each times its weight w");
  const rows = await page.locator(".ask tbody tr").filter({ hasText: "loss" }).allTextContents();
  expect(rows.length).toBeGreaterThan(2);
  for (const row of rows) {
    const [, own, times, product] = /= ([\d.]+) · ([\d.]+)\s+([\d.]+)$/.exec(row)?.map(Number) ?? [];
    expect(own * times).toBeCloseTo(product, 4);
  }
});

test("the strip fades where it goes on, also when other symbols were read", async ({ page }) => {
  await page.setViewportSize({ width: 840, height: 860 });
  await open(page, "hostile");
  const strip = page.locator(".strip");
  const look = () =>
    strip.evaluate((element) => [
      element.scrollLeft + element.clientWidth < element.scrollWidth - 1,
      getComputedStyle(element).getPropertyValue("--behind") !== "0px",
    ]);
  await expect.poll(look).toEqual([true, true]);
  await page.getByLabel("fed by").selectOption("own");
  await expect.poll(look).toEqual([false, false]);
  await page.getByLabel("fed by").selectOption("truth");
  await expect.poll(look).toEqual([true, true]);
});

test("parts can be hidden for teaching", async ({ page }) => {
  await open(page, "word", "#hide=code,weight,reach,kept,heat,ask");
  await expect(page.getByRole("region", { name: "The network, unrolled in time" })).toBeVisible();
  const names = ["The code", "Why did this weight move?", "How far does the gradient reach?", "Ask any number"];
  for (const name of [...names, "Why did the cell keep this?"])
    await expect(page.getByRole("region", { name })).toHaveCount(0);
});

test("how far the gradient reaches is one click away, with what shorter windows lose", async ({ page }) => {
  await open(page, "stacked");
  await page.getByRole("button", { name: "How far does the gradient reach?" }).click();
  const reach = page.getByRole("region", { name: "How far does the gradient reach?" });
  await expect(reach).toBeInViewport();
  await expect(reach.locator(".answer")).toHaveText(
    /less than 1\s% is left after \d+\ssteps?|[\d.e−]+\s% is still left after 8\ssteps/,
  );
  await reach.getByRole("slider").fill("4");
  await expect(reach.locator("tbody tr")).toHaveCount(6);
  await expect.poll(() => page.evaluate(() => location.hash)).toContain("window=4");
});

test("every state has its own curve, and every step the share of units that are saturated there", async ({ page }) => {
  await open(page, "lstm", "#t=3");
  const reach = page.getByRole("region", { name: "How far does the gradient reach?" });
  await expect(reach.locator("li")).toHaveText([
    /^\s*∂ht: .* is (still )?left [\s\S]*on average/,
    /^\s*∂ct: .* is (still )?left [\s\S]*on average/,
  ]);
  const colours = await reach
    .locator("path.curve")
    .evaluateAll((all) => all.map((path) => getComputedStyle(path).stroke));
  expect(new Set(colours).size).toBe(2);
  await expect(reach.locator(".flat")).toHaveText([/^\s*i3 \d/, /^\s*f3 \d/, /^\s*g3 \d/, /^\s*q3 \d/, /^\s*u3 \d/]);
  await expect(reach).toContainText("σ below 0.05 or above 0.95, tanh beyond ±0.95");
});

test("with the keyboard alone one sees how open a gate is and why the cell kept something", async ({ page }) => {
  const seen = await open(page, "lstm");
  const step = page.locator(".strip button[aria-current]");
  await expect(step).toHaveAttribute("aria-label", /^step 1: .*, gate f_1 [\d.]+\s% open$/);
  const chosen = page.getByLabel("gates");
  await chosen.focus();
  await page.keyboard.press("ArrowDown");
  await expect(step).toHaveAttribute("aria-label", /gate q_1 [\d.]+\s% open$/);
  await expect.poll(() => page.evaluate(() => location.hash)).toContain("gate=q");
  await page.keyboard.press("ArrowDown");
  await expect(step).toHaveAttribute("aria-label", /gate i_1 .*gate f_1 .*gate q_1 /);
  await step.focus();
  await page.keyboard.press("End");
  const why = page.getByRole("region", { name: "Why did the cell keep this?" });
  await expect(why).toContainText(/Of a small change of c1 ?, [\d.e−]+\s% is still there in c\d/);
  await expect(why.locator("path[d^=M]")).toHaveCount(2);
  await expect(why.locator("rect.kept")).toHaveCount(await page.locator(".strip button").count());
  await why.locator("select").focus();
  await page.keyboard.press("ArrowDown");
  await expect(why).toContainText(/Of a small change of c1\[1\], /);
  expect(seen.errors).toEqual([]);
});

test("of a cell that keeps nothing the page says so", async ({ page }) => {
  await open(page, "word");
  await expect(page.getByRole("region", { name: "Why did the cell keep this?" })).toContainText("It does not");
  await expect(page.getByLabel("gates")).toHaveCount(0);
});

test("a gradient below 1e−12 ends there and says so", async ({ page }) => {
  await open(page, "deep");
  const reach = page.locator("#reach");
  await expect(reach).toContainText(/below 1e−12 from \d+\ssteps on/);
  const points = (name: string) =>
    reach.locator(`path.${name}`).evaluate((path) => (path.getAttribute("d") ?? "").match(/[\d.]+ [\d.]+/g) ?? []);
  for (const name of ["curve", "fit"]) {
    const heights = (await points(name)).map((point) => Number(point.split(" ")[1]));
    expect(heights.filter((height) => height === Math.max(...heights)).length).toBe(1);
  }
});

const WITHOUT_REACH = ["packed", "watched", "unseen", "large", "large_lstm", "long"];
for (const name of pages.filter((each) => !WITHOUT_REACH.includes(each)))
  test(`the lines of ${name} lie within the picture of the reach`, async ({ page }) => {
    await open(page, name);
    const svg = page.getByRole("img", { name: "Share by distance" });
    const height = Number(await svg.getAttribute("height"));
    const lines = await svg.locator("path").evaluateAll((all) => all.map((path) => path.getAttribute("d") ?? ""));
    for (const [, y] of lines.join("").matchAll(/[\d.]+ (-?[\d.]+)/g)) {
      expect(Number(y)).toBeGreaterThanOrEqual(10);
      expect(Number(y)).toBeLessThanOrEqual(height);
    }
  });

test("the table of a step has every unit of its widest row", async ({ page }) => {
  await open(page, "two_memories");
  const numbers = page.getByRole("region", { name: "Numbers of step 1" });
  await expect(numbers).toContainText(/units 1–\d of 9/);
  await page.goto(`file://${pathOf("two_memories")}#sel=s,9`);
  await page.reload();
  await expect(numbers).toContainText(/units \d–9 of 9/);
  await expect(numbers.locator(".chosen")).toHaveCount(1);
});

test("a weight that a line without a time reads, too, says what that adds", async ({ page }) => {
  await open(page, "highway", "#sel=dW_hh,1,2");
  const weight = page.getByRole("region", { name: "Why did this weight move?" });
  await expect(weight).toContainText(/of it cancels between terms\. Lines without a time add [−\d.e]+\./);
  await page.goto(`file://${pathOf("highway")}#sel=dW_xh,1,2`);
  await page.reload();
  await expect(weight).toContainText("of it cancels between steps.");
  await expect(weight).not.toContainText("Lines without a time");
});

test("the side of gradients says from which step they come, in both directions", async ({ page }) => {
  for (const [layer, words] of [
    ["2", "Time runs backwards: each gradient is the sum of what this step and what step t+1 sends back."],
    ["2r", "what this step and what step t−1 sends back."],
  ]) {
    await page.goto(`file://${pathOf("both_ways")}#side=B&layer=${layer}`);
    await page.reload();
    await expect(page.locator(".sidehead p")).toContainText(words);
  }
});

test("the page behind the player has its colour, up to the edges of a wide screen", async ({ page }) => {
  await page.setViewportSize({ width: 1920, height: 860 });
  await open(page, "word");
  const colour = (element: string) =>
    page.evaluate((name) => getComputedStyle(document.querySelector(name) as Element).backgroundColor, element);
  for (const theme of ["dark", "light"]) {
    await page.getByLabel("Theme").selectOption(theme);
    await expect(page.getByRole("main")).toHaveAttribute("data-theme", theme);
    expect(await colour("html")).toBe(await colour(".player"));
  }
});

test("notations rename the symbols", async ({ page }) => {
  await open(page, "word", "#t=2&side=B&sel=dh,2");
  for (const [notation, symbol] of [
    ["posts", "∂a(2)[2]"],
    ["d2l", "∂H2[2]"],
    ["goodfellow", "∂h(2)[2]"],
    ["pytorch", "∂output[2][2]"],
  ]) {
    await page.getByLabel("notation").selectOption(notation);
    await expect(asked(page)).toContainText(symbol);
  }
});

test("fed by its own answers, the arrows are plugged in elsewhere", async ({ page }) => {
  await open(page, "word");
  await expect(page.locator(".feed.truth")).toHaveCount(3);
  await page.getByLabel("fed by").selectOption("own");
  await expect(page.locator(".feed.own").first()).toBeAttached();
  await expect(page.locator(".badge b")).toContainText("✓");
  await page
    .locator(".transport")
    .getByRole("button", { name: /^step \d/ })
    .click();
  await expect(page.locator("output.time")).not.toHaveText("t = 1 of 4");
  await page.getByLabel("fed by").selectOption("truth");
  await expect(page.locator(".feed.truth")).toHaveCount(3);
});

test("a number is copied as itself, as TeX and as NumPy", async ({ page, context }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await open(page, "word", "#t=2&side=B&sel=dh,2");
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  await page.getByRole("button", { name: "number", exact: true }).click();
  expect(Number(await clipboard())).toBeCloseTo(-0.14258, 5);
  await page.getByRole("button", { name: "TeX" }).click();
  expect(await clipboard()).toContain("\\partial h_{2}");
  await page.getByRole("button", { name: "NumPy" }).click();
  expect(await clipboard()).toContain('tape.layers[0].totals["h"][1, 0, 1]');
});

test("text from outside is text and nothing else", async ({ page }) => {
  const seen = await open(page, "hostile", "#t=3&sel=y_hat,1");
  await expect(page.locator("h1")).toContainText("</script><!--<script><img src=x onerror=alert(1)>U+202Eevil");
  expect(await page.locator("img, iframe, object").count()).toBe(0);
  expect(await page.getByRole("main").textContent()).not.toMatch(/[\u202e\u200b]/);
  expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
  expect(seen.errors).toEqual([]);
});

test("a long tape says which of its steps are shown", async ({ page }) => {
  await open(page, "long");
  await expect(page.locator(".notice")).toContainText("Steps 1 to 512 of 30000 are shown");
});

async function openChanged(page: Page, change: (tape: Record<string, never>) => void) {
  const html = readFileSync(pathOf("word"), "utf8");
  const changed = html.replace(/(id="tape">)(.*?)(<\/script>)/s, (_, before, text, after) => {
    const tape = JSON.parse(text);
    change(tape);
    return before + JSON.stringify(tape) + after;
  });
  const seen = watch(page);
  await page.route("http://player.test/", (route) => route.fulfill({ contentType: "text/html", body: changed }));
  await page.goto("http://player.test/");
  return seen;
}

for (const [what, change, message] of [
  ["another schema", (tape) => Object.assign(tape, { schema: 7 }), "schema 7"],
  ["no arrays", (tape) => Object.assign(tape, { arrays: {} }), "is missing"],
  ["an array cut short", (tape) => Object.assign(tape.arrays["layers.0.forward.h"], { data: "AAAA" }), "is cut short"],
  ["no layers", (tape) => Object.assign(tape, { layers: [] }), "no layers"],
] as [string, (tape: Record<string, never>) => void, string][])
  test(`a page with ${what} says so`, async ({ page }) => {
    const seen = await openChanged(page, change);
    await expect(page.getByRole("alert")).toContainText(message);
    expect(seen.errors).toEqual([]);
  });

test("a tape with NaN says where it begins and still plays", async ({ page }) => {
  const seen = await openChanged(page, (tape) => {
    const entry = tape.arrays["layers.0.forward.h"] as { data: string };
    const bytes = Buffer.from(entry.data, "base64");
    bytes.writeDoubleLE(Number.NaN, 8 * 5);
    entry.data = bytes.toString("base64");
  });
  await expect(page.getByRole("alert")).toContainText("1 number on this tape is NaN or infinite");
  await page.getByRole("alert").getByRole("button").click();
  await expect(asked(page)).toContainText("h2[2]");
  await expect(page.locator(".badge b")).toContainText("✗");
  await page.keyboard.press("ArrowRight");
  await expect(page.locator("output.time")).toHaveText("t = 3 of 4");
  expect(seen.errors).toEqual([]);
});

for (const [name, hash] of [
  ["word", "#t=2&sel=a,2"],
  ["stacked", "#t=5&side=B&sel=2:dh,3&window=3"],
  ["window", "#t=14&side=B&sel=loss"],
  ["lstm", "#t=3&side=B&sel=daq,1"],
] as const)
  test(`${name} has no barrier and no overflow, wide and narrow, light and dark`, async ({ page }) => {
    await open(page, name, hash);
    await expect(page.locator("#reach .answer").first()).toBeVisible();
    for (const width of [1280, 390])
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height: 860 });
        await expect(page.getByRole("main")).toHaveAttribute("data-theme", colorScheme);
        expect(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)).toBe(true);
        const axe = new AxeBuilder({ page }).setLegacyMode();
        if (colorScheme === "dark") axe.withRules("color-contrast");
        const { violations } = await axe.analyze();
        const found = violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
        expect(found, `${width} ${colorScheme}`).toEqual([]);
      }
  });

test("an exported notebook shows the same player without a widget", async ({ page }) => {
  await page.route(/^https?:/, (route) => route.abort());
  await page.goto(`file://${pathOf("exported_notebook")}`);
  const frame = page.frameLocator("iframe");
  await expect(frame.locator(".badge")).toContainText("derived again here");
  await frame.getByRole("button", { name: "Step right" }).click();
  await expect(frame.locator("output.time")).toHaveText("t = 2 of 4");
});
