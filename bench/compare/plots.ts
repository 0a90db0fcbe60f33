/** The plots of docs/benchmarks.md, as SVG. */

// Not in deno.json's imports, because `deno compile` puts all of those into the executables.
// deno-lint-ignore no-import-prefix
import { init } from "npm:echarts@6.1.0";
import type { ServerKey } from "./loads.ts";

const WIDTH = 760;
const HEIGHT = 440;
const TEXT = { fontFamily: "sans-serif", color: "#333" };

interface Axis {
  readonly name: string;
  /** Of the logarithm; undefined for a linear axis. */
  readonly base?: number;
  readonly format: (value: number) => string;
}

interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly color: string;
  readonly type: "solid" | "dashed";
}

const COLORS: Readonly<Record<string, string>> = {
  "bound": "#777777",
  "C": "#777777",
  "datagram": "#1f77b4",
  "syscall": "#d62728",
  "syscall, coalesced": "#ff7f0e",
  "syscall, 32 a datagram": "#2ca02c",
};

/** Requests a second by datagrams in flight, for each line. */
export function throughputPlot(
  rates: Readonly<Record<string, readonly [inFlight: number, rate: number][]>>,
): string {
  return plot({
    title: "Reads of 64 bytes a second",
    x: { name: "datagrams in flight", base: 2, format: String },
    y: { name: "reads a second", base: 10, format: short },
    lines: Object.entries(rates).map(([name, points]) => ({
      name,
      points,
      color: COLORS[name]!,
      type: "solid",
    })),
  });
}

/** What is known of a server under a load: requests a second, and microseconds. */
interface LoadPoint {
  readonly rate: number;
  readonly p50: number;
  readonly p99: number;
}

/** Latencies by offered load, for each server. */
export function latencyPlot(
  servers: readonly { readonly server: ServerKey; readonly points: readonly LoadPoint[] }[],
): string {
  const lines = servers.flatMap(({ server, points }) =>
    ([["p50", "solid"], ["p99", "dashed"]] as const).map(([percentile, type]) => ({
      name: `${server === "bound" ? "C" : server}, ${percentile}`,
      points: points.map((point) => [point.rate, point[percentile]] as const),
      color: COLORS[server]!,
      type,
    }))
  );
  return plot({
    title: "Latency of reads of 64 bytes, 10% to 90% of each server's highest rate",
    x: { name: "offered reads a second", format: short },
    y: { name: "microseconds", base: 10, format: short },
    lines,
  });
}

function plot(
  { title, x, y, lines }: { title: string; x: Axis; y: Axis; lines: readonly Line[] },
): string {
  const chart = init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height: HEIGHT });
  chart.setOption({
    animation: false,
    backgroundColor: "#fff",
    textStyle: TEXT,
    title: { text: title, left: "center", top: 8, textStyle: { ...TEXT, fontSize: 16 } },
    legend: { bottom: 8, itemGap: 24, textStyle: TEXT },
    grid: { left: 70, right: 40, top: 64, bottom: 90 },
    xAxis: { ...axis(x), nameLocation: "middle", nameGap: 30 },
    yAxis: axis(y),
    series: lines.map(({ name, points, color, type }) => ({
      name,
      type: "line",
      symbolSize: 5,
      color,
      lineStyle: { width: 2, type },
      data: points.map((point) => [...point]),
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function axis({ name, base, format }: Axis) {
  const type = base === undefined ? "value" : "log";
  const axisLabel = { ...TEXT, formatter: format };
  return { type, name, nameTextStyle: TEXT, axisLabel, ...(base && { logBase: base }) } as const;
}

/** 1500 as 1.5k, 2000000 as 2M. */
function short(n: number): string {
  if (n >= 1e6) return `${n / 1e6}M`;
  return n >= 1e3 ? `${n / 1e3}k` : String(n);
}
