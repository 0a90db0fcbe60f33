/** clients/c, through a program of a few commands around it (driver.c), with the daemon of `make build`. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { describeErrno } from "../../lib/protocol/errno.ts";
import { Mallocd, Peer, ROOT, run } from "../programs/programs.ts";
import { pass, SIZE, type Vector, vectorsFor } from "../vectors.ts";
import { Proxy } from "./proxy.ts";

const FOLDER = new URL("clients/c/", ROOT).pathname;
const DRIVER = `${FOLDER}build/driver`;

/** The methods that the client has, in the order of their opcodes, and how many fields their requests have. */
const FIELDS = { malloc: 1, free: 1, read: 2, write: 2, realloc: 2, cas: 3, add: 2, hello: 0 };
const NAMES = Object.keys(FIELDS) as (keyof typeof FIELDS)[];

/** Empty, or why there is no driver, for the names of tests. */
async function whyNoDriver(): Promise<string> {
  try {
    const { code, stderr } = await run("cc", ["--version"]);
    if (code !== 0) return ` (cc does not run: ${stderr.trim()})`;
  } catch (error) {
    return ` (no cc: ${(error as Error).name})`;
  }
  const { code, stderr } = await run("make", ["-s", "-C", FOLDER, "all", "build/driver"]);
  assertEquals({ code, stderr }, { code: 0, stderr: "" }); // no warning either
  return "";
}

/** A running driver: a line in, a line out. */
class Driver implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #pending = "";

  private constructor(args: readonly string[]) {
    const command = new Deno.Command(DRIVER, {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
    });
    this.#child = command.spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  static async start(server: string, ...options: number[]): Promise<Driver> {
    const driver = new Driver([server, ...options.map(String)]);
    assertEquals(await driver.#line(), "ok");
    return driver;
  }

  get pid(): number {
    return this.#child.pid;
  }

  async say(line: string): Promise<string> {
    await this.#input.write(new TextEncoder().encode(line + "\n"));
    return await this.#line();
  }

  async #line(): Promise<string> {
    let end: number;
    while ((end = this.#pending.indexOf("\n")) < 0) {
      const { value, done } = await this.#output.read();
      if (done) throw new Error(`the driver ended after ${JSON.stringify(this.#pending)}`);
      this.#pending += value;
    }
    const line = this.#pending.slice(0, end);
    this.#pending = this.#pending.slice(end + 1);
    return line;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#input.close().catch(() => {});
    await this.#output.cancel();
    await this.#child.status;
  }
}

/* --- What a vector asks for, in the driver's words, and what the driver says, in the vector's ----------- */

interface Request {
  tag: string;
  /** The driver's command. */
  command: string;
  opcode: number;
  bodyLength: number;
}

/** The requests of a datagram; undefined if it is not made of whole and sound tagged requests alone. */
function parseRequests(hex: string): Request[] | undefined {
  const requests: Request[] = [];
  for (let at = 0; at < hex.length;) {
    const word = /^(.{8})000001(.{2})$/.exec(hex.slice(at, at += 16));
    const name = word && NAMES[parseInt(word[2]!, 16)];
    if (!word || !name) return undefined;
    const fields: bigint[] = [];
    for (let i = 0; i < FIELDS[name]; i++) {
      const field = hex.slice(at, at += 16);
      if (field.length !== 16) return undefined;
      fields.push(BigInt("0x" + field));
    }
    let data = "";
    if (name === "write") {
      const length = fields[1]!;
      if (length > 65507n) return undefined;
      data = ` ${hex.slice(at, at += 2 * Number(length))}`;
      if (data.length - 1 !== 2 * Number(length)) return undefined;
    }
    const bodyLength = { read: Number(fields[1]), hello: 40, free: 0, write: 0 }[name as string] ??
      8;
    const command = `${name} ${fields.join(" ")}${data}`;
    requests.push({ tag: word[1]!, command, opcode: parseInt(word[2]!, 16), bodyLength });
  }
  return requests;
}

/** A datagram with the tags of others, in their order. */
function retag(
  hex: string,
  tags: readonly string[],
  lengthAt: (hex: string, at: number) => number,
) {
  let at = 0, retagged = "";
  for (const tag of tags) {
    const end = at + lengthAt(hex, at);
    retagged += tag + hex.slice(at + 8, end);
    at = end;
  }
  return retagged + hex.slice(at);
}

