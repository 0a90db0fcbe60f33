/**
 * One suite for every engine, over IPv4 and IPv6 and real sockets of the loopback interface; then what
 * only the syscall engine does. An engine that cannot be had here is left out, and its test says why.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { concat } from "@std/bytes";
import { Drop } from "../../lib/daemon/admission.ts";
import { Counter, type FamilyName, figures } from "../../lib/daemon/counters.ts";
import type { Engine, EngineOptions } from "../../lib/daemon/engine.ts";
import { type EngineName, startEngine } from "../../lib/daemon/engines/choice.ts";
import {
  Arena,
  IOVEC,
  Libc,
  MMSGHDR,
  MSG_DONTWAIT,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_UDP,
  UDP_SEGMENT,
  Unavailable,
} from "../../lib/system/libc.ts";
import { MAX_DATAGRAM } from "../../lib/protocol/wire.ts";
import { SOURCE_BYTES, writeSource } from "../../lib/system/address.ts";
import { socketTest, UNPERMITTED } from "../sockets.ts";
import { fields, head, newOptions, Random, word } from "../testing.ts";

const [MALLOC, FREE, READ, WRITE] = [0, 1, 2, 3];
const TAGGED_ADD = 6;
const EMPTY = "";

/** Why an engine cannot be had here; undefined if it can. */
async function withoutEngine(name: EngineName, hostname: string): Promise<string | undefined> {
  if (UNPERMITTED !== undefined) return UNPERMITTED;
  try {
    const { engine } = await startEngine(name, newOptions({ hostname, replayCache: 64 }));
    await engine.close();
    return undefined;
  } catch (error) {
    if (error instanceof Unavailable) return error.message;
    throw error;
  }
}

