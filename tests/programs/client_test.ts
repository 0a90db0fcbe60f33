/** mallocd-client as a process: its commands, its errors, its exit codes. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { CLIENT_FLAGS } from "../../lib/client/flags.ts";
import { COMMANDS } from "../../lib/client/commands.ts";
import { Proxy } from "../clients/proxy.ts";
import { vacantPort } from "../sockets.ts";
import { Random } from "../testing.ts";
import {
  CLIENT,
  done,
  failed,
  FIRST,
  Mallocd,
  misused,
  ROOT,
  run,
  Terminal,
  whyNoTerminal,
} from "./programs.ts";

const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));

/** A port of this host on which nobody listens. */
const NOBODY_PORT = vacantPort();
const NOBODY = `127.0.0.1:${NOBODY_PORT}`;

function client(line: string, env?: Record<string, string>) {
  return run(CLIENT, line === "" ? [] : line.split(" "), {
    env: { MALLOCD_SERVER: NOBODY, ...env },
  });
}

Deno.test("mallocd-client --help shows every command and option", async () => {
  const { code, stdout, stderr } = await client("--help");
  assertEquals([code, stderr], [0, ""]);
  const commands = [...stdout.matchAll(/^ {2}([a-z]\w*)/gm)].map(([, name]) => name);
  assertEquals(commands, Object.keys(COMMANDS));
  const flags = [...stdout.matchAll(/^ {2}(?:-\w, )?--([\w-]+)/gm)].map(([, name]) => name);
  assertEquals(flags, Object.keys(CLIENT_FLAGS));
  assertEquals(await client("-h"), done(stdout));
  for (const word of ["Exit codes:", "Signals:", "See also: mallocd(8)"]) {
    assertStringIncludes(stdout, word);
  }
});

Deno.test("mallocd-client warns of a misspelt variable, and names the nearest one", async () => {
  const env = { MALLOCD_SERVR: "127.0.0.1:1", MALLOCD_MEMORY: "4KiB", MALLOCD_X: "" };
  const { code, stderr } = await client("version", env);
  assertEquals([code, stderr], [
    0,
    "mallocd-client: the variable MALLOCD_SERVR means nothing: did you mean MALLOCD_SERVER?\n",
  ]);
});

Deno.test("mallocd-client does not allocate when standard output is closed", async () => {
  await using daemon = await Mallocd.start();
  const message =
    "standard output is closed, or /dev/null open for reading, too: >/dev/null will do";
  const lines = ["shell", "--pipe", "--pipe --json"].map((line) => `${line} <<<"malloc 10"`);
  const commands = [
    "malloc 10",
    "calloc 1 10",
    "realloc 0 10",
    "-r 3 malloc 10",
    "install README.md",
  ];
  for (const command of [...commands, ...lines]) {
    for (const output of [">&-", "1<>/dev/null"]) {
      const line = `mallocd-client ${command} ${output}`;
      assertEquals(await run("bash", ["-c", line], { env: daemon.env }), failed(message), line);
    }
  }
  assertEquals(await daemon.client("malloc 10"), done(`${FIRST}\n`));
  const line =
    "mallocd-client malloc 10 >/dev/null && mallocd-client ping --count 1 1<>/dev/null " +
    `&& mallocd-client --pipe <<<'write ${FIRST} "x"' 1<>/dev/null`;
  assertEquals(await run("bash", ["-c", line], { env: daemon.env }), done());
  assertEquals(await daemon.client("malloc 10"), done(`${FIRST + 32}\n`));
});

Deno.test("mallocd-client --pipe answers each line of input by a line, in order", async () => {
  await using daemon = await Mallocd.start();
  const input = [
    "malloc 1KiB",
    "# a comment",
    `write ${FIRST} "a\\tb"`,
    `read ${FIRST} 4`,
    "mallok 5",
    "dump 16 1",
    "free 5",
    `add ${FIRST + 8} 7`,
    `free ${FIRST}`,
  ];
  const { code, stdout, stderr } = await daemon.client("--pipe", { input: input.join("\n") });
  assertEquals([code, stderr], [1, ""]);
  assertEquals(stdout.split("\n"), [
    `${FIRST}`,
    "ok",
    "a\\x09b\\x00",
    'error: unknown command "mallok": did you mean malloc?',
    "error: dump cannot be piped",
    "error: free(0x5): bad address",
    "0",
    "ok",
    "",
  ]);
  const many = Array.from({ length: 2000 }, (_, i) => `malloc ${i + 1}`).join("\n");
  const outcome = await daemon.client("--pipe --json", { input: many });
  assertEquals([outcome.code, outcome.stderr], [0, ""]);
  const pointers = outcome.stdout.trimEnd().split("\n").map((line) => JSON.parse(line).pointer);
  assertEquals(new Set(pointers).size, 2000);
  assertEquals(
    await daemon.client("--pipe malloc 5"),
    misused("--pipe leaves no room for malloc", "put it into standard input"),
  );
});

