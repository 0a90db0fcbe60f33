import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { CLIENT, CLIENT_FLAGS } from "../../lib/client/flags.ts";
import { COMMANDS } from "../../lib/client/commands.ts";
import { DAEMON, DAEMON_FLAGS } from "../../lib/daemon/flags.ts";
import { commandHelp, flagUsage, programHelp } from "../../lib/cli/help.ts";
import config from "../../deno.json" with { type: "json" };
import { manualPage } from "../../tools/manual.ts";
import { formatSize, parseDuration, parseSize } from "../../lib/cli/sizes.ts";
import { parseCommandLine, UsageError, variableOf } from "../../lib/cli/flags.ts";

function parse(args: string[], variables: Record<string, string> = {}) {
  return parseCommandLine(DAEMON, DAEMON_FLAGS, args, (name) => variables[name]);
}

Deno.test("parseSize() takes bytes and binary units", () => {
  const sizes: [string, number | undefined][] = [
    ["4096", 4096],
    ["64MiB", 64 * 2 ** 20],
    ["1GiB", 2 ** 30],
    ["1.5GiB", 1.5 * 2 ** 30],
    ["4KiB", 4096],
    ["2g", 2 ** 31],
    ["100B", 100],
    ["1.5", undefined],
    ["1MB", undefined],
    ["-1", undefined],
    ["", undefined],
    ["GiB", undefined],
    ["1e3", undefined],
    ["99999999999GiB", undefined],
  ];
  for (const [text, bytes] of sizes) assertEquals(parseSize(text), bytes, text);
});

Deno.test("formatSize() is undone by parseSize()", () => {
  for (const bytes of [1, 4096, 4112, 64 * 2 ** 20, 1.5 * 2 ** 30, 2 ** 32, 2 ** 32 - 16]) {
    assertEquals(parseSize(formatSize(bytes)), bytes);
  }
  assertEquals(formatSize(1.5 * 2 ** 30), "1.5GiB");
});

Deno.test("parseDuration() takes seconds and milliseconds", () => {
  assertEquals(parseDuration("1s"), 1000);
  assertEquals(parseDuration("250ms"), 250);
  assertEquals(parseDuration("1.5"), 1500);
  for (const text of ["", "s", "1m", "-1s", "1e3"]) assertEquals(parseDuration(text), undefined);
});

Deno.test("parseCommandLine() gives the defaults when nothing is given", () => {
  const { values, words } = parse([]);
  assertEquals(words, []);
  assertEquals(values.host, "127.0.0.1");
  assertEquals(values.port, 8081);
  assertEquals(values.memory, 2 ** 30);
  assertEquals(values.strict, false);
  assertEquals(values.allow, undefined);
});

Deno.test("parseCommandLine() prefers flag to variable to default", () => {
  const variables = { MALLOCD_PORT: "9000", MALLOCD_STRICT: "1", MALLOCD_MEMORY: "" };
  assertEquals(parse([], variables).values.port, 9000);
  assertEquals(parse([], variables).values.strict, true);
  assertEquals(parse([], variables).values.memory, 2 ** 30);
  assertEquals(parse(["--port", "1"], variables).values.port, 1);
  assertEquals(parse(["--port=2"], variables).values.port, 2);
});

Deno.test("parseCommandLine() names the value and the next step when a value is bad", () => {
  const cases: [string[], Record<string, string>, string][] = [
    [["--port", "65536"], {}, '--port cannot be "65536"'],
    [["--port", "-1"], {}, '--port cannot be "-1"'],
    [["--port", "8081x"], {}, '--port cannot be "8081x"'],
    [["--memory", "4097"], {}, '--memory cannot be "4097"'],
    [["--memory", "17GiB"], {}, '--memory cannot be "17GiB"'],
    [["--allow", "10.0.0.0/33"], {}, '--allow cannot be "10.0.0.0/33"'],
    [["--engine", "steam"], {}, '--engine cannot be "steam"'],
    [["--port"], {}, "--port needs one value"],
    [["--port="], {}, "--port needs one value"],
    [["--port", "1", "--port", "x"], {}, "--port"],
    [["--prot", "1"], {}, "unknown option --prot: did you mean --port?"],
    [["-x"], {}, "unknown option -x"],
    [["--constructor"], {}, "unknown option --constructor"],
    [[], { MALLOCD_PORT: "many" }, 'MALLOCD_PORT cannot be "many"'],
    [[], { MALLOCD_STRICT: "maybe" }, 'MALLOCD_STRICT cannot be "maybe"'],
  ];
  for (const [args, variables, message] of cases) {
    const error = assertThrows(() => parse(args, variables), UsageError, message);
    assert(error.hint.length > 0, args.join(" "));
  }
});

Deno.test("parseCommandLine() names a size's range, and its step if it is not one byte", () => {
  const hints = [
    ["--memory", "use 4KiB to 16GiB, a multiple of 16 bytes"],
    ["--receive-buffer", "use 4KiB to 1GiB"],
  ] as const;
  for (const [flag, hint] of hints) {
    assertEquals(assertThrows(() => parse([flag, "1"]), UsageError).hint, hint);
  }
});

Deno.test("parseCommandLine() takes numbers below zero and what follows -- as words", () => {
  const { words, values } = parse(["add", "-1", "--strict", "-", "--", "--port", "-x"]);
  assertEquals(words, ["add", "-1", "-", "--port", "-x"]);
  assertEquals(values.strict, true);
});

Deno.test("the manual page has every option as the help has it, with its letter, and where there is more", () => {
  for (const program of [DAEMON, CLIENT]) {
    const page = manualPage(program, "1").replaceAll("\\-", "-").replaceAll(/"/g, "")
      .replaceAll(/ +/g, " ");
    for (const [name, flag] of Object.entries(program.flags)) {
      assertStringIncludes(page, `\n.B${flag.placeholder ? "I" : ""} ${flagUsage(name, flag)}`);
    }
    for (const text of [page, programHelp(program)]) assertStringIncludes(text, config.name);
  }
});

Deno.test("programHelp() shows every flag with its real default", () => {
  for (const [program, flags] of [[DAEMON, DAEMON_FLAGS], [CLIENT, CLIENT_FLAGS]] as const) {
    const help = programHelp(program);
    for (const [name, flag] of Object.entries(flags)) {
      assertStringIncludes(help, `--${name}`);
      if ("default" in flag) assertStringIncludes(help, `(default ${flag.default})`);
    }
    assertStringIncludes(help, "\nExit codes:\n");
    assertStringIncludes(help, "\nSignals:\n");
    assertStringIncludes(help, program === CLIENT ? "mallocd(8)" : "mallocd-client(1)");
    const longest = Math.max(...help.split("\n").map((line) => line.length));
    assert(longest <= 100, `a line of ${longest} characters`);
  }
});

Deno.test("commandHelp() shows usage and an example for every command", () => {
  for (const [name, command] of Object.entries(COMMANDS)) {
    const help = commandHelp(CLIENT, name, command);
    assertStringIncludes(help, `Usage: mallocd-client [OPTIONS] ${name} ${command.words}`.trim());
    assertStringIncludes(help, `$ mallocd-client ${name}`);
    const longest = Math.max(...help.split("\n").map((line) => line.length));
    assert(longest <= 100, `${name}: a line of ${longest} characters`);
  }
});

Deno.test("variableOf() writes a flag as an environment variable", () => {
  assertEquals(variableOf("replay-cache"), "MALLOCD_REPLAY_CACHE");
});
