/** The page: it polls /live, draws the cells that it got, and sets the figures beside them. */

import { colourOf, css, decode, fullness, ofOrder, THEMES } from "./colours.js";
import { layOut, rectangle } from "./curve.js";

/** How often it asks; how soon again while the daemon has not looked at all cells, and after a failure. */
const POLL_MS = 200;
const WALK_MS = 100;
const RETRY_MS = 1000;
/** Rates are those of a second, the latency of ten, and the small plot shows a minute. */
const RATE_MS = 1000;
const LATENCY_MS = 10_000;
const SPARK_SECONDS = 60;

/** Blocks with a side of fewer pixels than this have no edges. */
const MIN_EDGED = 7;

const $ = (id) => document.getElementById(id);
const canvas = $("map");
const context = canvas.getContext("2d");
const darkness = matchMedia("(prefers-color-scheme: dark)");

const view = { mode: "fullness", curve: "hilbert", theme: "auto", pointed: undefined };

// ---- what is known ----

let heap;
let cells = new Uint16Array(0);
let generation = 0;
let samples = [];
const perSecond = [];

function applyChanges(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const runs = new Uint16Array(bytes.buffer);
  for (let at = 0; at < runs.length; at += 2 + runs[at + 1]) {
    cells.set(runs.subarray(at + 2, at + 2 + runs[at + 1]), runs[at]);
  }
  return runs.length > 0;
}

async function poll() {
  const response = await fetch(`/live?since=${generation}`);
  if (!response.ok) throw new Error(`${response.status}`);
  const live = await response.json();
  const isOther = heap === undefined || heap.size !== live.heap.size ||
    live.generation < generation;
  heap = live.heap;
  if (isOther || cells.length !== heap.cells) {
    cells = new Uint16Array(heap.cells);
    picture = undefined;
    samples = [];
    perSecond.length = 0;
  }
  generation = live.generation;
  samples.push({ at: performance.now(), ...live.stats });
  while (samples.length > 2 && samples[1].at < performance.now() - LATENCY_MS) samples.shift();
  if (applyChanges(live.changes) || isOther) draw();
  showFigures(live.stats);
  showAbout(live);
  point();
  return live.complete ? POLL_MS : WALK_MS;
}

async function pollForEver() {
  let pause = POLL_MS;
  try {
    if (!document.hidden) pause = await poll();
  } catch {
    $("about").textContent = "no answer; trying again";
    $("about").classList.add("lost");
    generation = 0; // it may be another one that answers next
    pause = RETRY_MS;
  }
  setTimeout(pollForEver, pause);
}

// ---- the map ----

/** The cells as pixels, and where each of them lies; undefined until they are to be laid out anew. */
let picture;

function layOutPicture() {
  const side = Math.sqrt(cells.length);
  const image = new ImageData(side, side);
  const scratch = document.createElement("canvas");
  scratch.width = scratch.height = side;
  return {
    side,
    image,
    pixels: new Uint32Array(image.data.buffer),
    at: layOut(side, view.curve),
    colours: new Uint32Array(65536),
    scratch,
    context: scratch.getContext("2d"),
  };
}

function isDark() {
  return view.theme === "auto" ? darkness.matches : view.theme === "dark";
}

function themeName() {
  return isDark() ? "dark" : "light";
}

function pixelOf(cell) {
  const [r, g, b] = colourOf(themeName(), view.mode, cell).map(Math.round);
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
}

function draw() {
  if (cells.length === 0) return;
  const start = performance.now();
  picture ??= layOutPicture();
  const { side, image, pixels, at, colours, scratch } = picture;
  for (let i = 0; i < cells.length; i++) {
    const cell = cells[i];
    pixels[at[i]] = colours[cell] ||= pixelOf(cell);
  }
  picture.context.putImageData(image, 0, 0);
  const size = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== size) canvas.width = canvas.height = size;
  context.imageSmoothingEnabled = false;
  context.drawImage(scratch, 0, 0, size, size);
  drawEdges(size / side);
  if (view.pointed !== undefined) outline(blockOf(view.pointed), size / side);
  document.documentElement.dataset.repaint = (performance.now() - start).toFixed(1);
}