Deno.test("mallocd-client --pipe answers a line before the next one comes", async () => {
  await using daemon = await Mallocd.start();
  const child = new Deno.Command(CLIENT, {
    args: ["--pipe"],
    env: daemon.env,
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000); // it would wait for more lines
  const input = child.stdin.getWriter();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const ask = async (line: string) => {
    await input.write(new TextEncoder().encode(`${line}\n`));
    return (await output.read()).value;
  };
  const pointer = await ask("malloc 5");
  assertEquals(pointer, `${FIRST}\n`);
  assertEquals(await ask(`free ${pointer!.trim()}`), "ok\n");
  await input.close();
  assertEquals((await output.read()).done, true);
  assertEquals((await child.status).code, 0);
  clearTimeout(timer);
});

Deno.test("mallocd-client --pipe answers whatever bytes come by short lines of plain text", async () => {
  await using daemon = await Mallocd.start();
  const encode = (text: string) => new TextEncoder().encode(text);
  const input = [
    encode("\0\x1b[2J\n"),
    new Uint8Array([0xff, 0xfe, 0x0a]),
    encode("a".repeat(1_000_000) + "\n"),
    encode(`malloc ${"9".repeat(1_000_000)}\n`),
    encode("malloc 5"),
  ];
  const { code, stdout } = await daemon.client("--pipe", {
    input: new Uint8Array(await new Blob(input).arrayBuffer()),
  });
  const lines = stdout.split("\n");
  assertEquals([code, lines.length, lines.slice(4)], [1, 6, [`${FIRST}`, ""]]);
  assertEquals(lines.slice(0, 2), [
    'error: unknown command "\\u0000\\u001b[2J"',
    'error: unknown command "\ufffd\ufffd"',
  ]);
  for (const line of lines.slice(2, 4)) assertMatch(line, /^error: .{20,600}\.\.\.$/);
});

Deno.test("mallocd-client shell takes sizes for the length of a write, too", async () => {
  await using daemon = await Mallocd.start();
  const { stdout, stderr } = await inShell(
    daemon,
    "p = malloc 16",
    "write $p 1KiB hello",
    "write $p 5 hello",
    "read $p 5",
  );
  assertEquals([stdout, stderr.slice(1)], [
    "hello",
    ["LEN is 1024 but DATA is 5 bytes long", "Try: use 5, or - for as long as the data is"],
  ]);
});

Deno.test("mallocd-client COMMAND --help explains the command, without a daemon", async () => {
  for (const [name, { words, example }] of Object.entries(COMMANDS)) {
    const { code, stdout, stderr } = await client(`${name} --help`);
    assertEquals([code, stderr], [0, ""]);
    assertStringIncludes(stdout, `Usage: mallocd-client [OPTIONS] ${name} ${words}`.trim());
    assertStringIncludes(stdout, `  $ ${example}\n`);
  }
});

Deno.test("mallocd-client --version prints the version of deno.json", async () => {
  assertEquals(await client("--version"), done(`mallocd-client ${config.version}\n`));
});

const COMMANDS_HINT = "mallocd-client help lists them";
const SIZE_HINT = "use a number of bytes as 64, 0x40 or 1MiB, up to 64 bits";
const NUMBER_HINT = "use a 64-bit number, decimal or 0x hexadecimal";
const SERVER_HINT = "use HOST:PORT, as 127.0.0.1:8081 or [::1]:8081";

const MISUSES: [line: string, message: string, hint: string, env?: Record<string, string>][] = [
  ["", "no command", COMMANDS_HINT],
  ["mallok 5", 'unknown command "mallok": did you mean malloc?', COMMANDS_HINT],
  ["raed 16 1", 'unknown command "raed": did you mean read?', COMMANDS_HINT],
  ["help mallok", 'unknown command "mallok": did you mean malloc?', COMMANDS_HINT],
  [
    "malloc --hexx 5",
    "unknown option --hexx: did you mean --hex?",
    "mallocd-client --help lists the options",
  ],
  ["toString", 'unknown command "toString"', COMMANDS_HINT],
  ["malloc", "malloc: LEN is missing", "mallocd-client malloc LEN"],
  ["read 16", "read: LEN is missing", "mallocd-client read PTR LEN"],
  ["write", "write: PTR is missing", "mallocd-client write PTR LEN [DATA...]"],
  ["free 16 32", 'free: "32" is one word too many', "mallocd-client free PTR"],
  ["ping 16", 'ping: "16" is one word too many', "mallocd-client ping"],
  ["shell 16", 'shell: "16" is one word too many', "mallocd-client shell"],
  ["malloc five", 'LEN cannot be "five"', SIZE_HINT],
  ["malloc -1", 'LEN cannot be "-1"', SIZE_HINT],
  ["malloc 1.5", 'LEN cannot be "1.5"', SIZE_HINT],
  ["malloc 18446744073709551616", 'LEN cannot be "18446744073709551616"', SIZE_HINT],
  ["calloc x 1", 'N cannot be "x"', NUMBER_HINT],
  ["calloc 1 x", 'SIZE cannot be "x"', SIZE_HINT],
  ["realloc 0x 1", 'PTR cannot be "0x"', NUMBER_HINT],
  ["free c420000000", 'PTR cannot be "c420000000"', NUMBER_HINT],
  ["cas 16 x 1", 'EXPECTED cannot be "x"', NUMBER_HINT],
  ["cas 16 1 x", 'DESIRED cannot be "x"', NUMBER_HINT],
  ["add 16 --1", "unknown option --1", "mallocd-client --help lists the options"],
  ["add 16 -9223372036854775809", 'DELTA cannot be "-9223372036854775809"', NUMBER_HINT],
  ["stress often", 'N cannot be "often"', NUMBER_HINT],
  [
    "read 16 17179869185",
    "LEN cannot be 17179869185",
    "use 17179869184 at most, the size of the largest heap",
  ],
  [
    "write 16 3 hello",
    "LEN is 3 but DATA is 5 bytes long",
    "use 5, or - for as long as the data is",
  ],
  [
    "write 16 9 hello",
    "LEN is 9 but DATA is 5 bytes long",
    "use 5, or - for as long as the data is",
  ],
  ["--server here:now malloc 5", '--server cannot be "here:now"', SERVER_HINT],
  ["malloc 5", 'MALLOCD_SERVER cannot be ":"', SERVER_HINT, { MALLOCD_SERVER: ":" }],
  ["--timeout 0 malloc 5", '--timeout cannot be "0"', "use a time as 500ms or 2s, 50s at most"],
  ["--timeout 1h malloc 5", '--timeout cannot be "1h"', "use a time as 500ms or 2s, 50s at most"],
  [
    "malloc 5 --count 2",
    "malloc takes no option --count",
    "mallocd-client malloc --help lists those that it takes",
  ],
  ["ping --count none", '--count cannot be "none"', "use a whole number from 1 to 1000000"],
  ["--hex=1 malloc 5", "--hex takes no value", "--hex, or leave it out"],
  ["-i 1 malloc 5", "malloc is done once: --every waits before a repeat", "-r N, too"],
  ["--pipe -r 2", "--repeat means nothing to --pipe", "leave one of them out"],
];

Deno.test("mallocd-client says what is wrong with its command line and what to do, exit code 2", async () => {
  for (const [line, message, hint, env] of MISUSES) {
    assertEquals(await client(line, env), misused(message, hint));
  }
});

Deno.test("mallocd-client says at once that nobody listens, exit code 1", async () => {
  const absence = (server = NOBODY) =>
    failed(`nobody listens on ${server}: is mallocd running there?`);
  // Longer than a program may run here.
  const env = { MALLOCD_TIMEOUT: "50s" };
  const outcomes = await Promise.all([
    client("malloc 5"),
    client("--classic malloc 5", env),
    client("info", env),
    client("--classic read 842350460928 5", env),
    client("--timeout 0.25 free 842350460928"),
    client("write 842350460928 5 hello", env),
    client("shell", env),
    client(`--server [::1]:${NOBODY_PORT} stress`, env),
  ]);
  const absent = absence();
  assertEquals(outcomes, [
    ...[absent, absent, absent, absent, absent, absent, absent],
    absence(`[::1]:${NOBODY_PORT}`),
  ]);
});

Deno.test("mallocd-client says that nobody answers where somebody listens, exit code 1", async () => {
  for (const host of ["127.0.0.1", "0.0.0.0", "::"]) {
    await using daemon = await Mallocd.start(["--host", host, "--anyone"]);
    Deno.kill(daemon.pid, "SIGSTOP");
    const server = `127.0.0.1:${daemon.port}`;
    for (const [options, time] of [["", "1s"], ["--classic --timeout 250ms ", "250ms"]]) {
      assertEquals(
        await client(`${options}--server ${server} malloc 5`),
        failed(`no reply from ${server} within ${time}: is mallocd running there?`),
      );
    }
  }
});

Deno.test("mallocd-client says that it cannot find the server, exit code 1", async () => {
  const { code, stdout, stderr } = await client("--server nobody.invalid malloc 5");
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /^mallocd-client: cannot find the host nobody\.invalid: .+\n$/);
});

