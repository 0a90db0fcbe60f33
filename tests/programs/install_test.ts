/** What `make install` puts on a system, as the tools that it is for see it. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { generate, PROGRAMS } from "../../tools/generate.ts";
import { BENCH_FLAGS } from "../../lib/client/commands/bench.ts";
import { CLIENT } from "../../lib/client/flags.ts";
import { COMMANDS } from "../../lib/client/commands.ts";
import { DAEMON } from "../../lib/daemon/flags.ts";
import { ENGINE_NAMES } from "../../lib/daemon/engines/choice.ts";
import { type Flags, HELP_FLAGS, variableOf } from "../../lib/cli/flags.ts";
import { done, ROOT, run } from "./programs.ts";

const INSTALLED = [
  "bin/mallocd",
  "bin/mallocd-client",
  "lib/systemd/system/mallocd.service",
  "share/bash-completion/completions/mallocd",
  "share/bash-completion/completions/mallocd-client",
  "share/fish/vendor_completions.d/mallocd-client.fish",
  "share/fish/vendor_completions.d/mallocd.fish",
  "share/man/man1/mallocd-client.1",
  "share/man/man8/mallocd.8",
  "share/zsh/site-functions/_mallocd",
  "share/zsh/site-functions/_mallocd-client",
];

/** What systemd-analyze may make of the unit's exposure, in tenths; that of a unit without any care is 96. */
const MAX_EXPOSURE = 15;

let prefix: string;

Deno.test.beforeAll(async () => {
  prefix = await Deno.makeTempDir({ prefix: "mallocd-install-" });
  await make("install", `PREFIX=${prefix}`);
});

Deno.test.afterAll(() => Deno.remove(prefix, { recursive: true }));

async function make(...args: string[]): Promise<void> {
  const words = ["-s", "-C", ROOT.pathname, ...args];
  const { code, stderr } = await run("make", words, { env: Deno.env.toObject() });
  assertEquals(code, 0, stderr);
}

/** The files below a folder, with whether they may be executed. */
async function filesIn(folder: string): Promise<[path: string, executable: boolean][]> {
  const files: [string, boolean][] = [];
  for await (const { name, isDirectory } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) {
      for (const [inner, executable] of await filesIn(path)) {
        files.push([`${name}/${inner}`, executable]);
      }
    } else files.push([name, ((await Deno.stat(path)).mode! & 0o111) !== 0]);
  }
  return files.sort();
}

/** Empty, or why a tool cannot be used here, for the name of a test. */
async function whyNo(tool: string, version = /^/): Promise<string> {
  try {
    const { stdout } = await run(tool, ["--version"]);
    return version.test(stdout)
      ? ""
      : ` (skipped: ${tool} is another one: ${stdout.split("\n")[0]})`;
  } catch (error) {
    return ` (skipped: no ${tool}: ${(error as Error).name})`;
  }
}

