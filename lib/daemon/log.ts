/**
 * The log: one line an event, on stderr, with a level. It has no time in it, which whoever keeps logs
 * adds: journald, the runtime of a container, ts(1).
 */

/** What an event means to an operator: nothing to do, something to look at, something that did not work. */
export type Level = "info" | "warn" | "error";

/** What happened, how much that matters, and what is told with it; undefined is left out. */
export interface LogEvent {
  readonly msg: string;
  /** info, unless it is given. */
  readonly level?: Level;
  readonly [field: string]: string | number | undefined;
}

export type Log = (event: LogEvent) => void;

/** Lines of logfmt or, with `json`, objects of JSON; with `quiet` only errors. */
export function openLog(
  { json, quiet }: { json: boolean; quiet: boolean },
  write: (line: string) => void = console.error,
): Log {
  const format = json ? JSON.stringify : logfmt;
  return ({ level = "info", msg, ...fields }) => {
    if (quiet && level !== "error") return;
    try {
      write(format({ level, msg, ...fields }));
    } catch {
      // Whoever should read this is gone, the disk is full: no reason not to serve.
    }
  };
}

/** key=value, and values with blanks in quotes. */
function logfmt(event: LogEvent): string {
  return Object.entries(event)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => {
      const text = String(value);
      return `${key}=${/[\s"=]/.test(text) ? JSON.stringify(text) : text}`;
    })
    .join(" ");
}