for (const protocol of ["", "--classic "]) {
  Deno.test(`mallocd-client ${protocol}plays the paper's session`, async () => {
    await using daemon = await Mallocd.start();
    assertEquals(await daemon.client(`${protocol}malloc 5`), done(`${FIRST}\n`));
    assertEquals(await daemon.client(`${protocol}write ${FIRST} 5 hello`), done());
    assertEquals(await daemon.client(`${protocol}read ${FIRST} 4`), done("hell"));
    assertEquals(await daemon.client(`${protocol}free ${FIRST}`), done());
    await daemon.settle();
    const { totals } = await daemon.stop();
    assertEquals([totals["blocks"], totals["silent"]], [undefined, undefined]);
    for (const method of ["malloc", "write", "read", "free"]) {
      assertEquals(totals[`requests.${method}`], "1");
    }
  });

  Deno.test(`mallocd-client ${protocol}moves what is larger than a datagram`, async () => {
    await using daemon = await Mallocd.start();
    const seed = 7;
    const input = new Random(seed).bytes(1_000_003);
    assertEquals(await daemon.client(`${protocol}malloc ${input.length}`), done(`${FIRST}\n`));
    assertEquals(await daemon.client(`${protocol}write ${FIRST} - `.trim(), { input }), done());
    const back = await daemon.clientBytes(`${protocol}read ${FIRST} ${input.length}`);
    assertEquals(back.length, input.length);
    assert(back.every((byte, i) => byte === input[i]), `seed ${seed}`);
  });

  Deno.test(`mallocd-client ${protocol}reads exactly the bytes that were written`, async () => {
    await using daemon = await Mallocd.start();
    await daemon.client("malloc 256");
    const input = Uint8Array.from({ length: 256 }, (_, i) => i);
    assertEquals(await daemon.client(`${protocol}write ${FIRST} 256`, { input }), done());
    assertEquals(await daemon.clientBytes(`${protocol}read ${FIRST} 256`), input);
    assertEquals(await daemon.clientBytes(`${protocol}read ${FIRST} 0`), new Uint8Array());
  });
}

Deno.test("mallocd-client tells what was refused and why, exit code 1", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  const refusals: [line: string, message: string][] = [
    ["malloc 1048577", "malloc(1048577): out of memory"],
    ["malloc 0xffffffffffffffff", "malloc(18446744073709551615): out of memory"],
    ["calloc 0x100000000 0x100000000", "calloc(4294967296, 4294967296): out of memory"],
    ["realloc 0 1048577", "realloc(0x0, 1048577): out of memory"],
    ["realloc 842350460944 5", "realloc(0xc420000010, 5): invalid argument"],
    ["free 842350460928", "free(0xc420000000): invalid argument"],
    ["free 5", "free(0x5): bad address"],
    ["read 0 5", "read(0x0, 5): bad address"],
    ["read 842350460928 1048577", "read(0xc420000000, 1048577): bad address"],
    ["write 842351509504 1 x", "write(0xc420100000, 1, data): bad address"],
    ["dump 0x10 5", "read(0x10, 5): bad address"],
    ["cas 842350460932 0 1", "cas(0xc420000004, 0, 1): invalid argument"],
    ["add 0 1", "add(0x0, 1): bad address"],
    ["--classic malloc 1048577", "malloc(1048577): out of memory"],
    ["--classic read 0 5", "read(0x0, 5): refused"],
    ["--classic realloc 0 5", "realloc(0x0, 5): needs the tagged protocol"],
    ["--classic cas 842350460928 0 1", "cas(0xc420000000, 0, 1): needs the tagged protocol"],
    ["--classic add 842350460928 1", "add(0xc420000000, 1): needs the tagged protocol"],
  ];
  for (const [line, message] of refusals) {
    assertEquals(await daemon.client(line), failed(message));
  }
});

Deno.test("mallocd-client --classic cannot know what became of free and write", async () => {
  await using daemon = await Mallocd.start();
  assertEquals(await daemon.client("--classic free 5"), done());
  assertEquals(await daemon.client("--classic write 5 5 hello"), done());
  assertEquals(await client("--classic free 5"), done());
  await daemon.settle();
  assertEquals((await daemon.stop()).totals["silent"], "2");
});

Deno.test("mallocd-client write takes words or standard input, as long as LEN says", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 64");
  const pointer = `${FIRST}`;
  const cases: [words: string[], written: string, input?: string][] = [
    [["5", "hello"], "hello"],
    [["12", "with", "love,", "C"], "with love, C"],
    [["-", "two  blanks", "kept"], "two  blanks kept"],
    [["2", "é"], "é"],
    [["-", "--", "-n", "--hex"], "-n --hex"],
    [["-", "-1"], "-1"],
    [["5"], "hello", "hello"],
    [["-"], "a line\n", "a line\n"],
    [["0"], "", ""],
    [["-"], "", ""],
  ];
  for (const [words, written, input] of cases) {
    const options = input === undefined ? {} : { input };
    assertEquals(await daemon.client(["write", pointer, ...words], options), done());
    const { length } = new TextEncoder().encode(written);
    assertEquals(await daemon.client(`read ${pointer} ${length}`), done(written));
  }
  for (const [wanted, input] of [[9, "hello"], [1, ""]] as const) {
    assertEquals(
      await daemon.client(`write ${pointer} ${wanted}`, { input }),
      misused(
        `LEN is ${wanted} but standard input ended after ${input.length} bytes`,
        `use ${input.length}, or - for as long as the data is`,
      ),
    );
  }
});

Deno.test("mallocd-client calloc and realloc give zeroed bytes and keep what was there", async () => {
  await using daemon = await Mallocd.start();
  assertEquals(await daemon.client("calloc 4 8"), done(`${FIRST}\n`));
  await daemon.client(`write ${FIRST} 5 hello`);
  assertEquals(await daemon.client(`realloc ${FIRST} 64`), done(`${FIRST}\n`)); // there was room
  assertEquals(await daemon.client("malloc 1"), done(`${FIRST + 64}\n`));
  assertEquals(await daemon.client(`realloc ${FIRST} 65`), done(`${FIRST + 128}\n`));
  assertEquals(await daemon.client(`read ${FIRST + 128} 8`), done("hello\0\0\0"));
  assertEquals(await daemon.client(`realloc ${FIRST + 128} 0`), done("0\n"));
  assertEquals(await daemon.client("realloc 0 64"), done(`${FIRST}\n`));
  assertEquals(await daemon.client(`read ${FIRST} 8`), done("\0".repeat(8)));
});

Deno.test("mallocd-client cas and add print the old value, modulo 2^64", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 8");
  const steps: [line: string, old: string][] = [
    [`add ${FIRST} -1`, "0"],
    [`add ${FIRST} 2`, "18446744073709551615"],
    [`cas ${FIRST} 5 6`, "1"],
    [`cas ${FIRST} 1 -9223372036854775808`, "1"],
    [`cas ${FIRST} -9223372036854775808 0xffffffffffffffff`, "9223372036854775808"],
    [`add 0xc420000000 0x2`, "18446744073709551615"],
    [`add ${FIRST} -0`, "1"],
  ];
  for (const [line, old] of steps) assertEquals(await daemon.client(line), done(`${old}\n`));
  assertEquals(await daemon.client(`read ${FIRST} 8`), done("\0\0\0\0\0\0\0\x01"));
});

Deno.test("mallocd-client --hex prints pointers in hexadecimal", async () => {
  await using daemon = await Mallocd.start();
  assertEquals(await daemon.client("--hex malloc 5"), done("0xc420000000\n"));
  assertEquals(await daemon.client("calloc 1 1 --hex"), done("0xc420000010\n"));
  const env = { MALLOCD_HEX: "1" };
  assertEquals(await daemon.client("realloc 0xc420000000 20", { env }), done("0xc420000020\n"));
  assertStringIncludes((await daemon.client("--hex info")).stdout, "base: 0xc420000000\n");
});

