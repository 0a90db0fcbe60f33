/** The library as npm has it: packed, installed into an empty folder, and used by Node and Bun. */

import { assertEquals, assertMatch } from "@std/assert";
import { vacantPort } from "../sockets.ts";
import { done, Mallocd, ROOT, run } from "./programs.ts";

const TOOLS = new URL(".tools/", ROOT).pathname;
const env = { ...Deno.env.toObject(), PATH: `${Deno.env.get("PATH")}:${TOOLS}bun` };

/** Prints what it sees of each protocol, and of a port on which nobody listens. */
const SESSION = `
import { NoReplyError, RefusedError, Remote } from "@mallocd/mallocd";
import { METHODS } from "@mallocd/mallocd/protocol";

const [server, absent] = process.argv.slice(2);
for (const protocol of ["tagged", "classic"]) {
  const remote = await Remote.connect({ server, protocol });
  const bytes = Uint8Array.from({ length: 200_000 }, (_, i) => i % 251);
  const pointer = await remote.malloc(bytes.length);
  await remote.write(pointer, bytes);
  const back = await remote.read(pointer, bytes.length);
  console.log(protocol, back.every((byte, i) => byte === bytes[i]));
  const pointers = await Promise.all(Array.from({ length: 1000 }, () => remote.malloc(16)));
  console.log(new Set(pointers).size);
  await Promise.all([pointer, ...pointers].map((block) => remote.free(block)));
  await remote.ping();
  const refused = await remote.read(16n, 1).catch((error) => error);
  console.log(refused instanceof RefusedError, refused.message);
  const signal = AbortSignal.abort("early");
  console.log(await remote.malloc(5, { signal }).catch((reason) => reason));
  await remote[Symbol.asyncDispose]();
}
for (const protocol of ["auto", "classic"]) {
  const remote = Remote.connect({ server: absent, protocol, timeout: 50_000 });
  const error = await remote.then((it) => it.malloc(5)).catch((error) => error);
  console.log(error instanceof NoReplyError, error.message);
}
console.log(METHODS.hello.opcode);
process.exit(0);
`;

/** What TypeScript has to know of it. */
const TYPED = `
import { type Hello, Remote, type RemoteOptions } from "@mallocd/mallocd";
import { METHODS, type MethodName } from "@mallocd/mallocd/protocol";

const options: RemoteOptions = { server: "127.0.0.1:8081", protocol: "tagged" };
const remote: Remote = await Remote.connect(options);
const pointer: bigint = await remote.malloc(5, { timeout: 100 });
const bytes: Uint8Array = await remote.read(pointer, 5);
const hello: Hello | undefined = remote.hello;
const name: MethodName = "cas";
// @ts-expect-error: a pointer is a bigint
remote.free(5);
console.log(bytes, hello, METHODS[name].opcode);
`;

Deno.test("the npm package is whole: Node and Bun talk to a daemon with it, TypeScript knows its types", async (t) => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-npm-" });
  const inFolder = (line: string) =>
    run("sh", ["-c", `cd ${folder} && ${line}`], { env, timeout: 120_000 });
  try {
    await Deno.mkdir(`${folder}/user`);
    const packed = await run(
      "sh",
      ["-c", `cd ${ROOT.pathname} && tools/npm.sh ${TOOLS} ${folder}`],
      {
        env,
        timeout: 120_000,
      },
    );
    assertEquals(packed, done());
    const installed = await inFolder(
      "cd user && npm init -y >/dev/null && npm install --no-audit --no-fund --offline ../*.tgz",
    );
    assertMatch(installed.stdout, /^added 1 package/m, installed.stderr);

    for (const runtime of ["node", "bun"]) {
      const missing = await whyMissing(runtime);
      await t.step({
        name: `a session on ${runtime}${missing}`,
        ignore: missing !== "",
        async fn() {
          await Deno.writeTextFile(`${folder}/user/session.mjs`, SESSION);
          await using daemon = await Mallocd.start();
          const absent = `127.0.0.1:${vacantPort()}`;
          const outcome = await inFolder(
            `cd user && ${runtime} session.mjs ${daemon.server} ${absent}`,
          );
          const refusals = { tagged: "bad address", classic: "refused" };
          const lines = Object.entries(refusals).flatMap(([protocol, why]) => [
            `${protocol} true`,
            "1000",
            `true read(0x10, 1): ${why}`,
            "early",
          ]);
          const absence = `true nobody listens on ${absent}: is mallocd running there?`;
          assertEquals(outcome, done([...lines, absence, absence, "7", ""].join("\n")));
          await daemon.settle();
          const { "requests.malloc": malloc, "requests.free": free, blocks } =
            (await daemon.stop()).totals;
          assertEquals([malloc, free, blocks], ["2002", "2002", undefined]);
        },
      });
    }

    await t.step("TypeScript", async () => {
      await Deno.writeTextFile(`${folder}/user/typed.mts`, TYPED);
      const [compiler] = await Array.fromAsync(Deno.readDir(TOOLS)).then((entries) =>
        entries.map(({ name }) => name).filter((name) => name.startsWith("typescript-"))
      );
      const tsc = `${TOOLS}${compiler}/node_modules/.bin/tsc`;
      const options = "--noEmit --strict --target es2022 --module nodenext " +
        "--lib es2023,dom,esnext.disposable";
      assertEquals(await inFolder(`cd user && ${tsc} ${options} typed.mts`), done());
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

async function whyMissing(runtime: string): Promise<string> {
  try {
    await run(runtime, ["--version"], { env });
    return "";
  } catch (error) {
    const hint = runtime === "bun" ? "; tools/bun.sh fetches it" : "";
    return ` (skipped: no ${runtime}: ${(error as Error).name}${hint})`;
  }
}