function requestLength(hex: string, at: number): number {
  const name = NAMES[parseInt(hex.slice(at + 14, at + 16), 16)]!;
  const head = 16 * (1 + FIELDS[name]);
  return name === "write" ? head + 2 * Number("0x" + hex.slice(at + 32, at + 48)) : head;
}

function replyLength(hex: string, at: number): number {
  return 32 + 2 * Number("0x" + hex.slice(at + 16, at + 32));
}

/** What the driver is to say, from the bytes of the replies. */
function expectedWords(reply: string): string {
  const words: string[] = [];
  for (let at = 0; at < reply.length; at += replyLength(reply, at)) {
    const status = parseInt(reply.slice(at + 8, at + 12), 16);
    const body = reply.slice(at + 32, at + replyLength(reply, at));
    const opcode = parseInt(reply.slice(at + 14, at + 16), 16);
    const fields = opcode === NAMES.indexOf("hello") ? body.replace(/.{16}(?=.)/g, "$& ") : body;
    const shown = fields !== "" || opcode === NAMES.indexOf("read");
    words.push(status !== 0 ? describeErrno(status).name : shown ? `ok ${fields}` : "ok");
  }
  return words.join("; ");
}

/** Whether the client would send what a vector sends. */
function canSay({ before = [], request, after = [] }: Vector): boolean {
  const datagrams = [...before.map(([sent]) => sent), request, ...after.map(([sent]) => sent)]
    .map((text) =>
      text
        .replace(/\(([^()]*)\)\*(\d+)/g, (_, group: string, n) => group.repeat(Number(n)))
        .replace(/\$\w+([+-]\d+)?/g, "0".repeat(16)).replaceAll(" ", "")
    )
    .filter((hex) => !/^0{15}[0-3]/.test(hex)); // the classic ones are not the client's to say
  const tags: string[] = [];
  for (const hex of datagrams) {
    const requests = parseRequests(hex);
    if (requests === undefined || requests.length === 0 || requests.length > 512) return false;
    const room = requests.reduce((sum, { bodyLength }) => sum + 16 + bodyLength, 0);
    if (requests.length > 1 && room > 65507) return false;
    tags.push(...requests.map(({ tag }) => tag));
  }
  return datagrams.length > 0 && new Set(tags).size === tags.length;
}

/* --- The tests ------------------------------------------------------------------------------------------ */

const missing = await whyNoDriver();

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `clients/c ${name}${missing}`, ignore: missing !== "", fn });
}

for (const strict of [false, true]) {
  test(`passes docs/vectors.json with a ${strict ? "strict " : ""}daemon`, async () => {
    const args = ["--memory", String(SIZE), ...(strict ? ["--strict"] : [])];
    await using daemon = await Mallocd.start(args);
    using proxy = new Proxy(daemon.port);
    using peer = new Peer(daemon);
    await using driver = await Driver.start(proxy.server);
    const said = new Set<string>();
    const ask = async (hex: string): Promise<string | undefined> => {
      const requests = parseRequests(hex);
      if (requests === undefined || requests.length === 0) {
        await peer.send(hex);
        await peer.send("ffffffff00000107");
        const reply = await peer.receive();
        if (/^ffffffff00008107/.test(reply)) return undefined;
        await peer.receive();
        return reply;
      }
      proxy.requests.length = proxy.replies.length = 0;
      for (const { opcode } of requests) said.add(NAMES[opcode]!);
      const words = await driver.say(requests.map(({ command }) => command).join("; "));
      if (requests[0]!.bodyLength > 65491) { // refused without asking, as the daemon would
        assertEquals([words, proxy.requests.length], ["EMSGSIZE", 0]);
        return await peer.ask(hex);
      }
      const tags = requests.map(({ tag }) => tag);
      const sent = proxy.requests.map((datagram) => datagram.toHex());
      assertEquals(sent.map((datagram) => retag(datagram, tags, requestLength)), [hex]);
      const reply = retag(proxy.replies[0]!.toHex(), tags, replyLength);
      assertEquals(words, expectedWords(reply));
      return reply;
    };
    const vectors = vectorsFor(strict).filter(canSay);
    for (const vector of vectors) await pass(vector, ask);
    assertEquals([...said].sort(), [...NAMES].sort()); // no method is left out
    assert(vectors.length >= (strict ? 50 : 45), `${vectors.length} vectors`);
  });
}

test("knows what the daemon says of itself", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  await using driver = await Driver.start(daemon.server);
  const known = await driver.say("known");
  assertMatch(known, /^ok .{16} 000000c420000000 0000000000100000 000000000000ffe3 0{15}1$/);
  assertEquals(await driver.say("hello"), known);
});

