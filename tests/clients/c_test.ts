/** clients/c, through a program of a few commands around it (driver.c), with the daemon of `make build`. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { describeErrno, ERRNO } from "../../lib/protocol/errno.ts";
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

/** The session flag of the first request of a datagram in hex; its fields are the digits 16 to 48. */
function hasSession(hex: string): boolean {
  return /^.{12}03/.test(hex);
}

/** The requests of a datagram; undefined if it is not made of whole and sound tagged requests alone. */
function parseRequests(hex: string): Request[] | undefined {
  const requests: Request[] = [];
  for (let at = 0; at < hex.length;) {
    const pattern = at === 0 ? /^(.{8})00000[13](.{2})$/ : /^(.{8})000001(.{2})$/;
    const word = pattern.exec(hex.slice(at, at += 16));
    const name = word && NAMES[parseInt(word[2]!, 16)];
    if (!word || !name) return undefined;
    if (at === 16 && hasSession(hex)) at += 32;
    if (at > hex.length) return undefined;
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
    const bodyLength = { read: Number(fields[1]), hello: 56, free: 0, write: 0 }[name as string] ??
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
  const head = 16 * (1 + FIELDS[name]) + (at === 0 && hasSession(hex) ? 32 : 0);
  return name === "write" ? head + 2 * Number("0x" + hex.slice(at + head - 16, at + head)) : head;
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
    const isHello = opcode === NAMES.indexOf("hello");
    // All but the token, the sixth, which is the client's own affair.
    const told = isHello ? body.match(/.{16}/g)?.toSpliced(5, 1).join(" ") ?? "" : body;
    const shown = told !== "" || opcode === NAMES.indexOf("read");
    words.push(status !== 0 ? describeErrno(status).name : shown ? `ok ${told}` : "ok");
  }
  return words.join("; ");
}

/** Whether the client would send what a vector sends, in a session or, to a daemon of version 1, in none. */
function canSay({ before = [], request, after = [] }: Vector, version: number): boolean {
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
    if (version === 1 && hasSession(hex)) return false;
    if (version === 2) { // a hello comes first, and a session takes room
      if (requests.slice(1).some(({ opcode }) => NAMES[opcode] === "hello")) return false;
      if (!hasSession(hex) && hex.length / 2 + 16 > 65507) return false;
    }
    tags.push(...requests.map(({ tag }) => tag));
  }
  return datagrams.length > 0 && new Set(tags).size === tags.length;
}

/* --- The tests ------------------------------------------------------------------------------------------ */

const missing = await whyNoDriver();

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `clients/c ${name}${missing}`, ignore: missing !== "", fn });
}

/** A network that keeps sessions from the daemon, as if it were of version 1, which refuses them. */
function withoutSessions(proxy: Proxy): void {
  proxy.alter = (datagram) => datagram[6]! & 2 ? ERRNO.EINVAL : datagram;
}

/**
 * A network that puts the session of a vector in place of the client's, or takes it away if it has none; what
 * the client sent has its own one.
 */
function exchangeSession(datagram: Uint8Array, vector: string): Uint8Array {
  const sent = datagram.toHex();
  assert(hasSession(sent), sent);
  if (hasSession(vector)) {
    return Uint8Array.fromHex(sent.slice(0, 16) + vector.slice(16, 48) + sent.slice(48));
  }
  return Uint8Array.fromHex(sent.slice(0, 12) + "01" + sent.slice(14, 16) + sent.slice(48));
}

for (const [version, strict] of [[1, false], [1, true], [2, false], [2, true]] as const) {
  const kind = `${strict ? "strict " : ""}daemon of version ${version}`;
  test(`passes docs/vectors.json with a ${kind}`, async () => {
    const args = ["--memory", String(SIZE), ...(strict ? ["--strict"] : [])];
    await using daemon = await Mallocd.start(args);
    using proxy = new Proxy(daemon.port);
    using peer = new Peer(daemon);
    if (version === 1) withoutSessions(proxy);
    await using driver = await Driver.start(proxy.server);
    const [, epoch] = (await driver.say("known")).split(" ");
    const token = version === 1 ? "" : proxy.replies[0]!.toHex().slice(112, 128);
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
      const passed: string[] = [];
      if (version === 2) {
        proxy.alter = (datagram) => {
          const altered = exchangeSession(datagram, hex);
          passed.push(altered.toHex());
          return altered;
        };
      }
      for (const { opcode } of requests) said.add(NAMES[opcode]!);
      const words = await driver.say(requests.map(({ command }) => command).join("; "));
      if (requests[0]!.bodyLength > 65491) { // refused without asking, as the daemon would
        assertEquals([words, proxy.requests.length], ["EMSGSIZE", 0]);
        return await peer.ask(hex);
      }
      const tags = requests.map(({ tag }) => tag);
      const sent = proxy.requests.map((datagram) => datagram.toHex());
      if (version === 2) assertEquals(sent.map((hex) => hex.slice(16, 48)), [`${epoch}${token}`]);
      const meant = version === 2 ? passed : sent;
      assertEquals(meant.map((datagram) => retag(datagram, tags, requestLength)), [hex]);
      const reply = retag(proxy.replies[0]!.toHex(), tags, replyLength);
      assertEquals(words, expectedWords(reply));
      return reply;
    };
    const vectors = vectorsFor(strict).filter((vector) => canSay(vector, version));
    for (const vector of vectors) await pass(vector, ask);
    assertEquals([...said].sort(), [...NAMES].sort()); // no method is left out
    assert(vectors.length >= (strict ? 50 : 45), `${vectors.length} vectors`);
    const sessions = vectors.filter(({ request }) => hasSession(request.replaceAll(" ", "")));
    assertEquals(sessions.length >= 4, version === 2, `${sessions.length} vectors with sessions`);
  });
}

