/**
 * What was typed at the shell's prompt, kept from one session to the next: in the folder for state of the
 * XDG Base Directory Specification, in a file that only its owner can read.
 */

const MAX_LINES = 1000;

/** Where the history lies; undefined where there is no home. */
function path(): string | undefined {
  const state = Deno.env.get("XDG_STATE_HOME");
  // By the specification a path that is not absolute is to be ignored.
  if (state?.startsWith("/")) return `${state}/mallocd/history`;
  const home = Deno.env.get("HOME");
  return home ? `${home}/.local/state/mallocd/history` : undefined;
}

/** Lines, newest first, as node:readline keeps them. None if there is no file, or none that can be read. */
export function loadHistory(): string[] {
  const file = path();
  if (file === undefined) return [];
  try {
    const lines = Deno.readTextFileSync(file).split("\n").filter((line) => line !== "");
    return lines.reverse().slice(0, MAX_LINES);
  } catch {
    return []; // a shell without a past is as good
  }
}

/** Keeps lines, newest first. Throws what the file system says: no room, no permission, and the like. */
export function saveHistory(lines: readonly string[]): void {
  const file = path();
  if (file === undefined) return;
  Deno.mkdirSync(file.slice(0, file.lastIndexOf("/")), { recursive: true, mode: 0o700 });
  // Another shell must find the old lines or the new ones, never a half.
  const fresh = `${file}.${Deno.pid}`;
  Deno.writeTextFileSync(fresh, lines.slice(0, MAX_LINES).toReversed().join("\n") + "\n", {
    mode: 0o600,
  });
  Deno.renameSync(fresh, file);
}