test("moves blocks of any length in datagrams of any size", async () => {
  await using daemon = await Mallocd.start(["--memory", "16MiB"]);
  for (const datagram of [0, 512, 1400, 9000]) {
    await using driver = await Driver.start(daemon.server, 0, datagram);
    for (const length of [0, 1, 447, 448, 449, 65442, 65443, 65444, 65536, 1_000_003]) {
      assertEquals(await driver.say(`block ${length} ${length}`), "ok same", `${length} bytes`);
    }
  }
  assertEquals((await daemon.stop()).totals["blocks"], undefined);
});

test("completes more operations than have tags, each once", async () => {
  await using daemon = await Mallocd.start(["--memory", "16MiB"]);
  await using driver = await Driver.start(daemon.server);
  assertEquals(await driver.say("flood 20000 1"), "ok same");
});

test("counts every add once when threads share it and a fifth of the datagrams is lost", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  using proxy = new Proxy(daemon.port, { loss: 0.2, seed });
  await using driver = await Driver.start(proxy.server, 20_000, 1400);
  assertEquals(await driver.say("count 8 25"), "ok 200", `seed ${seed}`);
  assertEquals(await driver.say("flood 500 7"), "ok same", `seed ${seed}`);
  assertEquals(await driver.say("block 50000 7"), "ok same", `seed ${seed}`);
  assert(proxy.lost > 20, `${proxy.lost} datagrams were lost`);
});

test("sends a request again with the same bytes, later each time, until it gives up", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server, 1000);
  Deno.kill(daemon.pid, "SIGSTOP");
  proxy.requests.length = 0;
  assertEquals(await driver.say("add 842350460928 1"), "ETIMEDOUT");
  const sent = proxy.requests.map((datagram) => datagram.toHex());
  Deno.kill(daemon.pid, "SIGCONT");
  assertEquals(new Set(sent).size, 1);
  assert(sent.length >= 3 && sent.length <= 6, `sent ${sent.length} times`);
  await daemon.settle();
  assertEquals(await driver.say("add 842350460928 0"), "ok 0000000000000001");
});

test("says ECONNREFUSED when nobody listens, and goes on when somebody does again", async () => {
  const daemon = await Mallocd.start(["--memory", "1MiB"]);
  const { port, server } = daemon;
  await using driver = await Driver.start(server, 300);
  const before = await driver.say("known");
  await daemon.stop();
  assertEquals(await driver.say("malloc 1"), "ECONNREFUSED");
  assertEquals((await run(DRIVER, [server, "300"])).stdout, "ECONNREFUSED\n");
  await using _again = await Mallocd.start(["--memory", "1MiB", "--port", String(port)]);
  assertEquals(await driver.say("known"), before);
  assertEquals(await driver.say("renew"), "ok");
  assert(await driver.say("known") !== before, "the epoch is another's");
});

test("takes addresses, and refuses what is none", async () => {
  for (
    const server of ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "1.2.3:1"]
  ) {
    assertEquals((await run(DRIVER, [server])).stdout, "EINVAL\n", server);
  }
  for (const server of ["::1:1", "[::1:1", "[127.0.0.1]:1", "127.0.0.1:1x", "example.com:1"]) {
    assertEquals((await run(DRIVER, [server])).stdout, "EINVAL\n", server);
  }
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  const hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"];
  for (const host of hosts) {
    await (await Driver.start(`${host}:${daemon.port}`))[Symbol.asyncDispose]();
  }
});

/** What of libc allocates no memory, and prints nothing. */
const ALLOWED = new Set(
  `clock_gettime close connect getrandom getsockopt if_nametoindex inet_pton memcpy memset mmap munmap ppoll
  recvmmsg sendmsg setsockopt socket strchr strcmp strrchr strtoul __isoc23_strtoul __errno_location
  pthread_cond_broadcast pthread_cond_init pthread_cond_timedwait pthread_condattr_init
  pthread_condattr_setclock pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock __stack_chk_fail
  _GLOBAL_OFFSET_TABLE_`.split(/\s+/),
);

test("calls nothing that allocates or prints", async () => {
  const { stdout } = await run("nm", ["-u", `${FOLDER}build/mallocd.o`]);
  const called = stdout.trim().split(/\s+/).filter((word) => word !== "U");
  assertEquals(called.filter((name) => !ALLOWED.has(name)), []);
  assert(called.includes("sendmsg"));
});