/** Lines between blocks that are large enough to be seen as such. */
function drawEdges(scale) {
  context.beginPath();
  for (let cell = 0; cell < cells.length;) {
    const { first, count } = blockOf(cell);
    if (count * scale * scale < MIN_EDGED ** 2 || cells[first] >>> 15 === 1) {
      cell = first + count;
      continue;
    }
    const { x, y, width, height } = rectangle(picture.side, view.curve, first, count);
    if (Math.min(width, height) * scale >= MIN_EDGED) {
      const [left, top] = [Math.round(x * scale) + 0.5, Math.round(y * scale) + 0.5];
      context.moveTo(left, Math.round((y + height) * scale) + 0.5);
      context.lineTo(left, top);
      context.lineTo(Math.round((x + width) * scale) + 0.5, top);
    }
    cell = first + count;
  }
  context.strokeStyle = isDark() ? "rgb(0 0 0 / 0.4)" : "rgb(255 255 255 / 0.6)";
  context.lineWidth = 1;
  context.stroke();
}

function outline({ first, count }, scale) {
  const { x, y, width, height } = rectangle(picture.side, view.curve, first, count);
  context.lineWidth = Math.max(2, devicePixelRatio * 1.5);
  context.strokeStyle = isDark() ? "#ffffff" : "#000000";
  context.strokeRect(x * scale, y * scale, width * scale, height * scale);
}

/** The cells of the block that a cell is part of; of one that is cut up, the cell. */
function blockOf(cell) {
  const { isWhole, order } = decode(cells[cell]);
  const count = isWhole ? 2 ** (order - Math.log2(heap.cellBytes / heap.grain)) : 1;
  return { first: Math.floor(cell / count) * count, count };
}

// ---- the figures ----

const number = new Intl.NumberFormat("en");

/** A size in the unit in which it is a short number. */
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  const digits = Number.isInteger(bytes) || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2;
  return `${bytes.toFixed(digits)} ${units[unit]}`;
}

function perSecondOf(value) {
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : number.format(Math.round(value));
}

function percent(share) {
  if (share === 0 || share === 1) return `${100 * share} %`;
  return share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function duration(nanoseconds) {
  if (nanoseconds < 1e6) return `${Number((nanoseconds / 1e3).toPrecision(2))} µs`;
  if (nanoseconds < 1e9) return `${Number((nanoseconds / 1e6).toPrecision(2))} ms`;
  return `${Number((nanoseconds / 1e9).toPrecision(2))} s`;
}

function ago(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, parts.findIndex(([length]) => seconds >= length));
  return parts.slice(at, at + 2)
    .map(([length, unit], i) => {
      const whole = i === 0 ? seconds : seconds % parts[at][0];
      return `${Math.floor(whole / length)} ${unit}`;
    }).join(" ");
}

