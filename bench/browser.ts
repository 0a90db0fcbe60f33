/**
 * The daemon's page in headless Chromium: when it shows its first figures, how long a repaint takes, and
 * that it reports no errors, asks nobody else, and fits a phone; that is an error if it does not. The heap
 * is one of 4 GiB with a mixed load.
 *
 *     deno run -P=bench bench/browser.ts [--smoke] [--screenshots FOLDER]
 *
 * It takes Debian's package chromium; without it says so.
 */

// Not in deno.json's imports, because `deno compile` puts all of those into the executables.
// deno-lint-ignore no-import-prefix
import { type Browser, chromium, type Page } from "npm:playwright-core@1.56.1";
import { fill, type Filled, pageOf } from "./page.ts";
import { startMallocd } from "./prober.ts";
import { printTable } from "./table.ts";

const CHROMIUM = "/usr/bin/chromium";
/** It is to run as root, without a screen, and to call nobody by itself. */
const ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

interface Look {
  readonly name: string;
  readonly width: number;
  readonly height: number;
  readonly theme: "dark" | "light";
  readonly scale?: number;
  /** What is pressed. */
  readonly press?: readonly string[];
}

const LOOKS: readonly Look[] = [
  { name: "dark", width: 1280, height: 860, theme: "dark" },
  { name: "light", width: 1280, height: 860, theme: "light" },
  { name: "sizes", width: 1280, height: 860, theme: "dark", press: ["[data-mode=sizes]"] },
  {
    name: "rows",
    width: 1280,
    height: 860,
    theme: "light",
    press: ["[data-mode=sizes]", "[data-curve=rows]"],
  },
  { name: "phone", width: 360, height: 800, theme: "dark", scale: 2 },
];

interface Seen {
  /** Milliseconds from the request of the page to the first figures, and for a repaint at the most. */
  readonly first: number;
  readonly repaint: number;
  /** Errors in the console, requests to others, pixels that it is too wide. */
  readonly faults: readonly string[];
}

/** Opens the page for so many milliseconds, in which the heap changes. */
async function look(
  browser: Browser,
  url: string,
  { name, width, height, theme, scale = 1, press = [] }: Look,
  { ms, filled, screenshots }: { ms: number; filled: Filled; screenshots: string | undefined },
): Promise<Seen> {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: theme,
    deviceScaleFactor: scale,
  });
  const page = await context.newPage();
  const faults: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(message.text());
  });
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) faults.push(`asks ${request.url()}`);
  });
  const start = performance.now();
  await page.goto(url);
  await page.locator("html[data-repaint]").waitFor({ state: "attached" });
  const first = performance.now() - start;
  for (const button of press) await page.click(button);
  const repaints: number[] = [];
  for (const end = performance.now() + ms; performance.now() < end;) {
    await filled.churn(64);
    repaints.push(await repaintOf(page));
  }
  const box = (await page.locator("#map").boundingBox())!;
  await page.mouse.move(box.x + box.width * 0.31, box.y + box.height * 0.58);
  await page.waitForTimeout(300);
  repaints.push(await repaintOf(page));
  const tooWide = await page.evaluate<number>("document.documentElement.scrollWidth - innerWidth");
  if (tooWide > 0) faults.push(`${tooWide} pixels too wide`);
  if (screenshots !== undefined) {
    await page.screenshot({ path: `${screenshots}/page-${name}.png` });
  }
  await context.close();
  repaints.sort((a, b) => a - b);
  return { first, repaint: repaints[repaints.length >>> 1]!, faults };
}

function repaintOf(page: Page): Promise<number> {
  return page.evaluate("Number(document.documentElement.dataset.repaint)");
}

async function main(
  { memory, blocks, ms, looks, screenshots }: {
    memory: string;
    blocks: number;
    ms: number;
    looks: readonly Look[];
    screenshots?: string | undefined;
  },
): Promise<void> {
  await using daemon = await startMallocd("auto", "--memory", memory, "--http", "0");
  await using filled = await fill(daemon, blocks);
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGS });
  const rows = [["", "first figures", "repaint, median", "faults"]];
  const all: string[] = [];
  try {
    for (const one of looks) {
      const seen = await look(browser, pageOf(daemon), one, { ms, filled, screenshots });
      rows.push([
        one.name,
        `${Math.round(seen.first)} ms`,
        `${seen.repaint.toFixed(1)} ms`,
        `${seen.faults.length}`,
      ]);
      all.push(...seen.faults.map((fault) => `${one.name}: ${fault}`));
    }
  } finally {
    await browser.close();
  }
  printTable(rows);
  if (all.length > 0) throw new Error(all.join("\n"));
}

if (import.meta.main) {
  const at = Deno.args.indexOf("--screenshots");
  const screenshots = at === -1 ? undefined : Deno.args[at + 1];
  if (await Deno.stat(CHROMIUM).catch(() => undefined) === undefined) {
    console.log(`skipped: no ${CHROMIUM}\nDebian's package chromium has it`);
  } else if (Deno.args.includes("--smoke")) {
    const looks = LOOKS.filter(({ name }) => ["dark", "phone"].includes(name));
    await main({ memory: "64MiB", blocks: 100, ms: 300, looks });
  } else {
    await main({ memory: "4GiB", blocks: 60_000, ms: 8000, looks: LOOKS, screenshots });
  }
}
