import { assertEquals } from "@std/assert";
import { type LogEvent, openLog } from "../../lib/daemon/log.ts";

/** What is written of some events. */
function linesOf(options: { json: boolean; quiet: boolean }, ...events: LogEvent[]): string[] {
  const lines: string[] = [];
  const log = openLog(options, (line) => lines.push(line));
  for (const event of events) log(event);
  return lines;
}

const EVENTS: LogEvent[] = [
  { msg: "ready", address: "[::1]:8081", reason: undefined, count: 3 },
  { msg: "not reloaded", reason: 'a "b" = c\nd', level: "error" },
  { msg: "warning", level: "warn" },
];

Deno.test("openLog() writes a line of logfmt for each event, its level first", () => {
  assertEquals(linesOf({ json: false, quiet: false }, ...EVENTS), [
    "level=info msg=ready address=[::1]:8081 count=3",
    'level=error msg="not reloaded" reason="a \\"b\\" = c\\nd"',
    "level=warn msg=warning",
  ]);
});

Deno.test("openLog() writes an object of JSON for each event, if that is asked for", () => {
  assertEquals(linesOf({ json: true, quiet: false }, ...EVENTS), [
    '{"level":"info","msg":"ready","address":"[::1]:8081","count":3}',
    '{"level":"error","msg":"not reloaded","reason":"a \\"b\\" = c\\nd"}',
    '{"level":"warn","msg":"warning"}',
  ]);
});

Deno.test("openLog() writes errors only, if it is to be quiet", () => {
  const [line, ...more] = linesOf({ json: false, quiet: true }, ...EVENTS);
  assertEquals([line?.startsWith("level=error "), more], [true, []]);
});

Deno.test("openLog() survives that nobody reads it", () => {
  const log = openLog({ json: false, quiet: false }, () => {
    throw new Deno.errors.BrokenPipe();
  });
  log({ msg: "ready" });
});
