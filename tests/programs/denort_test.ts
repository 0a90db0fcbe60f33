/** tools/denort.sh with a Deno and an npm that are told what to do: nothing is downloaded here. */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";

const SCRIPT = new URL("../../tools/denort.sh", import.meta.url).pathname;
const LINUX = "x86_64-unknown-linux-gnu";
const OTHER = "aarch64-apple-darwin";

/** A folder with both programs in it, and one for what the script keeps. */
class Host implements Disposable {
  readonly folder = Deno.makeTempDirSync();
  readonly tools = `${this.folder}/tools`;

  /** Shell commands: how `deno compile` and `npm pack` end, here and on which platform. */
  constructor({ compile = "exit 1", pack = "exit 1", platform = LINUX } = {}) {
    const version = `echo "deno 2.6.8 (stable, release, ${platform})"`;
    this.#program("deno", `[ "$1" != --version ] || { ${version}; exit; }\n${compile}`);
    this.#program("npm", `echo asked >"${this.folder}/npm-was-asked"\n${pack}`);
    Deno.mkdirSync(this.tools);
  }

  #program(name: string, text: string): void {
    Deno.writeTextFileSync(`${this.folder}/${name}`, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  }

  find(platform = "", env: Record<string, string> = {}) {
    const { code, stdout, stderr } = new Deno.Command(SCRIPT, {
      args: [`${this.folder}/deno`, this.tools, ...platform === "" ? [] : [platform]],
      clearEnv: true,
      env: { PATH: `${this.folder}:${Deno.env.get("PATH")}`, ...env },
    }).outputSync();
    const decoder = new TextDecoder();
    return { code, stub: decoder.decode(stdout).trim(), message: decoder.decode(stderr) };
  }

  get asksNpm(): boolean {
    return this.#names(this.folder).includes("npm-was-asked");
  }

  get kept(): string[] {
    return this.#names(this.tools);
  }

  #names(folder: string): string[] {
    return Array.from(Deno.readDirSync(folder), ({ name }) => name);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

function assertSaysWhatToDo(message: string, platform: string): void {
  assertStringIncludes(
    message,
    `Cannot get denort, the runtime stub of deno compile, for ${platform}`,
  );
  assertStringIncludes(message, "Try: set DENORT_BIN to the denort of Deno 2.6.8");
}

Deno.test("denort.sh prefers the stub that DENORT_BIN names", () => {
  using host = new Host({ compile: "exit 0" });
  const DENORT_BIN = `${host.folder}/mine`;
  Deno.writeTextFileSync(DENORT_BIN, "");
  assertEquals(host.find("", { DENORT_BIN }), { code: 0, stub: DENORT_BIN, message: "" });
});

Deno.test("denort.sh fails when DENORT_BIN names no file", () => {
  using host = new Host({ compile: "exit 0" });
  const { code, message } = host.find("", { DENORT_BIN: "/no/such/denort" });
  assertEquals(code, 1);
  assertStringIncludes(message, "DENORT_BIN is /no/such/denort, which is not a file");
});

Deno.test("denort.sh leaves it to Deno when that can download it", () => {
  using host = new Host({ compile: "exit 0" });
  assertEquals(host.find(), { code: 0, stub: "", message: "" });
  assert(!host.asksNpm);
});

Deno.test("denort.sh takes no DENORT_BIN, which is for this platform, for another one", () => {
  using host = new Host({ compile: 'test -z "${DENORT_BIN+set}"' });
  assertEquals(host.find(OTHER, { DENORT_BIN: SCRIPT }), { code: 0, stub: "", message: "" });
});

Deno.test("denort.sh refuses a package whose stub has a wrong hash", () => {
  const other = `mkdir -p package/bin
    echo "another program" >package/bin/mcp-stress
    tar -czf package.tgz package
    echo package.tgz`;
  using host = new Host({ pack: other });
  const { code, stub, message } = host.find();
  assertEquals({ code, stub, kept: host.kept }, { code: 1, stub: "", kept: [] });
  assertStringIncludes(message, "does not have the right hash");
  assertSaysWhatToDo(message, LINUX);
});

Deno.test("denort.sh refuses a stub of an earlier time that has a wrong hash now", () => {
  using host = new Host();
  Deno.writeTextFileSync(`${host.tools}/denort`, "something else");
  const { code, stub, message } = host.find();
  assertEquals({ code, stub }, { code: 1, stub: "" });
  assertStringIncludes(message, "does not have the right hash");
});

Deno.test("denort.sh says what to do when neither Deno's site nor npm can be reached", () => {
  using host = new Host();
  const { code, stub, message } = host.find();
  assertEquals({ code, stub, kept: host.kept }, { code: 1, stub: "", kept: [] });
  assert(host.asksNpm);
  assertSaysWhatToDo(message, LINUX);
});

Deno.test("denort.sh says what to do on a platform for which npm has no stub", () => {
  using host = new Host({ platform: OTHER });
  const { code, stub, message } = host.find();
  assertEquals({ code, stub }, { code: 1, stub: "" });
  assert(!host.asksNpm);
  assertSaysWhatToDo(message, OTHER);
});