function set(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

const sum = (values) => Object.values(values).reduce((total, value) => total + value, 0);

function showFigures(now) {
  set("largest", now.largestFree > 0 ? size(now.largestFree) : "none");
  set("used", `${size(now.bytes)} of ${size(now.heap)}`);
  set("asked", now.bytesAsked > 0 || now.blocks === 0 ? size(now.bytesAsked) : "unknown");
  set("blocks", number.format(now.blocks));
  set("fragmentation", percent(now.fragmentation / 1e6));
  set("resident", now.resident > 0 ? size(now.resident) : "unknown");
  const touched = touchedShare();
  $("share-live").style.width = `${100 * now.bytes / now.heap}%`;
  $("share-free").style.width = `${100 * touched}%`;
  showRates(now);
  showLatency(now);
  showSizes(now);
}

/** Which share of the heap was used and is free. */
function touchedShare() {
  let [free, all] = [0, 0];
  for (const cell of cells) {
    if (cell >>> 15 === 1) continue;
    all++;
    if ((cell & 0x40ff) === 0x4000) free++;
  }
  return all === 0 ? 0 : free / all;
}

/** What is told of rates: a name, and the figure that grows. */
const RATES = [
  ["malloc", (s) => s.requests.malloc],
  ["free", (s) => s.requests.free],
  ["read", (s) => s.requests.read],
  ["write", (s) => s.requests.write],
  ["others", (s) => {
    const { malloc, free, read, write } = s.requests;
    return sum(s.requests) - malloc - free - read - write;
  }],
  ["refused", (s) => sum(s.refused)],
  ["lost by the kernel", (s) => s.kernelDrops],
];

function showRates(now) {
  const newest = samples.at(-1);
  const before = samples.findLast(({ at }) => at <= newest.at - RATE_MS) ?? samples[0];
  const seconds = (newest.at - before.at) / 1000;
  const rate = (figure) => seconds > 0 ? Math.max(0, (figure(now) - figure(before)) / seconds) : 0;
  const all = rate((s) => sum(s.requests));
  set("rate", perSecondOf(all));
  for (const [name, figure] of RATES) setRow("rates", name, perSecondOf(rate(figure)));
  const second = Math.floor(newest.at / 1000);
  if (perSecond.at(-1)?.second === second) perSecond.at(-1).rate = all;
  else perSecond.push({ second, rate: all });
  while (perSecond[0].second < second - SPARK_SECONDS) perSecond.shift();
  const most = Math.max(1, ...perSecond.map(({ rate }) => rate));
  const points = perSecond.map(({ second: s, rate }) =>
    `${(120 * (1 - (second - s) / SPARK_SECONDS)).toFixed(1)} ${(31 - 30 * rate / most).toFixed(1)}`
  );
  const left = points[0].split(" ")[0];
  $("spark-line").setAttribute("d", `M${points.join("L")}`);
  $("spark-fill").setAttribute("d", `M${points.join("L")}L120 32L${left} 32Z`);
}

function setRow(list, name, text) {
  const id = `${list}-${name}`;
  if ($(id) === null) {
    const [row, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    value.id = id;
    row.append(term, value);
    $(list).append(row);
  }
  set(id, text);
}

function showLatency(now) {
  const before = samples[0];
  const bounds = Object.keys(now.latency);
  const counts = bounds.map((bound) => now.latency[bound] - before.latency[bound]);
  const total = counts.reduce((all, count) => all + count, 0);
  const quantile = (q) => {
    if (total === 0) return "–";
    let below = 0;
    const at = counts.findIndex((count) => (below += count) >= q * total);
    return bounds[at] === "inf" ? `> ${duration(+bounds[at - 1])}` : `< ${duration(+bounds[at])}`;
  };
  set("p50", quantile(0.5));
  set("p99", quantile(0.99));
  set("p999", quantile(0.999));
  const most = Math.max(1, ...counts);
  const bars = $("latency");
  while (bars.children.length < counts.length) bars.append(document.createElement("i"));
  counts.forEach((count, i) => {
    const bar = bars.children[i];
    bar.classList.toggle("none", count === 0);
    bar.style.height = `${100 * Math.sqrt(count / most)}%`;
    const below = bounds[i] === "inf" ? "and longer" : `below ${duration(+bounds[i])}`;
    bar.title = `${below}: ${number.format(count)}`;
  });
}

function showSizes(now) {
  const list = $("sizes");
  const sizes = Object.keys(now.liveBlocks)
    .filter((bytes) => now.liveBlocks[bytes] + now.freeBlocks[bytes] > 0);
  while (list.children.length > sizes.length) list.lastChild.remove();
  while (list.children.length < sizes.length) list.append(sizeRow());
  const bytesOf = (bytes) => bytes * (now.liveBlocks[bytes] + now.freeBlocks[bytes]);
  const most = Math.max(1, ...sizes.map(bytesOf));
  sizes.forEach((bytes, i) => {
    const [chip, name, bar, counts] = list.children[i].children;
    const order = Math.round(Math.log2(bytes / heap.grain));
    const [live, free] = [now.liveBlocks[bytes], now.freeBlocks[bytes]];
    chip.style.background = css(ofOrder(themeName(), order));
    name.textContent = size(+bytes);
    // Of some sizes there are many, of others few: the root lets both be seen.
    bar.style.width = `${100 * Math.sqrt(bytesOf(bytes) / most)}%`;
    bar.children[0].style.flex = live;
    bar.children[1].style.flex = free;
    counts.textContent = `${number.format(live)} · ${number.format(free)}`;
  });
}

function sizeRow() {
  const row = document.createElement("li");
  const [chip, name, counts] = ["i", "span", "span"].map((tag) => document.createElement(tag));
  const bar = document.createElement("div");
  bar.className = "bar-of";
  bar.append(document.createElement("b"), document.createElement("b"));
  row.append(chip, name, bar, counts);
  return row;
}

function showAbout({ address, stats, isServing }) {
  const engine = Object.keys(stats.engine).find((name) => stats.engine[name] === 1);
  const version = Object.keys(stats.version)[0];
  const state = isServing ? `up ${ago(stats.uptime)}` : "does not serve";
  $("about").classList.toggle("lost", !isServing);
  set("about", `${version} on ${address}, ${engine} engine, ${state}`);
}

// ---- pointing ----

function address(offset) {
  return `0x${(BigInt(heap.base) + BigInt(offset)).toString(16)}`;
}

/** Says what is at the cell that is pointed at. */
function point() {
  const cell = view.pointed;
  if (cell === undefined || heap === undefined || cells[cell] >>> 15 === 1) {
    $("where").innerHTML = "<span>Point at the map to see what is where.</span>";
    return;
  }
  const { isTouched, isWhole, order, share } = decode(cells[cell]);
  const { first, count } = isWhole ? blockOf(cell) : { first: cell, count: 1 };
  const start = Math.max(0, first * heap.cellBytes - heap.missing);
  const end = (first + count) * heap.cellBytes - heap.missing;
  const untouched = isTouched ? "" : ", never written";
  const blockSize = size(heap.grain * 2 ** order);
  let what;
  if (isWhole && share === 1) what = `live, one block of ${blockSize}${untouched}`;
  else if (isWhole) {
    what = `free, one block of ${blockSize}, ${isTouched ? "was used" : "never touched"}`;
  } else if (share === 0) what = `free, ${isTouched ? "was used" : "never touched"}`;
  else what = `${percent(share)} live, mostly blocks of ${blockSize}`;
  const range = document.createElement("span");
  range.textContent = `${address(start)} – ${address(end - 1)}, ${size(end - start)}`;
  $("where").replaceChildren(what, document.createElement("br"), range);
}

function cellAt(event) {
  if (picture === undefined) return undefined;
  const box = canvas.getBoundingClientRect();
  const { side, at } = picture;
  const x = Math.floor((event.clientX - box.left) / box.width * side);
  const y = Math.floor((event.clientY - box.top) / box.height * side);
  if (x < 0 || y < 0 || x >= side || y >= side) return undefined;
  const cell = at.indexOf(y * side + x);
  return cells[cell] >>> 15 === 1 ? undefined : cell;
}

function pointAt(cell) {
  if (cell === view.pointed) return;
  view.pointed = cell;
  draw();
  point();
}

for (const name of ["pointermove", "pointerdown"]) {
  canvas.addEventListener(name, (event) => pointAt(cellAt(event)));
}
canvas.addEventListener("pointerleave", () => pointAt(undefined));
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step === undefined || cells.length === 0) return;
  event.preventDefault();
  const { first, count } = blockOf(view.pointed ?? 0);
  const next = view.pointed === undefined ? 0 : step > 0 ? first + count : first - 1;
  if (next >= 0 && next < cells.length) pointAt(next);
});