Deno.test("mallocd-client info prints what the daemon tells", async () => {
  await using daemon = await Mallocd.start(["--memory", "1.5GiB"]);
  const { stdout, ...outcome } = await daemon.client("info");
  assertEquals(
    { ...outcome, stdout: stdout.replace(/0x[0-9a-f]{16}/, "EPOCH") },
    done(
      `server: ${daemon.server}\nprotocol: tagged 2\nepoch: EPOCH\nbase: ${FIRST}\n` +
        "size: 1610612736 (1.5GiB)\nlargest datagram: 65507\n",
    ),
  );
  assertEquals((await daemon.client("info")).stdout, stdout);
  assertEquals(
    await daemon.client("--classic info"),
    done(`server: ${daemon.server}\nprotocol: classic\n`),
  );
});

Deno.test("mallocd-client --verbose says which protocol is spoken, and why", async () => {
  await using daemon = await Mallocd.start();
  const said = async (line: string) => {
    const { code, stdout, stderr } = await daemon.client(line);
    assertEquals([code, stdout], [0, `${FIRST}\n`]);
    await daemon.client(`free ${FIRST}`);
    return stderr;
  };
  const prefix = `mallocd-client: ${daemon.server} speaks the`;
  assertEquals(
    await said("--verbose malloc 5"),
    `${prefix} tagged protocol (hello was answered)\n`,
  );
  assertEquals(
    await said("--verbose --classic malloc 5"),
    `${prefix} classic protocol (as asked)\n`,
  );
});

Deno.test("mallocd-client --server beats MALLOCD_SERVER, and may be a name or IPv6", async () => {
  await using daemon = await Mallocd.start();
  const env = { MALLOCD_SERVER: NOBODY };
  assertEquals(
    await daemon.client(`--server localhost:${daemon.port} malloc 5`, { env }),
    done(`${FIRST}\n`),
  );
  await using v6 = await Mallocd.start(["--host", "::1"]);
  assertMatch(v6.server, /^\[::1\]:\d+$/);
  assertEquals(await v6.client("malloc 5"), done(`${FIRST}\n`));
});

Deno.test("mallocd-client ping prints each round trip and a summary", async () => {
  await using daemon = await Mallocd.start();
  for (const protocol of ["", "--classic "]) {
    const { code, stdout, stderr } = await daemon.client(
      `${protocol}ping --count 2 --interval 1ms`,
    );
    assertEquals([code, stderr], [0, ""]);
    const reply = (i: number) => `reply from ${daemon.server}: seq=${i} time=N ms\n`;
    assertEquals(
      stdout.replaceAll(/\d+\.\d{3}/g, "N"),
      `${reply(1)}${reply(2)}2 sent, 2 received, 0 lost; min/avg/max N/N/N ms\n`,
    );
  }
});

Deno.test("mallocd-client looks at the variables of options that the command takes, only", async () => {
  await using daemon = await Mallocd.start();
  const env = { MALLOCD_SIZE: "bogus", MALLOCD_COUNT: "1" };
  assertEquals(await daemon.client("malloc 5", { env }), done(`${FIRST}\n`));
  assertMatch((await daemon.client("ping", { env })).stdout, /^1 sent, 1 received/m);
  assertEquals(
    await daemon.client("bench", { env }),
    misused('MALLOCD_SIZE cannot be "bogus"', "use bytes, as 64, 1KiB, 16-1024 or log:16-1KiB"),
  );
});

Deno.test("mallocd-client bench says what to do when there are more clients than sockets", async () => {
  await using daemon = await Mallocd.start();
  const line = "ulimit -n 64; exec mallocd-client bench --clients 200";
  const { code, stdout, stderr } = await run("sh", ["-c", line], { env: daemon.env });
  assertEquals([code, stdout], [2, ""]);
  const { stderr: expected } = misused(
    "bench: this process may not open 200 sockets, one for each client",
    "use fewer --clients, or raise the limit, ulimit -n",
  );
  assert(stderr.endsWith(expected), stderr);
});

Deno.test("mallocd-client bench names the limit that it hit", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  const full = await daemon.client("bench --seconds 0.1s --clients 100 --size 1KiB");
  assertEquals([full.code, full.stdout], [1, ""]);
  const memory =
    "bench: malloc(1024): out of memory: it takes 3200 blocks, 32 for each of --clients";
  assertStringIncludes(full.stderr, `${memory}: use fewer, or a smaller --size\n`);
  // A rate that no daemon reaches is said to be missed, and costs no request.
  const { code, stdout, stderr } = await daemon.client(
    "--timeout 2s --json bench --seconds 0.2s --rate 10000000 --size 1KiB",
  );
  assertStringIncludes(stderr, "bench: the rate of 10000000 a second was not reached");
  const { lost, unsent } = JSON.parse(stdout);
  assertEquals([code, lost, unsent > 1_000_000], [0, 0, true]);
});

Deno.test("mallocd-client ping counts what is lost, exit code 1 if that is all", async () => {
  const { code, stdout, stderr } = await client("--classic --timeout 20ms ping --count 2");
  assertEquals([code, stdout], [1, "2 sent, 0 received, 2 lost\n"]);
  const line = `nobody listens on ${NOBODY}: is mallocd running there?\n`;
  assertEquals(stderr, line + line);
});

Deno.test("mallocd-client help and version say what --help and --version do", async () => {
  assertEquals(await client("help"), await client("--help"));
  assertEquals(await client("help malloc"), await client("malloc --help"));
  assertEquals(await client("version"), await client("--version"));
});

Deno.test("mallocd-client takes sizes wherever a length is taken", async () => {
  await using daemon = await Mallocd.start(["--memory", "4MiB"]);
  assertEquals(await daemon.client("malloc 1MiB"), done(`${FIRST}\n`));
  assertEquals(await daemon.client("calloc 2 1KiB"), done(`${FIRST + 2 ** 20}\n`));
  assertEquals(await daemon.client(`realloc ${FIRST} 2K`), done(`${FIRST}\n`));
  assertEquals((await daemon.clientBytes(`read ${FIRST} 1.5KiB`)).length, 1536);
  assertEquals(await daemon.client(`write ${FIRST} 1KiB`, { input: "x".repeat(1024) }), done());
  assertEquals(await daemon.client(`dump ${FIRST} 1KiB`), {
    ...done(),
    stdout: `000000c420000000  ${"78 ".repeat(8)} ${"78 ".repeat(8)} |${"x".repeat(16)}|\n` +
      "*\n000000c420000400\n",
  });
});

Deno.test("mallocd-client write reads LEN bytes of standard input and no more", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 64");
  const line = `mallocd-client write ${FIRST} 5; cat`;
  const outcome = await run("sh", ["-c", line], { env: daemon.env, input: "hello, world" });
  assertEquals(outcome, done(", world"));
  assertEquals(await daemon.client(`read ${FIRST} 7`), done("hello\0\0"));
});