test("knows what the daemon says of itself", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  await using driver = await Driver.start(daemon.server);
  const known = await driver.say("known");
  const fields = /^ok .{16} 000000c420000000 0000000000100000 000000000000ffe3 0{15}2 .{16}$/;
  assertMatch(known, fields);
  assertEquals(await driver.say("hello"), known);
});

test("says ESTALE after a restart, sends nothing of before in the new life, and goes on", async () => {
  const daemon = await Mallocd.start(["--memory", "1MiB"]);
  const { port, server } = daemon;
  await using driver = await Driver.start(server);
  const [, pointer] = (await driver.say("malloc 64")).split(" ");
  await daemon.stop();
  await using _again = await Mallocd.start(["--memory", "1MiB", "--port", String(port)]);
  const requests = [
    `write 0x${pointer} 2 abcd`,
    `read 0x${pointer} 2`,
    "malloc 1",
    "block 100000 1",
  ];
  for (const request of requests) assertEquals(await driver.say(request), "ESTALE", request);
  assertMatch(await driver.say("hello"), /^ok /, "a hello is of any epoch");
  assertEquals(await driver.say(requests[0]!), "ESTALE", "and makes none known");
  assertEquals(await driver.say("renew"), "ok");
  assertEquals(await driver.say(`read 0x${pointer} 2`), "ok 0000", "nothing was written");
  assertEquals(await driver.say("block 100000 1"), "ok same");
});

test("gives up with ESTALE what is on its way when it is renewed in another epoch", async () => {
  const daemon = await Mallocd.start(["--memory", "1MiB"]);
  const { port } = daemon;
  using proxy = new Proxy(port);
  await using driver = await Driver.start(proxy.server, 20_000);
  // Nothing but hello arrives: whatever is under way goes on being sent.
  proxy.alter = (datagram) => datagram[7] === 7 ? datagram : new Uint8Array();
  assertEquals(await driver.say("start add 842350460928 1"), "ok");
  assertEquals(await driver.say("start write 842350460936 1 ff"), "ok");
  await daemon.stop();
  await using _again = await Mallocd.start(["--memory", "1MiB", "--port", String(port)]);
  assertEquals(await driver.say("renew"), "ok");
  assertEquals(await driver.say("collect"), "ESTALE; ESTALE");
  proxy.alter = (datagram) => datagram;
  assertEquals(await driver.say("read 842350460928 16"), `ok ${"00".repeat(16)}`);
});

test("says hello for a token when it is refused with EPERM, once for each request", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server);
  const opcodes = () => proxy.requests.map((datagram) => datagram[7]);
  // As if the token had gone bad: a new one is got by a hello.
  let proven = false;
  proxy.alter = (datagram) => {
    if (datagram[7] === 7) proven = true;
    return proven ? datagram : ERRNO.EPERM;
  };
  proxy.requests.length = 0;
  assertEquals(await driver.say("add 842350460928 1"), "ok 0000000000000000");
  assertEquals(opcodes(), [6, 7, 6]);
  assertEquals(
    proxy.requests[0],
    proxy.requests[2],
    "the token is the same one, and so is the tag",
  );
  // As if no token would do.
  proxy.alter = (datagram) => datagram[7] === 7 ? datagram : ERRNO.EPERM;
  proxy.requests.length = 0;
  assertEquals(await driver.say("add 842350460928 1"), "EPERM");
  assertEquals(opcodes(), [6, 7, 6]);
});

test("sends again at once what is refused with EAGAIN, until its time is up", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server, 500);
  let refusals = 3;
  proxy.alter = (datagram) => refusals-- > 0 ? ERRNO.EAGAIN : datagram;
  proxy.requests.length = 0;
  assertEquals(await driver.say("malloc 100"), "ok 000000c420000000");
  assertEquals(proxy.requests.length, 4);
  assertEquals(new Set(proxy.requests.map((datagram) => datagram.toHex())).size, 1);
  refusals = Infinity;
  assertEquals(await driver.say("malloc 100"), "EAGAIN");
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