// ---- choices ----

function showLegend() {
  const theme = themeName();
  $("untouched").style.background = css(THEMES[theme].untouched);
  $("free").style.background = css(THEMES[theme].free);
  const isFullness = view.mode === "fullness";
  const stops = Array.from(
    { length: 12 },
    (_, i) => css(isFullness ? fullness(theme, (i + 1) / 12) : ofOrder(theme, 2 * i)),
  );
  $("ramp").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  set("low", isFullness ? "sparse" : "16 B");
  set("high", isFullness ? "full" : "large");
}

function look() {
  for (const button of document.querySelectorAll("[data-mode], [data-curve]")) {
    const { mode, curve } = button.dataset;
    button.setAttribute("aria-pressed", String(mode === view.mode || curve === view.curve));
  }
  set("theme", view.theme);
  if (view.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = view.theme;
  picture = undefined;
  showLegend();
  draw();
}

/** A browser that may keep nothing for this page throws. */
function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch { /* it begins with the default again */ }
}

function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

for (const button of document.querySelectorAll("[data-mode], [data-curve]")) {
  button.addEventListener("click", () => {
    Object.assign(view, { ...button.dataset });
    look();
  });
}
$("theme").addEventListener("click", () => {
  const themes = ["auto", "light", "dark"];
  view.theme = themes[(themes.indexOf(view.theme) + 1) % themes.length];
  remember("theme", view.theme);
  look();
});
darkness.addEventListener("change", look);
new ResizeObserver(draw).observe(canvas);

view.theme = remembered("theme") ?? "auto";
look();
point();
pollForEver();