/** Why an address of the loopback interface cannot be had: not every host has IPv6. */
function withoutAddress(hostname: string): string | undefined {
  if (UNPERMITTED !== undefined) return UNPERMITTED;
  try {
    Deno.listenDatagram({ transport: "udp", hostname, port: 0 }).close();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A client of its own port, that speaks hex. */
class Client {
  readonly #socket: Deno.DatagramConn;
  readonly #engine: Engine;

  constructor(engine: Engine) {
    this.#engine = engine;
    const { hostname } = engine.address;
    this.#socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  }

  async send(request: Uint8Array | string): Promise<void> {
    const bytes = typeof request === "string" ? Uint8Array.fromHex(request) : request;
    await this.#socket.send(bytes, { transport: "udp", ...this.#engine.address });
  }

  async receive(): Promise<Uint8Array> {
    const [reply] = await this.#socket.receive();
    return reply;
  }

  async ask(request: Uint8Array | string): Promise<string> {
    await this.send(request);
    return (await this.receive()).toHex();
  }

  async malloc(length: number): Promise<number> {
    return parseInt(await this.ask(fields(MALLOC, length)), 16);
  }

  async write(pointer: number, data: Uint8Array): Promise<void> {
    await this.send(concat([Uint8Array.fromHex(fields(WRITE, pointer, data.length)), data]));
  }

  close(): void {
    this.#socket.close();
  }
}

/** After this long a test fails for want of a datagram: none takes a hundredth of it. */
const DEADLINE_MS = 20_000;

/** What a test works with. */
interface Bench {
  engine: Engine;
  options: EngineOptions;
  newClient(): Client;
}

/** Runs a test with an engine, and closes it and all clients afterwards. */
async function withEngine(
  name: EngineName,
  options: EngineOptions,
  test: (bench: Bench) => Promise<void>,
): Promise<void> {
  const { engine } = await startEngine(name, options);
  const clients: Client[] = [];
  const closeClients = () => clients.splice(0).forEach((client) => client.close());
  const deadline = setTimeout(closeClients, DEADLINE_MS); // makes them reject
  const newClient = () => {
    const client = new Client(engine);
    clients.push(client);
    return client;
  };
  try {
    await test({ engine, options, newClient });
  } finally {
    clearTimeout(deadline);
    closeClients();
    await engine.close();
  }
}

/** Waits until the engine has counted at least so many, and returns how many it has. */
async function countOf(
  options: EngineOptions,
  name: FamilyName,
  least: number,
  member = 0,
): Promise<number> {
  const { counters } = options.state.service;
  const at = Counter[name] + member;
  const end = Date.now() + DEADLINE_MS;
  while (counters[at]! < least && Date.now() < end) await sleep(1);
  return counters[at]!;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

interface Claim {
  /** After "the NAME engine over FAMILY". */
  claim: string;
  options?: Partial<EngineOptions>;
  test(bench: Bench): Promise<void>;
}

/** The suite. */
const CLAIMS: Claim[] = [
  {
    claim: "answers classic requests, and refuses a read with an empty datagram",
    async test({ newClient }) {
      const client = newClient();
      const pointer = await client.malloc(8);
      await client.write(pointer, Uint8Array.fromHex("0102030405060708"));
      assertEquals(await client.ask(fields(READ, pointer, 8)), "0102030405060708");
      assertEquals(await client.ask(fields(READ, pointer, 2n ** 63n)), EMPTY);
      await client.send(fields(FREE, pointer));
      assertEquals(await client.ask(fields(MALLOC, 8)), fields(pointer));
    },
  },
  {
    claim: "carries datagrams of every size up to the largest, both ways",
    async test({ newClient }) {
      const random = new Random(1);
      const client = newClient();
      const pointer = await client.malloc(MAX_DATAGRAM);
      for (const length of [0, 1, 1471, 1473, 32768, 65482, 65483]) {
        const data = random.bytes(length);
        await client.write(pointer, data);
        const reply = await client.ask(fields(READ, pointer, length));
        assert(reply === data.toHex(), `${length} bytes came back differently`);
      }
      assertEquals((await client.ask(fields(READ, pointer, MAX_DATAGRAM))).length, 2 * 65507);
    },
  },
  {
    claim: "survives datagrams that are no requests",
    async test({ newClient, options }) {
      const client = newClient();
      const junk = [EMPTY, "00", "ff".repeat(7), "ff".repeat(64), "ff".repeat(MAX_DATAGRAM)];
      for (const datagram of junk) await client.send(datagram);
      assertEquals(await client.ask(fields(MALLOC)), fields(0)); // too short: NULL
      assert(await client.malloc(8) > 0);
      assertEquals(await countOf(options, "received", junk.length + 2), junk.length + 2);
      assertEquals(await countOf(options, "silent", junk.length), junk.length);
      assertEquals(await countOf(options, "sent", 2), 2);
    },
  },
  {
    claim: "executes the requests of one client in the order in which they came",
    async test({ newClient }) {
      const client = newClient();
      const pointer = await client.malloc(8);
      const values = Array.from({ length: 50 }, (_, i) => fields(i));
      for (const value of values) {
        await client.send(fields(WRITE, pointer, 8) + value);
        await client.send(fields(READ, pointer, 8));
      }
      for (const value of values) assertEquals((await client.receive()).toHex(), value);
    },
  },
  {
    claim: "gives each of many clients its own replies, of equal and of different sizes",
    async test({ newClient }) {
      const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
      const random = new Random(seed);
      const clients = Array.from({ length: 8 }, newClient);
      const blocks = [];
      for (const client of clients) {
        const data = random.bytes(4096);
        const pointer = await client.malloc(data.length);
        await client.write(pointer, data);
        blocks.push({ client, data, pointer, expected: [] as string[] });
      }
      let block = blocks[0]!;
      let length = 0;
      for (let i = 0; i < 100; i++) {
        if (random.chance(0.2)) block = random.pick(blocks);
        if (random.chance(0.4)) length = random.pick([0, 1, 64, 64, 64, 1000, 4000]);
        const start = random.below(block.data.length - length + 1);
        block.expected.push(block.data.subarray(start, start + length).toHex());
        await block.client.send(fields(READ, block.pointer + start, length));
      }
      for (const { client, expected } of blocks) {
        for (const reply of expected) {
          assertEquals((await client.receive()).toHex(), reply, `seed ${seed}`);
        }
      }
    },
  },
  {
    claim: "executes a repeated tagged request once for each sender",
    async test({ newClient }) {
      const [one, two] = [newClient(), newClient()];
      const pointer = await one.malloc(8);
      const add = word(7, TAGGED_ADD) + fields(pointer, 1);
      const reply = (old: number) => head(7, TAGGED_ADD, 0, 8) + fields(old);
      assertEquals(await one.ask(add), reply(0));
      assertEquals(await one.ask(add), reply(0));
      assertEquals(await two.ask(add), reply(1));
      assertEquals(await one.ask(fields(READ, pointer, 8)), fields(2));
    },
  },
  {
    claim: "counts what comes and goes, and how long it takes",
    async test({ engine, options, newClient }) {
      const client = newClient();
      const datagrams = 40;
      for (let i = 0; i < datagrams; i++) await client.ask(fields(MALLOC, 16));
      assertEquals(await countOf(options, "sent", datagrams), datagrams);
      const { counters } = options.state.service;
      assertEquals(counters[Counter.receivedBytes], 16 * datagrams);
      assertEquals(await countOf(options, "sentBytes", 8 * datagrams), 8 * datagrams);
      const turns = counters[Counter.turns]!;
      assert(turns > 0 && turns <= datagrams, `${turns} turns`);
      // The datagram engine times one of 16.
      const timed = engine.name === "syscall" ? datagrams : Math.ceil(datagrams / 16);
      const buckets = figures().filter(({ family }) => family === "latency");
      const sum = () => buckets.reduce((sum, { at }) => sum + counters[at]!, 0);
      for (const end = Date.now() + DEADLINE_MS; sum() < timed && Date.now() < end;) await sleep(1);
      assertEquals(sum(), timed);
      assert(counters[Counter.latencySum]! > 0);
      assertEquals(counters[Counter.busy], 0);
    },
  },
  {
    claim: "goes on when a client is gone before its reply",
    async test({ engine, newClient, options }) {
      const gone = new Client(engine);
      await gone.send(fields(MALLOC, 8));
      gone.close();
      const client = newClient();
      for (let i = 0; i < 10; i++) assert(await client.malloc(8) > 0);
      assertEquals(await countOf(options, "received", 11), 11);
    },
  },
  {
    claim: "rejects with AddrInUse when its port is taken",
    async test({ engine, options }) {
      const again = { ...options, port: engine.address.port };
      await assertRejects(
        () => startEngine(engine.name as EngineName, again),
        Deno.errors.AddrInUse,
      );
    },
  },
  {
    claim: "rejects with RangeError when the heap cannot be made, and holds no socket then",
    async test({ engine, options }) {
      const { port } = engine.address;
      await engine.close();
      const start = (memory: number) =>
        startEngine(engine.name as EngineName, { ...options, port, memory });
      await assertRejects(() => start(1), RangeError, "Cannot make a heap of 1 bytes");
      const second = await start(4096);
      await second.engine.close();
    },
  },
  {
    claim: "closes under load, once, and leaves its port free",
    async test({ engine, options, newClient }) {
      const client = newClient();
      let closed = false;
      const load = (async () => {
        while (!closed) await client.send(fields(MALLOC, 0));
      })();
      assert(await countOf(options, "received", 100) >= 100);
      await Promise.all([engine.close(), engine.close()]);
      closed = true;
      await load;
      assertEquals(
        options.state.service.counters[Counter.sent],
        options.state.service.counters[Counter.received],
      );
      Deno.listenDatagram({ transport: "udp", ...engine.address }).close();
    },
  },
];

const FAMILIES = [
  { family: "IPv4", hostname: "127.0.0.1", network: "127.0.0.0/8", elsewhere: "192.0.2.0/24" },
  { family: "IPv6", hostname: "::1", network: "::1/128", elsewhere: "2001:db8::/32" },
];

for (const { family, hostname, network, elsewhere } of FAMILIES) {
  for (const name of ["datagram", "syscall"] as const) {
    const reason = withoutAddress(hostname) ?? await withoutEngine(name, hostname);
    const admission: Claim[] = [
      {
        claim: "answers senders in an admitted network",
        options: { allow: [elsewhere, network] },
        async test({ newClient }) {
          assert(await newClient().malloc(8) > 0);
        },
      },
      {
        claim: "drops datagrams of senders that are not admitted",
        options: { allow: [elsewhere] },
        async test({ newClient, options }) {
          await newClient().send(fields(MALLOC, 8));
          assertEquals(await countOf(options, "dropped", 1, Drop.network), 1);
          assertEquals(await countOf(options, "sent", 0), 0);
        },
      },
    ];
    for (const { claim, options, test } of [...CLAIMS, ...admission]) {
      const title = `the ${name} engine over ${family} ${claim}`;
      Deno.test({
        name: reason === undefined ? title : `${title} (skipped: ${reason})`,
        ignore: reason !== undefined,
        fn: () => withEngine(name, newOptions({ hostname, replayCache: 64, ...options }), test),
      });
    }
  }
}

/** In the arena of a coalescing client: its one message header and iovec, then the message. */
const MESSAGE = 128;
const MESSAGE_BYTES = 64 * 1024;

/** A client whose datagrams the kernel coalesces, as it does those that a network card takes in a row. */
class CoalescingClient {
  readonly #libc = new Libc();
  readonly #arena = new Arena(this.#libc, MESSAGE + MESSAGE_BYTES);
  readonly #header = this.#arena.addressOf(0);
  readonly #bytes = new Uint8Array(this.#arena.memory.buffer, MESSAGE, MESSAGE_BYTES);
  readonly #fd: number;

  constructor({ address: { hostname, port } }: Engine) {
    const name = new DataView(new ArrayBuffer(SOURCE_BYTES));
    writeSource(name, 0, hostname, port);
    const { socket, connect } = this.#libc.symbols;
    this.#fd = socket(name.getUint16(0, true), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assertEquals(connect(this.#fd, name, SOURCE_BYTES), 0);
    this.#arena.setPointer(MMSGHDR.iovecs, MMSGHDR.size);
    this.#arena.view.setInt32(MMSGHDR.iovecCount, 1, true);
    this.#arena.setPointer(MMSGHDR.size + IOVEC.base, MESSAGE);
  }

  /** Sends datagrams of `segment` bytes, the last of which may be shorter, as one message. */
  send(datagrams: Uint8Array, segment: number): void {
    const { setsockopt, sendmmsg } = this.#libc.symbols;
    assertEquals(setsockopt(this.#fd, SOL_UDP, UDP_SEGMENT, new Int32Array([segment]), 4), 0);
    this.#bytes.set(datagrams);
    this.#arena.view.setInt32(MMSGHDR.size + IOVEC.length, datagrams.length, true);
    assertEquals(sendmmsg(this.#fd, this.#header, 1, 0), 1);
  }

  /** Returns the next datagrams, so many bytes altogether. */
  async receive(length: number): Promise<Uint8Array> {
    this.#arena.view.setInt32(MMSGHDR.size + IOVEC.length, MESSAGE_BYTES, true);
    const datagrams: Uint8Array[] = [];
    for (const end = Date.now() + DEADLINE_MS; length > 0 && Date.now() < end;) {
      if (this.#libc.symbols.recvmmsg(this.#fd, this.#header, 1, MSG_DONTWAIT, 0n) < 1) {
        await sleep(1);
        continue;
      }
      const datagram = this.#bytes.slice(0, this.#arena.view.getInt32(MMSGHDR.length, true));
      datagrams.push(datagram);
      length -= datagram.length;
    }
    return concat(datagrams);
  }

  close(): void {
    this.#libc.symbols.close(this.#fd);
    this.#libc.close();
  }
}

const NO_SYSCALL = await withoutEngine("syscall", "127.0.0.1");

/** A test of what only the syscall engine does. */
function testSyscall(
  claim: string,
  options: Partial<EngineOptions>,
  test: (bench: Bench) => Promise<void>,
): void {
  Deno.test({
    name: `serveSyscall() ${claim}` + (NO_SYSCALL === undefined ? "" : ` (skipped: ${NO_SYSCALL})`),
    ignore: NO_SYSCALL !== undefined,
    fn: () => withEngine("syscall", newOptions({ replayCache: 64, ...options }), test),
  });
}

testSyscall("serves coalesced datagrams one by one and in order", {}, async (bench) => {
  const client = new CoalescingClient(bench.engine);
  try {
    const random = new Random(2);
    const data = random.bytes(1024);
    const other = bench.newClient();
    const pointer = await other.malloc(data.length);
    await other.write(pointer, data);
    const reads = (lengths: number[]) =>
      lengths.map((length) => {
        const at = random.below(data.length - length + 1);
        return {
          request: fields(READ, pointer + at, length),
          reply: data.subarray(at, at + length),
        };
      });
    for (
      const lengths of [
        Array.from({ length: 64 }, () => 64),
        Array.from({ length: 64 }, () => random.below(300)),
        [8, 8, 8, 5, 5, 8, 0, 8, 8, 0, 0, 5],
      ]
    ) {
      const expected = reads(lengths);
      // A malloc is shorter than a read, as the last datagram may be.
      const requests = expected.map(({ request }) => request).join("") + fields(MALLOC, 2n ** 60n);
      client.send(Uint8Array.fromHex(requests), 24);
      const replies = concat([...expected.map(({ reply }) => reply), new Uint8Array(8)]);
      assertEquals((await client.receive(replies.length)).toHex(), replies.toHex());
    }
  } finally {
    client.close();
  }
});

testSyscall(
  "sends more replies than its ring holds",
  {},
  async ({ engine, options, newClient }) => {
    const client = new CoalescingClient(engine);
    try {
      const pointer = await newClient().malloc(MAX_DATAGRAM);
      const read = Uint8Array.fromHex(fields(READ, pointer, MAX_DATAGRAM));
      client.send(concat(Array.from({ length: 64 }, () => read)), read.length);
      assertEquals(await countOf(options, "sent", 65), 65); // 4 MiB; the client's own buffer may well be smaller
    } finally {
      client.close();
    }
  },
);

testSyscall("answers without spinning", { spin: 0 }, async ({ newClient }) => {
  assert(await newClient().malloc(8) > 0);
});

testSyscall(
  "tells what it was granted of the receive buffer",
  { receiveBuffer: 65536 },
  (bench) => {
    assertEquals(bench.engine.receiveBuffer, 65536);
    return Promise.resolve();
  },
);

testSyscall("counts what the kernel drops", { receiveBuffer: 4096 }, async (bench) => {
  const { engine, options, newClient } = bench;
  const client = new CoalescingClient(engine);
  try {
    const pointer = await newClient().malloc(MAX_DATAGRAM);
    const read = Uint8Array.fromHex(fields(READ, pointer, MAX_DATAGRAM));
    const reads = concat(Array.from({ length: 64 }, () => read));
    const end = Date.now() + DEADLINE_MS;
    while (options.state.service.counters[Counter.kernelDrops] === 0 && Date.now() < end) {
      client.send(reads, read.length);
    }
    assert(options.state.service.counters[Counter.kernelDrops]! > 0);
  } finally {
    client.close();
  }
});

socketTest("startEngine() takes the syscall engine for auto, or says why not", async () => {
  const { engine, reason } = await startEngine("auto", newOptions());
  await engine.close();
  assertEquals(engine.name, NO_SYSCALL === undefined ? "syscall" : "datagram");
  assertEquals(reason, NO_SYSCALL);
});