test("runs no further ahead of what is unanswered than the daemon remembers", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB", "--replay-cache", "16"]);
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  using proxy = new Proxy(daemon.port, { loss: 0.2, seed });
  await using driver = await Driver.start(proxy.server, 20_000);
  assertEquals(await driver.say("count 8 12"), "ok 96", `seed ${seed}`);
  assert(proxy.lost > 20, `${proxy.lost} datagrams were lost`);
});

test("sends long reads at once, and each in a datagram; shorter requests behind them share one", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server);
  const [, pointer] = (await driver.say("malloc 65536")).split(" ");
  assertEquals(await driver.say(`write 0x${pointer} 4 01020304`), "ok");
  proxy.requests.length = 0;
  const long = `read 0x${pointer} 33000`; // two of them do not fit into one datagram
  const ops = [long, long, long, `read 0x${pointer} 4`, `add 0x${pointer} 1`, long];
  const words = (await driver.say(ops.join(";"))).split("; ");
  assertEquals(words.map((text) => text.slice(0, 9)), [
    ...Array(3).fill("ok 010203"),
    "ok 010203",
    "ok 010203",
    "ok 010203",
  ]);
  assertEquals(proxy.requests.map((request) => request.length), [40, 40, 40, 40 + 24 + 24]);
});

test("gives each read its own data in whichever order replies come, doubled and refused ones, too", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server);
  const length = 40_000; // two of them do not fit into one datagram
  const blocks = ["11", "22", "33"].map((byte) => byte.repeat(length));
  const pointers: string[] = [];
  for (const block of blocks) {
    const [, pointer] = (await driver.say(`malloc ${length}`)).split(" ");
    assertEquals(await driver.say(`write 0x${pointer} ${length} ${block}`), "ok");
    pointers.push(pointer!);
  }
  const reads = [...pointers.map((pointer) => `read 0x${pointer} ${length}`), `read 1 ${length}`];
  const orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 2, 0, 1, 1, 3], [3, 0, 0, 1, 2]];
  for (const order of orders) {
    proxy.requests.length = proxy.replies.length = proxy.delivered = 0;
    proxy.deliver = () => {
      const { replies } = proxy;
      return replies.length === reads.length ? order.map((place) => replies[place]!) : [];
    };
    assertEquals(await driver.say(`start ${reads.join(";")}`), "ok");
    while (proxy.delivered < reads.length) await new Promise((resolve) => setTimeout(resolve, 1));
    const words = (await driver.say("collect")).split("; ");
    assertEquals(words.length, reads.length);
    assertEquals(words.pop(), "EFAULT", `order ${order}`);
    for (const [i, word] of words.entries()) {
      assert(word === `ok ${blocks[i]}`, `order ${order}: read ${i}`);
    }
  }
});

test("takes replies that the kernel has joined, also where the data of a read were to come", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server);
  const [block, other] = ["11".repeat(33_000), "22".repeat(65_460)]; // not in one datagram
  const [, from] = (await driver.say("malloc 33000")).split(" ");
  const [, to] = (await driver.say("malloc 65460")).split(" ");
  assertEquals(await driver.say(`write 0x${from} 33000 ${block}`), "ok");
  for (const order of [[0, 1], [1, 0]]) {
    proxy.replies.length = 0;
    proxy.deliver = () => {
      const { replies } = proxy;
      if (replies.length < 2) return [];
      return [Uint8Array.from(order.flatMap((place) => [...replies[place]!]))];
    };
    const said = await driver.say(`read 0x${from} 33000;write 0x${to} 65460 ${other}`);
    assert(said === `ok ${block}; ok`, `order ${order}`);
  }
});

/** Stops a daemon for a while; resolves when none of its threads runs any more. */
async function pause({ pid }: Mallocd): Promise<void> {
  Deno.kill(pid, "SIGSTOP");
  const isRunning = `grep -L "^State:.T" /proc/${pid}/task/*/status | grep -q .`;
  await run("sh", ["-c", `while ${isRunning}; do :; done`]);
}

test("sends a request again with the same bytes, later each time, until it gives up", async () => {
  await using daemon = await Mallocd.start(["--memory", "1MiB"]);
  using proxy = new Proxy(daemon.port);
  await using driver = await Driver.start(proxy.server, 1000);
  await pause(daemon);
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
  pthread_cond_broadcast pthread_cond_init pthread_cond_timedwait pthread_cond_wait pthread_condattr_init
  pthread_condattr_setclock pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock __stack_chk_fail
  _GLOBAL_OFFSET_TABLE_`.split(/\s+/),
);

test("calls nothing that allocates or prints", async () => {
  const { stdout } = await run("nm", ["-u", `${FOLDER}build/mallocd.o`]);
  const called = stdout.trim().split(/\s+/).filter((word) => word !== "U");
  assertEquals(called.filter((name) => !ALLOWED.has(name)), []);
  assert(called.includes("sendmsg"));
});