Deno.test("make install puts its files below DESTDIR, and make uninstall removes them", async () => {
  const root = await Deno.makeTempDir({ prefix: "mallocd-root-" });
  try {
    await make("install", `DESTDIR=${root}`, "PREFIX=/opt/mallocd");
    const expected = INSTALLED.map((path) => [`opt/mallocd/${path}`, path.startsWith("bin/")]);
    assertEquals<unknown>(await filesIn(root), expected);
    await make("uninstall", `DESTDIR=${root}`, "PREFIX=/opt/mallocd");
    assertEquals(await filesIn(root), []);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
});

/** Blanks, quotes, and what shells, make, sed and systemd take for something else. */
const ODD = ["o d'd", 'q"u', "$HOME $(x)", "b\\s", "50%", "a&b|c;d", "$"];

Deno.test("make install and uninstall take any character in PREFIX and DESTDIR, and touch nothing else", async () => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-odd-" });
  try {
    for (const odd of ODD) {
      const root = `${folder}/${odd} root`;
      await Deno.mkdir(root);
      // What a command line that is divided at blanks would hit.
      const bystanders = [`${folder}/${odd.split(" ")[0]}`, `${folder}/root`];
      for (const path of bystanders) await Deno.writeTextFile(path, "");
      const where = [`DESTDIR=${root}`, `PREFIX=/opt/${odd}`];
      await make("install", ...where);
      const expected = INSTALLED.map((path) => [`opt/${odd}/${path}`, path.startsWith("bin/")]);
      assertEquals<unknown>(await filesIn(root), expected, odd);
      await make("uninstall", ...where);
      assertEquals(await filesIn(root), [], odd);
      for (const path of bystanders) await Deno.remove(path);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("make takes the ENGINE that it is given, else that of the last build, else auto", async () => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-engine-" });
  const makefile = new URL("Makefile", ROOT).pathname;
  /** Without the variables of this environment, in which `make test` may have put some. */
  const choose = async (args: string[], env: Record<string, string> = {}) => {
    const words = ["-s", "-C", folder, "-f", makefile, "dist/.engine", ...args];
    const { code, stderr } = await run("make", words, { env });
    return code === 0 ? await Deno.readTextFile(`${folder}/dist/.engine`) : stderr.split("\n")[0];
  };
  try {
    assertEquals(await choose([]), "auto\n");
    assertEquals(await choose(["ENGINE=datagram"]), "datagram\n");
    assertEquals(await choose([]), "datagram\n");
    assertEquals(await choose(["ENGINE=auto"]), "auto\n");
    assertEquals(await choose([], { ENGINE: "datagram" }), "datagram\n");
    const complaint = "ENGINE cannot be steam: use ENGINE=auto or ENGINE=datagram";
    assertEquals(await choose(["ENGINE=steam"]), complaint);
    assertEquals(await choose([]), "datagram\n");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("make build makes the daemon with its ENGINE", async () => {
  for (const engine of ["auto", "datagram"]) {
    const words = ["-n", "-C", ROOT.pathname, "-W", "deno.json", "build", `ENGINE=${engine}`];
    const { code, stdout, stderr } = await run("make", words);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, new RegExp(`^tools/build\\.sh .* ${engine}$`, "m"));
  }
});

Deno.test("a daemon that cannot talk to systemd gets a unit that waits for no word of it", async () => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-install-" });
  try {
    const unitOf = async (engine: string) => {
      const [dist, root] = [`${folder}/dist-${engine}`, `${folder}/root-${engine}`];
      await run("cp", ["-r", new URL("dist", ROOT).pathname, dist]);
      await Deno.writeTextFile(`${dist}/.engine`, `${engine}\n`);
      const env = { ...Deno.env.toObject(), PREFIX: "/usr", DESTDIR: root };
      const script = new URL("tools/install.sh", ROOT).pathname;
      const words = ["-c", 'cd "$0" && "$1" install "$2"', ROOT.pathname, script, dist];
      const { code, stderr } = await run("sh", words, { env });
      assertEquals(code, 0, stderr);
      const unit = await Deno.readTextFile(`${root}/usr/lib/systemd/system/mallocd.service`);
      return unit.match(/^(Type|WatchdogSec)=.*$/gm);
    };
    assertEquals(await unitOf("auto"), ["Type=notify", "WatchdogSec=30"]);
    assertEquals(await unitOf("datagram"), ["Type=exec"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("make install puts programs that run where the unit looks for them", async () => {
  const unit = await Deno.readTextFile(`${prefix}/lib/systemd/system/mallocd.service`);
  const [, program] = /^ExecStart=(.*)$/m.exec(unit)!;
  const { code, stdout } = await run(program!, ["--version"]);
  assertEquals([code, stdout.split(" ")[0]], [0, "mallocd"]);
});

const noSystemd = await whyNo("systemd-analyze", /^systemd (25[2-9]|2[6-9]\d)/);
Deno.test({
  name: `systemd-analyze verifies the unit and finds it safe${noSystemd}`,
  ignore: noSystemd !== "",
  async fn() {
    const unit = `${prefix}/lib/systemd/system/mallocd.service`;
    assertEquals(await run("systemd-analyze", ["verify", "--man=no", unit]), done());
    const args = ["security", "--offline=yes", `--threshold=${MAX_EXPOSURE}`, unit];
    const { code, stdout, stderr } = await run("systemd-analyze", args);
    assertEquals(code, 0, stdout + stderr);
  },
});

/** The words of a command line of systemd, with --version: systemd.service(5), "Command lines". */
function commandOf(line: string): string[] {
  const words = line.match(/'[^']*'|"(?:[^"\\]|\\.)*"|[^\s"']+/g)!.map((word) =>
    word.startsWith("'")
      ? word.slice(1, -1)
      : word.replace(/^"|(\\.)|"$/g, (_, escaped = "") => escaped.slice(1))
  );
  // The daemon takes no words: the shell's own are followed by the option.
  return words.map((word) =>
    word.replaceAll("%%", "%").replaceAll("$$", "$").replace(/^(exec "\$0")$/, "$1 --version")
  );
}

Deno.test({
  name: `the unit starts the daemon of a PREFIX of any characters${noSystemd}`,
  ignore: noSystemd !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-odd-" });
    try {
      for (const odd of ODD) {
        const prefix = `${folder}/${odd}`;
        await make("install", `PREFIX=${prefix}`);
        const unit = `${prefix}/lib/systemd/system/mallocd.service`;
        assertEquals(await run("systemd-analyze", ["verify", "--man=no", unit]), done(), odd);
        const [, line] = /^ExecStart=(.*)$/m.exec(await Deno.readTextFile(unit))!;
        const [program, ...args] = commandOf(line!);
        const { code, stdout } = await run(program!, args);
        assertEquals([code, stdout.split(" ")[0]], [0, "mallocd"], odd);
        await Deno.remove(prefix, { recursive: true });
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

for (const { name, section, flags, commands = {} } of PROGRAMS) {
  Deno.test(`${name}(${section}) tells each option, default, variable and command`, () => {
    const page = generate().get(`man/${name}.${section}`)!.replaceAll("\\-", "-");
    const tables = [flags, ...Object.values(commands).map(({ flags = {} }) => flags)];
    for (const [flag, { default: standard }] of tables.flatMap((table) => Object.entries(table))) {
      assertStringIncludes(page, `--${flag}`);
      if (standard !== undefined) assertStringIncludes(page, `(default ${standard})`);
      if (!Object.hasOwn(HELP_FLAGS, flag)) assertStringIncludes(page, variableOf(flag));
    }
    for (const [command, { words }] of Object.entries(commands)) {
      assertStringIncludes(page, words === "" ? `.B ${command}\n` : `.BI "${command} " "${words}"`);
    }
  });

  const lints: [tool: string, args: string[], version?: RegExp][] = [
    ["man", ["--warnings", "-E", "UTF-8", "--local-file"], /^man 2/], // man-db's
    ["groff", ["-man", "-ww", "-z", "-T", "utf8"]],
    ["mandoc", ["-T", "lint", "-W", "warning"]],
  ];
  for (const [tool, args, version] of lints) {
    const missing = await whyNo(tool, version);
    Deno.test({
      name: `${tool} has nothing to say against ${name}(${section})${missing}`,
      ignore: missing !== "",
      async fn() {
        const page = `${prefix}/share/man/man${section}/${name}.${section}`;
        const { stdout, stderr } = await run(tool, [...args, page]);
        const said = tool === "man" ? stderr : stdout + stderr;
        // The page has no date, so that it is the same whenever it is made.
        const warnings = said.split("\n").filter((line) => !line.includes("missing date"));
        assertEquals(warnings.join("\n"), "");
      },
    });
  }
}

/** What a shell offers at the end of a line. */
type Shell = (line: string) => Promise<string[]>;

/** Calls the function as bash does, to which "=" and ":" are words, too. */
const bash: Shell = async (line) => {
  const script = `
    source "$0"
    read -r _ _ function _ < <(complete -p "$1")
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    "$function"
    echo "\${COMPREPLY[@]}"`;
  const words = line.match(/[^\s=:]+|[=:]|\s$/g)!.map((word) => word.trim());
  const file = `${prefix}/share/bash-completion/completions/${words[0]}`;
  const { stdout } = await run("bash", ["-c", script, file, ...words]);
  return wordsIn(stdout);
};

/** Has an interactive zsh on a terminal of its own list the choices, which is Control-D. */
const zsh: Shell = async (line) => {
  const script = `
    zmodload zsh/zpty
    zpty shell zsh -f -i
    zpty -w shell "
      fpath=($0 \\$fpath); autoload -Uz compinit; compinit -u -D
      finish() { print '<''end>' }; zle -N finish; bindkey '^T' finish
      LINES=1000 COLUMNS=200 LISTMAX=1000 PROMPT='<''prompt>'; unsetopt prompt_sp"
    zpty -r shell output '*<prompt>*'
    zpty -n -w shell "$1"$'\\C-d\\C-t'
    zpty -r shell output '*<end>*'
    print -r -- "$output"`;
  const functions = `${prefix}/share/zsh/site-functions`;
  const env = { TERM: "dumb" };
  const { stdout } = await run("zsh", ["-fc", script, functions, line], { env });
  // The line, then the list, then the line again at a new prompt.
  const [, list = ""] = /\n(.*)<prompt>/s.exec(stdout) ?? [];
  return wordsIn(list.replace(/ -- .*/g, ""));
};

/** Lets fish find the file by itself. */
const fish: Shell = async (line) => {
  const env = { HOME: prefix, XDG_DATA_DIRS: `${prefix}/share` };
  const { stdout } = await run("fish", ["-c", "complete -C $argv[1]", line], { env });
  return wordsIn(stdout.replace(/\t.*/g, "").replace(/^--[\w-]+=/gm, ""));
};

function wordsIn(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

const options = (flags: Flags) => Object.keys(flags).map((flag) => `--${flag}`);

const OFFERED: [line: string, words: string[]][] = [
  ["mallocd --", options(DAEMON.flags)],
  ["mallocd --eng", ["--engine"]],
  ["mallocd --engine ", [...ENGINE_NAMES]],
  ["mallocd --engine=d", ["datagram"]],
  ["mallocd --port ", []],
  ["mallocd --port=1 --str", ["--strict"]],
  ["mallocd ", Object.keys(DAEMON.commands ?? {})],
  ["mallocd --heap-file LICEN", ["LICENSE"]],
  ["mallocd audit LICEN", ["LICENSE"]],
  ["mallocd-client install LICEN", ["LICENSE"]],
  ["mallocd-client --ca LICEN", ["LICENSE"]],
  ["mallocd-client free LICEN", []],
  ["mallocd-client help ma", ["malloc"]],
  ["mallocd-client -r ", []],
  ["mallocd-client -r 3 pi", ["ping"]],
  ["mallocd-client ", Object.keys(COMMANDS)],
  ["mallocd-client re", ["read", "realloc"]],
  ["mallocd-client --", options(CLIENT.flags)],
  ["mallocd-client --server 127.0.0.1:8081 pi", ["ping"]],
  ["mallocd-client --server=[::1]:8081 --hex pi", ["ping"]],
  ["mallocd-client free --", options(CLIENT.flags)],
  ["mallocd-client ping --", options({ ...CLIENT.flags, ...COMMANDS.ping.flags })],
  ["mallocd-client bench --", options({ ...CLIENT.flags, ...BENCH_FLAGS })],
];

for (const shell of [bash, zsh, fish]) {
  const missing = await whyNo(shell.name);
  Deno.test({
    name: `${shell.name} completes commands, options and their values${missing}`,
    ignore: missing !== "",
    async fn() {
      for (const [line, words] of OFFERED) {
        assertEquals((await shell(line)).sort(), words.sort(), line);
      }
    },
  });
}