Deno.test("mallocd-client write and read refuse what cannot fit before anything is moved", async () => {
  await using daemon = await Mallocd.start(["--memory", "16MiB"]);
  await daemon.client("malloc 16MiB");
  const file = await Deno.makeTempFile({ prefix: "mallocd-" });
  try {
    await Deno.writeFile(file, new Uint8Array(9 * 2 ** 20).fill(0x78));
    const middle = FIRST + 8 * 2 ** 20;
    const line = `mallocd-client write ${middle} - <${file}`;
    const refused = failed("write(0xc420800000, 9437184, data): bad address");
    assertEquals(await run("sh", ["-c", line], { env: daemon.env }), refused);
    const exact = `mallocd-client write ${middle} 9MiB <${file}`;
    assertEquals(await run("sh", ["-c", exact], { env: daemon.env }), refused);
    assertEquals(await daemon.client(`read ${middle} 2`), done("\0\0"));
    assertEquals(
      await daemon.client(`read ${middle} 9MiB`),
      failed("read(0xc420800000, 9437184): bad address"),
    );
    const fitting = `mallocd-client write ${FIRST} - <${file}`;
    assertEquals(await run("sh", ["-c", fitting], { env: daemon.env }), done());
    assertEquals(await daemon.client(`read ${FIRST + 9 * 2 ** 20 - 1} 2`), done("x\0"));
    const back = await daemon.clientBytes(`read ${FIRST} 9MiB`);
    assert(back.length === 9 * 2 ** 20 && back.every((byte) => byte === 0x78));
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("mallocd-client write and read name the address that was typed", async () => {
  await using daemon = await Mallocd.start(["--strict"]);
  await daemon.client("malloc 1MiB");
  const input = new Uint8Array(2 * 2 ** 20);
  assertEquals(
    await daemon.client(`write ${FIRST} -`, { input }),
    failed("write(0xc420000000, 2097152, data): not inside one live allocation"),
  );
  const { code, stdout, stderr } = await daemon.client(`read ${FIRST} 2MiB`);
  const { stderr: expected } = failed(
    "read(0xc420000000, 2097152): not inside one live allocation",
  );
  assertEquals([code, stderr], [1, expected]);
  assert(stdout === "\0".repeat(2 ** 20), `${stdout.length} bytes`); // what was there is printed
});

Deno.test("mallocd-client fails when its output cannot be written, and frees what was for it", async () => {
  await using daemon = await Mallocd.start();
  const full = "No space left on device (os error 28)";
  for (const command of ["malloc 10", "calloc 1 10", "realloc 0 10", "--json malloc 10"]) {
    const line = `mallocd-client ${command} >/dev/full`;
    assertEquals(await run("sh", ["-c", line], { env: daemon.env }), failed(full));
  }
  const closed = "{ mallocd-client malloc 10; echo $? >&2; } | true";
  assertEquals((await run("sh", ["-c", closed], { env: daemon.env })).stderr, "1\n");
  for (const command of ["info", "ping --count 1", "help", "version", "help malloc"]) {
    const line = `mallocd-client ${command} >/dev/full`;
    assertEquals(await run("sh", ["-c", line], { env: daemon.env }), failed(full), command);
  }
  for (const flags of ["--pipe", "--pipe --json", "--pipe --hex"]) {
    const lines = "malloc 10\\nmalloc 0\\nbogus\\nrealloc 0 10\\ncalloc 1 1\\n";
    const line = `printf "${lines}" | mallocd-client ${flags} >/dev/full`;
    assertEquals(await run("sh", ["-c", line], { env: daemon.env }), failed(full), flags);
  }
  assertEquals(await daemon.client("stat blocks"), done("blocks 0\n"));
  assertEquals(await daemon.client("malloc 10"), done(`${FIRST}\n`));
  const moved = await run("sh", ["-c", `mallocd-client realloc ${FIRST} 64 >/dev/full`], {
    env: daemon.env,
  });
  assertEquals(
    moved,
    {
      ...failed(full),
      stderr: `mallocd-client: the block is at 0xc420000000 now\nmallocd-client: ${full}\n`,
    },
  );
});

Deno.test("mallocd-client --json prints an object a line, for every command that prints", async () => {
  await using daemon = await Mallocd.start();
  const pointer = `${FIRST}`;
  const answers: [line: string, objects: unknown[]][] = [
    ["malloc 16", [{ pointer }]],
    ["--hex calloc 1 1", [{ pointer: "0xc420000010" }]],
    [`realloc ${FIRST} 8`, [{ pointer }]],
    [`write ${FIRST} 5 hello`, [{ pointer, length: 5 }]],
    [`read ${FIRST} 5`, [{ pointer, length: 5, base64: "aGVsbG8=" }]],
    [`--hex dump ${FIRST} 2`, [{ pointer: "0xc420000000", length: 2, hex: "6865" }]],
    [`add ${FIRST} 0`, [{ old: "7522537965566820352" }]],
    [`cas ${FIRST} 1 2`, [{ old: "7522537965566820352", swapped: false }]],
    [`free ${FIRST}`, [{ pointer }]],
  ];
  for (const [line, objects] of answers) {
    const { code, stdout, stderr } = await daemon.client(`--json ${line}`);
    assertEquals([code, stderr], [0, ""], line);
    assertEquals(stdout.trimEnd().split("\n").map((text) => JSON.parse(text)), objects);
  }
  const object = async (line: string) => JSON.parse((await daemon.client(line)).stdout);
  const { server, protocol, base, size } = await object("--json info");
  assertEquals([server, protocol, base, size], [daemon.server, "tagged", pointer, 2 ** 30]);
  const { operations, lost, wrong, seconds } = await object("--json stress 10");
  assertMatch(`${seconds}`, /^\d+(\.\d{1,3})?$/);
  assertEquals([operations, lost, wrong], [40, 0, 0]);
  assertEquals(Object.keys(await object("--json version")), ["version"]);
  assertEquals(Object.keys(await object("--json --version")), ["version"]);
  const { command, words } = await object("--json help free");
  assertEquals([command, words], ["free", "PTR"]);
  const all = (await daemon.client("--json help")).stdout.trimEnd().split("\n");
  assertEquals(JSON.parse(all[0]!).command, "malloc");
  const { stdout } = await daemon.client("--json ping --count 2 --interval 1ms");
  assertEquals(stdout.match(/\.\d{4,}/g), null); // no digits that nobody has measured
  const pings = stdout.trimEnd().split("\n").map((text) => JSON.parse(text));
  assertEquals(pings.map(({ seq }) => seq), [1, 2, undefined]);
  assertEquals([pings[2].sent, pings[2].received, pings[2].lost], [2, 2, 0]);
});

Deno.test("mallocd-client --json shows what is long in objects of a MiB each", async () => {
  await using daemon = await Mallocd.start();
  const seed = 11;
  const input = new Random(seed).bytes(1_200_000);
  await daemon.client(`malloc ${input.length}`);
  await daemon.client(`write ${FIRST} -`, { input });
  for (const line of [`--json read ${FIRST} ${input.length}`, `dump ${FIRST} 1200000 --json`]) {
    const { code, stdout } = await daemon.client(line);
    const objects = stdout.trimEnd().split("\n").map((text) => JSON.parse(text));
    assertEquals(
      objects.map(({ pointer, length }) => [pointer, length]),
      [[`${FIRST}`, 2 ** 20], [`${FIRST + 2 ** 20}`, input.length - 2 ** 20]],
    );
    const bytes = objects.map(({ base64, hex }) =>
      base64 === undefined ? Uint8Array.fromHex(hex) : Uint8Array.fromBase64(base64)
    );
    const back = new Uint8Array(await new Blob(bytes).arrayBuffer());
    assert(code === 0 && back.every((byte, i) => byte === input[i]), `seed ${seed}: ${line}`);
  }
});

Deno.test("mallocd-client -r repeats a command, -i waits in between", async () => {
  await using daemon = await Mallocd.start();
  const pointers = `${FIRST}\n${FIRST + 16}\n${FIRST + 32}\n`;
  assertEquals(await daemon.client("-r 3 malloc 5"), done(pointers));
  assertEquals(await daemon.client(`-r 2 -i 1ms add ${FIRST} 1`), done("0\n1\n"));
});

const STRESS =
  /^(\d+) operations in \d+\.\d\d s, \d+\/s, 0 lost, 0 wrong, round trip p50 \d+ us, p99 \d+ us\n$/;

Deno.test("mallocd-client stress leaves nothing behind, and shows no progress to a pipe", async () => {
  await using daemon = await Mallocd.start();
  for (const protocol of ["", "--classic "]) {
    const { code, stdout, stderr } = await daemon.client(`${protocol}stress 3000`);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(STRESS.exec(stdout)?.[1], "12000", stdout);
  }
  await daemon.settle();
  const { blocks, "requests.malloc": mallocs, "requests.free": frees } =
    (await daemon.stop()).totals;
  assertEquals([blocks, mallocs, frees], [undefined, "6000", "6000"]);
});

Deno.test("mallocd-client bench prints what it found as JSON", async () => {
  await using daemon = await Mallocd.start();
  const { code, stdout } = await daemon.client("bench --seconds 200ms --json");
  const { requests, lost, wrong, seconds } = JSON.parse(stdout);
  assertEquals([code, lost, wrong], [0, 0, 0]);
  assertMatch(`${seconds}`, /^\d+(\.\d{1,3})?$/);
  assert(requests > 0);
});

Deno.test("mallocd-client ends in silence when nobody reads its output any more", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 1000000");
  const line = `mallocd-client read ${FIRST} 1000000 | head -c 1`;
  const outcome = await run("sh", ["-c", line], { env: daemon.env });
  assertEquals(outcome, done("\0"));
});

/** Empty, or why there is nothing to compare a dump with. */
async function whyNoHexdump(): Promise<string> {
  try {
    await run("hexdump", ["-C"]);
    return "";
  } catch (error) {
    return ` (no hexdump: ${(error as Error).name})`;
  }
}

const noHexdump = await whyNoHexdump();

Deno.test({
  name: `mallocd-client dump prints what hexdump -C does, with addresses of 64 bits${noHexdump}`,
  ignore: noHexdump !== "",
  async fn() {
    await using daemon = await Mallocd.start();
    await daemon.client("malloc 1024");
    const seed = 3;
    const random = new Random(seed);
    const repeats = new Uint8Array(500).fill(0x61, 100, 300);
    for (const input of [random.bytes(256), repeats, repeats.slice(0, 48), random.bytes(1)]) {
      assertEquals(await daemon.client(`write ${FIRST} -`, { input }), done());
      const dump = await daemon.client(`dump ${FIRST} ${input.length}`);
      const hexdump = await run("hexdump", ["-C"], { input });
      const short = dump.stdout.replaceAll(/^000000c42(?=0)/gm, "0");
      assertEquals({ ...dump, stdout: short }, hexdump, `seed ${seed}`);
    }
    const { stdout } = await daemon.client("dump 0xc420000001 1");
    assertMatch(stdout, /^000000c420000001 .*\n000000c420000002\n$/);
  },
});

Deno.test("mallocd-client dump counts addresses on where their last 32 bits are all ones", async () => {
  await using daemon = await Mallocd.start(["--memory", "4GiB"]);
  const rows = "0123456789abcdefFEDCBA9876543210";
  assertEquals(await daemon.client(`write 0xc4fffffff0 32 ${rows}`), done());
  const { stdout } = await daemon.client("dump 0xc4fffffff0 32");
  assertEquals(
    stdout.replaceAll(/ .*/g, ""),
    [
      "000000c4fffffff0",
      "000000c500000000",
      "000000c500000010",
      "",
    ].join("\n"),
  );
});

/** Kilobytes of memory that a program of a shell's line had at most; those before a bar are let alone. */
const PEAK = `import resource, subprocess, sys
subprocess.run(["sh", "-c", sys.argv[1]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)`;

async function whyNoPython(): Promise<string> {
  try {
    await run("python3", ["--version"]);
    return "";
  } catch (error) {
    return ` (no python3: ${(error as Error).name})`;
  }
}

const noPython = await whyNoPython();

Deno.test({
  name: `mallocd-client needs 64 MiB at most to move or to show what is longer${noPython}`,
  ignore: noPython !== "",
  async fn() {
    await using daemon = await Mallocd.start(["--memory", "256MiB"]);
    const peak = async (line: string) => {
      const options = { env: { ...daemon.env, MALLOCD_TIMEOUT: "20s" }, timeout: 60_000 };
      const { stdout, stderr } = await run("python3", ["-c", PEAK, line], options);
      assertEquals(stderr, "", line);
      return Number(stdout);
    };
    const least = await peak("mallocd-client version");
    await daemon.client("malloc 256MiB");
    const input = "head -c 268435456 /dev/urandom";
    for (
      const line of [
        `${input} | mallocd-client write ${FIRST} -`,
        `${input} | mallocd-client write ${FIRST} 256MiB`,
        `mallocd-client read ${FIRST} 256MiB`,
        `${input} | mallocd-client --classic write ${FIRST} -`,
        `mallocd-client --json read ${FIRST} 256MiB`,
        `mallocd-client --classic read ${FIRST} 256MiB`,
        `mallocd-client dump ${FIRST} 256MiB`,
        `mallocd-client --json dump ${FIRST} 256MiB`,
      ]
    ) {
      const more = await peak(line) - least;
      assert(more < 64 * 1024, `${line}: ${more} KiB more than ${least}`);
    }
  },
});

Deno.test("mallocd-client shell runs lines from a pipe, with variables, quotes and comments", async () => {
  await using daemon = await Mallocd.start();
  const input = `# a comment

p = malloc 64
  write $p - "two  blanks" '$p' "$p" \\ "a \\"quote\\""
read $p 43
n = calloc 1 8
add $n -1
x = add $n 2
write $p - $x
read $p 20
greeting = 'hello there'
vars
help
exit
read 0 1
`;
  const { code, stdout, stderr } = await daemon.client("shell", { input });
  const read = `two  blanks $p ${FIRST} \\ a "quote"`;
  assertEquals(stdout, `${read.padEnd(43, "\0")}0\n18446744073709551615`);
  const lines = stderr.split("\n");
  assertEquals(lines.slice(0, 2), [`p = ${FIRST}`, `n = ${FIRST + 64}`]);
  const vars = ["x = 18446744073709551615", "greeting = hello there"];
  assertEquals(lines.slice(2, 4), vars);
  assertEquals(lines.slice(4, 8), [...lines.slice(0, 2), ...vars]);
  for (const name of Object.keys(COMMANDS)) {
    if (!["shell", "top", "help"].includes(name)) {
      assertMatch(stderr, new RegExp(`^ {2}${name} `, "m"));
    }
  }
  assertEquals(code, 0);
});

Deno.test("mallocd-client shell goes on after an error in a pipe, exit code 1 at the end", async () => {
  await using daemon = await Mallocd.start();
  const input = [
    "mallok 5",
    "malloc",
    "shell",
    'malloc "5',
    "free $p",
    "free 5",
    "write 842350460928",
    "malloc 5",
  ].join("\n");
  const { code, stdout, stderr } = await daemon.client("shell", { input });
  assertEquals([code, stdout], [1, `${FIRST}\n`]);
  assertEquals(stderr.split("\n"), [
    'unknown command "mallok"',
    "Try: did you mean malloc?",
    "malloc: LEN is missing",
    "Try: mallocd-client malloc LEN",
    "shell cannot be run in the shell",
    "Try: mallocd-client shell",
    'no closing "',
    "Try: close the quote",
    "$p is not set",
    "Try: p = malloc 64",
    "free(0x5): bad address",
    "write: LEN is missing",
    "Try: mallocd-client write PTR LEN [DATA...]",
    "",
  ]);
});

const noTerminal = await whyNoTerminal();

function testOnTerminal(name: string, fn: (daemon: Mallocd) => Promise<void>): void {
  Deno.test({
    name: `mallocd-client ${name}${noTerminal}`,
    ignore: noTerminal !== "",
    async fn() {
      await using daemon = await Mallocd.start();
      await fn(daemon);
    },
  });
}

/** The shell keeps its history there, and not in the home of whoever runs the tests. */
const state = Deno.makeTempDirSync({ prefix: "mallocd-" });
globalThis.addEventListener("unload", () => Deno.removeSync(state, { recursive: true }));

function onTerminal(daemon: Mallocd, line: string, home = `${state}/shared`): Terminal {
  return new Terminal(`mallocd-client ${line}`, { ...daemon.env, XDG_STATE_HOME: home });
}

testOnTerminal("read ends the line on a terminal", async (daemon) => {
  await daemon.client("malloc 5");
  await daemon.client(`write ${FIRST} 5 hello`);
  await using terminal = onTerminal(daemon, `read ${FIRST} 5`);
  assertEquals(await terminal.end(), { code: 0, shown: "hello\r\n" });
});

testOnTerminal(
  "long moves show their progress on a terminal, and clear it at the end",
  async (daemon) => {
    await daemon.client("malloc 4MiB");
    const read = `read(0xc420000000, 4194304)`;
    await using reading = onTerminal(daemon, `read ${FIRST} 4MiB >/dev/null`);
    const shown = [25, 50, 75, 100].map((percent) => `\r\x1b[K${read}: ${percent}%`).join("");
    assertEquals(await reading.end(), { code: 0, shown: `${shown}\r\x1b[K` });
    await using writing = onTerminal(daemon, `write ${FIRST} 2MiB </dev/zero`);
    const write = `\r\x1b[Kwrite(0xc420000000, 2097152, data): `;
    assertEquals(await writing.end(), {
      code: 0,
      shown: `${write}1MiB written${write}2MiB written\r\x1b[K`,
    });
    await using short = onTerminal(daemon, `read ${FIRST} 64KiB >/dev/null`);
    assertEquals(await short.end(), { code: 0, shown: "" });
  },
);

testOnTerminal("stress shows its progress on a terminal, and ends at Ctrl-C", async (daemon) => {
  await using terminal = onTerminal(daemon, "stress 100000000");
  assertMatch(await terminal.until("/100000000"), /\[#*\.+\] \d+\/100000000/);
  await terminal.type("\x03");
  const { code, shown } = await terminal.end();
  assertMatch(shown.split("\x1b[K").at(-1)!.replace("\r\n", "\n").replace("^C", ""), STRESS);
  assertEquals(code, 0);
});

testOnTerminal("ping ends with its summary at Ctrl-C", async (daemon) => {
  await using terminal = onTerminal(daemon, "ping --count 1000 --interval 10s");
  await terminal.until("seq=1");
  await terminal.type("\x03");
  const { code, shown } = await terminal.end();
  assertMatch(shown, /1 sent, 1 received, 0 lost; min\/avg\/max [\d./]+ ms\r\n$/);
  assertEquals(code, 0);
});

/** Runs lines in the shell, and gives what it prints on both. */
async function inShell(daemon: Mallocd, ...lines: string[]) {
  const { code, stdout, stderr } = await daemon.client("shell", { input: lines.join("\n") });
  return { code, stdout, stderr: stderr.split("\n").slice(0, -1) };
}

Deno.test("mallocd-client shell prints a line that is a value, as a calculator does", async () => {
  await using daemon = await Mallocd.start();
  const lines = ["p = malloc 64", "$p", "$p+16", "0x10", "'a b'"];
  assertEquals(await inShell(daemon, ...lines), {
    code: 0,
    stdout: `${FIRST}\n${FIRST + 16}\n0x10\na b\n`,
    stderr: [`p = ${FIRST}`],
  });
});

Deno.test("mallocd-client shell refuses a misspelt command as a value, and names the one that was meant", async () => {
  await using daemon = await Mallocd.start();
  assertEquals(await inShell(daemon, "p = mallc 64", "q = 0x10", "r = 'mallc 64'", "$p"), {
    code: 1,
    stdout: "",
    stderr: [
      'unknown command "mallc"',
      "Try: did you mean malloc?",
      "q = 0x10",
      "r = mallc 64",
      "$p is not set",
      "Try: p = malloc 64",
    ],
  });
});

Deno.test("mallocd-client shell says what to type for a variable without $, and for a sum with blanks", async () => {
  await using daemon = await Mallocd.start();
  const lines = ["p = malloc 64", "p", "q = p", "vars = 5", "vars", "$p + 16", "q = 5 + 3"];
  assertEquals(await inShell(daemon, ...lines), {
    code: 1,
    stdout: "",
    stderr: [
      `p = ${FIRST}`,
      "p is a variable, and no command",
      "Try: $p",
      "p is a variable, and no command",
      "Try: $p",
      "vars = 5",
      `p = ${FIRST}`,
      "vars = 5",
      `${FIRST} is a number, and no command`,
      "Try: $p+16, without blanks",
      "5 is a number, and no command",
      "Try: $p+16, without blanks",
    ],
  });
});

Deno.test("mallocd-client shell calculates with pointers, and takes escapes and options", async () => {
  await using daemon = await Mallocd.start();
  const { code, stdout, stderr } = await inShell(
    daemon,
    "p = malloc 64 --hex",
    'write $p+16 "a\\tb\\u{e9}"',
    "read $p+16 5",
    "q = $p+1KiB-0x10",
    "malloc 5 --colour",
    'write $p "--hex"',
    "read $p 5",
  );
  assertEquals([code, stdout], [1, "a\tb\u00e9--hex"]);
  assertEquals(stderr, [
    "p = 0xc420000000",
    "q = 0xc4200003f0",
    "unknown option --colour",
    "Try: malloc --help lists the options",
  ]);
});

Deno.test("mallocd-client shell says that a command gives no value, and does not run it", async () => {
  await using daemon = await Mallocd.start();
  const commands = ["free $p", "write $p 'x'", "sync", "snapshot", "uninstall 5", "vars", "help"];
  const lines = ["p = malloc 16", ...commands.map((command) => `q = ${command}`), "stat blocks"];
  assertEquals(await inShell(daemon, ...lines), {
    code: 1,
    stdout: "blocks 1\n",
    stderr: [
      `p = ${FIRST}`,
      ...commands.flatMap((command) => [
        `${command.split(" ")[0]} gives no value`,
        "Try: leave NAME = out",
      ]),
    ],
  });
});

Deno.test("mallocd-client shell keeps any bytes in a variable", async () => {
  await using daemon = await Mallocd.start();
  const bytes = Uint8Array.from({ length: 256 }, (_, byte) => 255 - byte);
  await daemon.client("malloc 512");
  await daemon.client(`write ${FIRST} -`, { input: bytes });
  const lines = [`x = read ${FIRST} 256`, `write ${FIRST + 256} $x`, 'write 842350461440 "\\xff"'];
  assertEquals((await inShell(daemon, ...lines)).code, 0);
  const back = await daemon.clientBytes(`read ${FIRST + 256} 257`);
  assertEquals(back, new Uint8Array([...bytes, 0xff]));
});

Deno.test("mallocd-client shell takes --json, -r and -i behind a command, and knows version", async () => {
  await using daemon = await Mallocd.start();
  const lines = [
    "malloc 5 --json -r 2 -i 1ms",
    "version",
    "--json version",
    "top",
    "vars 5",
    "stress 10 --hexx",
    "malloc 5 -i 1ms",
    "quit",
    "malloc 5",
  ];
  assertEquals(await inShell(daemon, ...lines), {
    code: 1,
    stdout: `{"pointer":"${FIRST}"}\n{"pointer":"${FIRST + 16}"}\n` +
      `mallocd-client ${config.version}\n`,
    stderr: [
      "--json stands before a command",
      "Try: malloc 5 --hex",
      "top cannot be run in the shell",
      "Try: mallocd-client top",
      "vars takes no words",
      "Try: vars",
      "unknown option --hexx: did you mean --hex?",
      "Try: stress --help lists the options",
      "malloc is done once: --every waits before a repeat",
      "Try: -r N, too",
    ],
  });
});

Deno.test("mallocd-client --pipe prints what it reads as double quotes take it", async () => {
  await using daemon = await Mallocd.start();
  const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
  await daemon.client("malloc 512");
  await daemon.client(`write ${FIRST} -`, { input: bytes });
  const { stdout } = await daemon.client("--pipe", { input: `read ${FIRST} 256` });
  const input = `write ${FIRST + 256} "${stdout.trimEnd()}"`;
  assertEquals(await daemon.client("--pipe", { input }), done("ok\n"));
  assertEquals(await daemon.clientBytes(`read ${FIRST + 256} 256`), bytes);
});

Deno.test("mallocd-client shell explains a command", async () => {
  await using daemon = await Mallocd.start();
  const { code, stderr } = await inShell(daemon, "help malloc", "ping --help");
  assertEquals(code, 0);
  assertMatch(stderr.join("\n"), /^mallocd-client malloc: [^]*Usage: [^]*mallocd-client ping: /);
});

for (const isLossy of [false, true]) {
  const when = isLossy ? ", although the next replies are lost" : "";
  Deno.test(`mallocd-client shell says that pointers are stale when the daemon was restarted${when}`, async () => {
    let daemon = await Mallocd.start();
    using proxy = new Proxy(daemon.port);
    const child = new Deno.Command(CLIENT, {
      args: ["shell"],
      env: { MALLOCD_SERVER: proxy.server, MALLOCD_TIMEOUT: "2s" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000); // it would wait for more lines
    const input = child.stdin.getWriter();
    const type = (line: string) => input.write(new TextEncoder().encode(`${line}\n`));
    await type("p = malloc 64");
    const errors = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
    let said = "";
    const until = async (text: string) => {
      while (!said.includes(text)) {
        const { value, done } = await errors.read();
        if (done) throw new Error(`${text} was not said: ${said}`);
        said += value;
      }
    };
    await until("p = ");
    await daemon.stop();
    daemon = await Mallocd.start(["--port", String(daemon.port)]);
    if (isLossy) {
      proxy.replies.length = 0;
      proxy.deliver = (reply) => proxy.replies.length === 1 ? [reply] : []; // by which it learns of it
      await type("free $p");
      await until("no reply from");
      proxy.deliver = (reply) => [reply];
    }
    await type("free $p");
    await until("this line was not run");
    await type("malloc 5");
    await type("free $p");
    await until("$p is not set");
    await input.close();
    while (!(await errors.read()).done);
    assertEquals(await new Response(child.stdout).text(), `${FIRST}\n`);
    assertEquals((await child.status).code, 1);
    clearTimeout(timer);
    await daemon.stop();
  });
}

testOnTerminal("shell keeps its history in a file that only its owner reads", async (daemon) => {
  const home = `${state}/history`;
  for (const line of ["malloc 5", "\x1b[A"]) {
    await using terminal = onTerminal(daemon, "shell", home);
    await terminal.until("> ");
    await terminal.type(`${line}\r`);
    await terminal.until("8423504");
    await terminal.until("> ");
    await terminal.type("\x04");
    assertEquals((await terminal.end()).code, 0);
  }
  const file = `${home}/mallocd/history`;
  assertEquals(await Deno.readTextFile(file), "malloc 5\n");
  assertEquals((await Deno.stat(file)).mode! & 0o777, 0o600);
});

testOnTerminal(
  "shell completes a command and the blank after it, and variables",
  async (daemon) => {
    await using terminal = onTerminal(daemon, "shell");
    await terminal.until("> ");
    await terminal.type("pointer = mal");
    await terminal.until("mal");
    await terminal.type("\t");
    await terminal.until("loc ");
    await terminal.type("64\r");
    await terminal.until(`pointer = ${FIRST}\r\n`);
    await terminal.type("free $po");
    await terminal.until("$po");
    await terminal.type("\t");
    await terminal.until("inter");
    await terminal.type("\r");
    await terminal.until("> ");
    await terminal.type("\x04");
    assertEquals((await terminal.end()).code, 0);
    assertEquals((await daemon.stop()).totals["bytes"], undefined);
  },
);

testOnTerminal(
  "shell ends a command at Ctrl-C, and clears the line at the prompt",
  async (daemon) => {
    await using terminal = onTerminal(daemon, "shell");
    const prompt = `${daemon.server}> `;
    await terminal.until(prompt);
    await terminal.type("p = malloc 64\r");
    await terminal.until(`p = ${FIRST}\r\n`);
    await terminal.until(prompt);
    await terminal.type("stress 100000000\r");
    await terminal.until("/100000000");
    await terminal.type("\x03");
    await terminal.until("0 lost, 0 wrong");
    await terminal.until(prompt);
    await terminal.type("bench\r");
    await terminal.until("requests/s");
    await terminal.type("\x03");
    await terminal.until("0 lost, 0 wrong");
    await terminal.until(prompt);
    await terminal.type("ping\r"); // five times, unless it is ended
    await terminal.until("seq=1");
    await terminal.type("\x03");
    assertMatch(await terminal.until(" lost"), /\b([1-4]) sent, \1 received, 0 lost$/);
    await terminal.until(prompt);
    await terminal.type("mallok");
    await terminal.until("mallok");
    await terminal.type("\x03read $p 4\r");
    await terminal.until("\0\0\0\0\r\n");
    await terminal.until(prompt);
    await terminal.type("\x04");
    assertEquals((await terminal.end()).code, 0);
  },
);

testOnTerminal("shell edits lines, completes commands and has a history", async (daemon) => {
  await using terminal = onTerminal(daemon, "shell");
  const prompt = `${daemon.server}> `;
  await terminal.until(prompt);
  await terminal.type("p = mal");
  await terminal.until("mal");
  await terminal.type("\t");
  await terminal.until("loc");
  await terminal.type("65\x7f4\r");
  assertStringIncludes(await terminal.until(`p = ${FIRST}\r\n`), "malloc");
  await terminal.until(prompt);
  await terminal.type('write $p "hello  there"\r');
  await terminal.until(prompt);
  await terminal.type("read $p 12\r");
  await terminal.until("hello  there\r\n");
  await terminal.until(prompt);
  await terminal.type("\x1b[A\r");
  await terminal.until("hello  there\r\n");
  await terminal.until(prompt);
  await terminal.type("free 5\r");
  await terminal.until("free(0x5): bad address\r\n");
  await terminal.until(prompt);
  await terminal.type("\x04");
  assertEquals((await terminal.end()).code, 0);
  assertEquals((await daemon.stop()).totals["bytes"], "64");
});
