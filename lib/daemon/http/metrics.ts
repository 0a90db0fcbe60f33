/** The table of all figures in two forms that programs read: Prometheus' text, and the object of the page. */

import { type Counters, type Figure, figures } from "../counters.ts";

/** By how many of a figure one base unit is, and what the unit is called in a metric's name. */
const UNITS = {
  bytes: [1, "bytes"],
  seconds: [1, "seconds"],
  nanoseconds: [1e9, "seconds"],
  millionths: [1e6, "ratio"],
} as const;

/** So many neighbouring sizes of blocks share a series: of 31 orders there are 8 each for live and free ones. */
const ORDERS_A_SERIES = 4;

/** One for each series: what comes behind the name, and its value. */
type Series = [labels: string, value: number];

/**
 * The exposition format of Prometheus, version 0.0.4: base units, counters that end in _total, and times as
 * a histogram.
 */
export function prometheusText(counters: Counters): string {
  const lines: string[] = [];
  const families = Map.groupBy(figures(), ({ family }) => family);
  for (const [family, figures] of families) {
    const { by, kind, help } = figures[0]!;
    if (family === "latencySum") continue; // part of the histogram
    const name = metricName(figures[0]!);
    if (by === "below") {
      const [sum] = families.get("latencySum")!;
      lines.push(...head(name, "histogram", help), ...histogram(name, figures, sum!, counters));
      continue;
    }
    const series = by === "size" ? bySize(figures, counters) : figures.map(one(counters));
    lines.push(
      ...head(name, kind, help),
      ...series.map(([labels, value]) => `${name}${labels} ${value}`),
    );
  }
  return lines.join("\n") + "\n";
}

/** All figures as the page wants them: families with members are objects. */
export function figuresByFamily(counters: Counters): Record<string, unknown> {
  const named: Record<string, unknown> = {};
  for (const { family, member, at } of figures()) {
    if (member === undefined) named[family] = counters[at]!;
    else Object.assign(named[family] ??= {}, { [member]: counters[at]! });
  }
  return named;
}

/** bytesAsked as mallocd_asked_bytes: words in small letters, the unit at the end, and _total for a counter. */
function metricName({ family, kind, unit, by }: Figure): string {
  const words = family.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`).split("_");
  const [, suffix] = unit === undefined ? [1, undefined] : UNITS[unit];
  const others = words.filter((word) => word !== suffix);
  const name = ["mallocd", ...others.length === 0 ? ["live"] : others];
  if (suffix !== undefined) name.push(suffix);
  if (by === "below") name.push("seconds");
  else if (kind === "counter") name.push("total");
  return name.join("_");
}

function head(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}

function valueOf({ unit, at }: Figure, counters: Counters): number {
  return counters[at]! / (unit === undefined ? 1 : UNITS[unit][0]);
}

function one(counters: Counters): (figure: Figure) => Series {
  return (figure) => {
    const { by, member } = figure;
    const labels = member === undefined ? "" : `{${by}="${member}"}`;
    return [labels, valueOf(figure, counters)];
  };
}

/** Blocks by the largest size of those that share a series, in bytes. */
function bySize(figures: readonly Figure[], counters: Counters): Series[] {
  const series: Series[] = [];
  for (let first = 0; first < figures.length; first += ORDERS_A_SERIES) {
    const together = figures.slice(first, first + ORDERS_A_SERIES);
    const value = together.reduce((sum, { at }) => sum + counters[at]!, 0);
    series.push([`{up_to="${together.at(-1)!.member}"}`, value]);
  }
  return series;
}

/** Buckets count what is not longer than their bound, and the last one all. */
function histogram(
  name: string,
  buckets: readonly Figure[],
  sum: Figure,
  counters: Counters,
): string[] {
  let count = 0;
  const lines = buckets.map(({ member, at }) => {
    count += counters[at]!;
    const bound = member === "inf" ? "+Inf" : Number(member) / UNITS.nanoseconds[0];
    return `${name}_bucket{le="${bound}"} ${count}`;
  });
  return [...lines, `${name}_sum ${valueOf(sum, counters)}`, `${name}_count ${count}`];
}
