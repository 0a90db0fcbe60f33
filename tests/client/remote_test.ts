/** The client library over real sockets, with the real daemon and with one that misbehaves as told. */

import { runInNewContext } from "node:vm";
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  decodeRequest,
  encodeReplyHead,
  FIELD,
  Flag,
  METHODS,
  REPLY_BODY,
  REPLY_HEAD,
  Request,
  SESSION_REPLY_BODY,
} from "../../lib/protocol/wire.ts";
import {
  type CallOptions,
  MAX_TIMEOUT_MS,
  NoReplyError,
  NotThereError,
  RefusedError,
  Remote,
  StaleEpochError,
} from "../../lib/client/remote.ts";
import { unlessAborted } from "../../lib/client/exchange.ts";
import { ERRNO } from "../../lib/protocol/errno.ts";
import { LIFETIME_SECONDS } from "../../lib/daemon/duplicate_request_cache.ts";
import { type Clock, openUdp, parseServer, REAL_CLOCK } from "../../lib/client/transport.ts";
import { joinHostPort } from "../../lib/system/address.ts";
import { startDaemon } from "../daemon.ts";
import { connect, PATIENCE_MS } from "../remote.ts";
import { socketTest, vacantPort } from "../sockets.ts";
import { fields, head, Random, word } from "../testing.ts";

const PROTOCOLS = ["tagged", "classic"] as const;
const BASE = 0xc420000000n;
const HEAP = 16 * 1024 ** 2;
const [MALLOC, READ] = [0, 2];
const HELLO = 7;

/** A thousand times slower: nothing is sent again, however long this process is kept waiting. */
const SLOW_CLOCK: Clock = {
  ...REAL_CLOCK,
  now: () => REAL_CLOCK.now() / 1000,
  after: (ms, then) => REAL_CLOCK.after(ms * 1000, then),
};

/** Its time goes on when it is told to. */
class StoppedClock implements Clock {
  #time = 0;
  readonly #timers = new Set<() => void>();

  now(): number {
    return this.#time;
  }

  after(_ms: number, then: () => void): () => void {
    this.#timers.add(then);
    return () => this.#timers.delete(then);
  }

  random(): number {
    return 0.5;
  }

  /** All timers go off: what is not due yet sets another one. */
  advance(ms: number): void {
    this.#time += ms;
    const due = [...this.#timers];
    this.#timers.clear();
    for (const then of due) then();
  }
}

const bytesOf = (text: string) => new TextEncoder().encode(text);

type Answer = (
  request: Uint8Array,
  from: Deno.NetAddr,
  daemon: FakeDaemon,
) => void | Promise<void>;

/** Receives like a daemon; what it does then is up to `answer`. */
class FakeDaemon implements AsyncDisposable {
  readonly requests: Uint8Array[] = [];
  readonly #socket: Deno.DatagramConn;
  readonly server: string;
  readonly #done: Promise<void>;

  constructor(answer: Answer, port = 0) {
    this.#socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
    this.server = `127.0.0.1:${(this.#socket.addr as Deno.NetAddr).port}`;
    this.#done = this.#run(answer);
  }

  async #run(answer: Answer): Promise<void> {
    for await (const [request, from] of this.#socket) {
      this.requests.push(request);
      await answer(request, from as Deno.NetAddr, this);
    }
  }

  async send(reply: Uint8Array | string, to: Deno.NetAddr): Promise<void> {
    const bytes = typeof reply === "string" ? Uint8Array.fromHex(reply) : reply;
    await this.#socket.send(bytes, to);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    await this.#done;
  }
}

const SILENT: Answer = () => {};

/** The reply to a tagged request, with a body of as many bytes as it ought to have, all of them 1. */
function replyTo(datagram: Uint8Array): Uint8Array<ArrayBuffer> {
  const request = decoded(datagram);
  const isRead = request.opcode === METHODS.read.opcode;
  const bodies = (request.flags & Flag.session) === 0 ? REPLY_BODY : SESSION_REPLY_BODY;
  const length = isRead ? request.length : bodies[request.opcode]!;
  const reply = new Uint8Array(REPLY_HEAD + length).fill(1);
  encodeReplyHead(new DataView(reply.buffer), 0, request, 0, length);
  return reply;
}

function decoded(datagram: Uint8Array): Request {
  const request = new Request();
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  decodeRequest(view, 0, datagram.length, request);
  return request;
}

const FIVE_ONES = new Uint8Array(5).fill(1);

const isHello = (request: Uint8Array) => request[7] === HELLO;

/** Answers hello; all else is left to `answer`. */
function tagged(answer: Answer): Answer {
  return async (request, from, daemon) => {
    if (isHello(request)) await daemon.send(replyTo(request), from);
    else await answer(request, from, daemon);
  };
}

/** A port on which nobody listens. */
function unreachable(hostname = "127.0.0.1"): string {
  return joinHostPort({ hostname, port: vacantPort(hostname) });
}

Deno.test("Remote gives a call up before the daemon forgets its reply", () => {
  assert(MAX_TIMEOUT_MS < LIFETIME_SECONDS * 1000); // here, for the client has no use for the cache
});

for (const protocol of PROTOCOLS) {
  socketTest(
    `Remote.read() refuses lengths that are none, before it sends (${protocol})`,
    async () => {
      await using daemon = await startDaemon();
      await using remote = await connect({ server: daemon.server, protocol });
      for (const length of [-1, 1.5, NaN, Infinity]) {
        await assertRejects(
          () => remote.read(BASE, length),
          RangeError,
          `Cannot read ${length} bytes`,
        );
      }
    },
  );

  socketTest(`Remote allocates, writes, reads and frees in the ${protocol} protocol`, async () => {
    await using daemon = await startDaemon();
    const { server } = daemon;
    await using remote = await connect({ server, protocol });
    assertEquals([remote.protocol, remote.server], [protocol, server]);
    const pointer = await remote.malloc(5);
    assertEquals(pointer, BASE);
    assertEquals(await remote.read(pointer, 5), new Uint8Array(5));
    await remote.write(pointer, bytesOf("hello"));
    assertEquals(await remote.read(pointer, 4), bytesOf("hell"));
    assertEquals(await remote.read(pointer, 0), new Uint8Array());
    await remote.write(pointer, new Uint8Array());
    const array = await remote.calloc(10n, 100);
    assertEquals(await remote.read(array, 1000), new Uint8Array(1000));
    await remote.free(pointer);
    await remote.free(array);
    await remote.free(0n);
    await remote.ping(); // so that the last classic free was served, too
    assertEquals([daemon.count("blocks"), daemon.requests("free")], [0, 3]);
  });
}

socketTest("Remote.stats() tells what the daemon counts, by name", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  await remote.malloc(100);
  const stats = await remote.stats();
  assertEquals([...stats.keys()].slice(0, 2), ["epoch", "uptime"]);
  assertEquals(stats.get("epoch"), { value: remote.hello!.epoch, kind: "gauge" });
  assertEquals(stats.get("bytes"), { value: 128n, kind: "gauge", unit: "bytes" });
  assertEquals(stats.get("requests.malloc"), { value: 1n, kind: "counter" });
  const again = await remote.stats();
  assertEquals(again.get("requests.stats")!.value, 4n - 1n, "names are asked for once");
  await using classic = await connect({ server: daemon.server, protocol: "classic" });
  await assertRejects(() => classic.stats(), RefusedError, "needs the tagged protocol");
});

socketTest("Remote.stats() asks for the names again when the daemon was restarted", async () => {
  const port = await (async () => {
    await using daemon = await startDaemon();
    return Number(daemon.server.split(":")[1]);
  })();
  let daemon = await startDaemon({ port });
  await using remote = await connect({ server: daemon.server });
  await remote.stats();
  await daemon[Symbol.asyncDispose]();
  daemon = await startDaemon({ port, memory: 1024 ** 2 });
  try {
    await assertRejects(() => remote.stats(), StaleEpochError);
    await remote.renew();
    const stats = await remote.stats();
    assertEquals(stats.get("heap")!.value, 1024n ** 2n);
    assertEquals(stats.get("requests.stats")!.value, 2n);
  } finally {
    await daemon[Symbol.asyncDispose]();
  }
});

const WRONG_STATS = [
  ["three values for two names", "61206761756765 0a 6220 636f756e746572", 3],
  ["no values at all", "61206761756765", 0],
  ["half a value", "61206761756765", 0.5],
] as const;

for (const [what, names, values] of WRONG_STATS) {
  socketTest(`Remote.stats() rejects ${what}`, async () => {
    await using daemon = new FakeDaemon(tagged(async (request, from, daemon) => {
      const { tag, rest } = decoded(request);
      const asksForNames = request[rest + 7] === 1;
      const body = asksForNames ? names.replaceAll(" ", "") : "00".repeat(8 * values);
      const flags = request[6]! | 0x80;
      const reply = word(tag, METHODS.stats.opcode, { flags }) + fields(body.length / 2) + body;
      await daemon.send(reply, from);
    }));
    await using remote = await connect({ server: daemon.server });
    await assertRejects(() => remote.stats(), RefusedError, "reply of a wrong length");
  });
}

socketTest("Remote has all that the tagged protocol has", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  assertEquals(remote.protocol, "tagged");
  const { epoch, ...rest } = remote.hello!;
  assertEquals(rest, { base: BASE, size: BigInt(HEAP), largestDatagram: 65507, version: 2 });
  assertEquals((await remote.ping())!.epoch, epoch);

  const pointer = await remote.malloc(8);
  assertEquals(await remote.fetchAndAdd(pointer, 5n), 0n);
  assertEquals(await remote.fetchAndAdd(pointer, -6n), 5n);
  assertEquals(await remote.fetchAndAdd(pointer, 0n), 2n ** 64n - 1n);
  assertEquals(await remote.compareAndSwap(pointer, 1n, 2n), 2n ** 64n - 1n);
  assertEquals(await remote.compareAndSwap(pointer, -1n, 0x0102030405060708n), 2n ** 64n - 1n);
  assertEquals((await remote.read(pointer, 8)).toHex(), "0102030405060708");

  await remote.malloc(16); // in the way
  const moved = await remote.realloc(pointer, 100n);
  assert(moved !== pointer);
  assertEquals((await remote.read(moved, 9)).toHex(), "010203040506070800");
  assertEquals(await remote.realloc(moved, 0), 0n);
  assertEquals(daemon.count("blocks"), 1);
});

interface Refused {
  what: string;
  call: (remote: Remote) => Promise<unknown>;
  asked: string;
  tagged: string | undefined;
  /** Undefined where the classic protocol has no answer; then the call succeeds. */
  classic?: { errno: string | undefined };
}

const REFUSED: Refused[] = [
  {
    what: "a malloc of more than there is",
    call: (remote) => remote.malloc(2n ** 40n),
    asked: "malloc(1099511627776)",
    tagged: "ENOMEM",
    classic: { errno: "ENOMEM" },
  },
  {
    what: "a calloc that overflows 64 bits",
    call: (remote) => remote.calloc(2n ** 40n, 2n ** 30n),
    asked: "calloc(1099511627776, 1073741824)",
    tagged: "ENOMEM",
    classic: { errno: "ENOMEM" },
  },
  {
    what: "a read outside of the heap",
    call: (remote) => remote.read(0xdead0000n, 3),
    asked: "read(0xdead0000, 3)",
    tagged: "EFAULT",
    classic: { errno: undefined },
  },
  {
    what: "a read of dead memory",
    call: (remote) => remote.read(BASE + 4096n, 3),
    asked: "read(0xc420001000, 3)",
    tagged: "EACCES",
    classic: { errno: undefined },
  },
  {
    what: "a read of more than the heap is",
    call: (remote) => remote.read(BASE, 2 * HEAP),
    asked: "read(0xc420000000, 33554432)",
    tagged: "EFAULT",
  },
  {
    what: "a write outside of the heap",
    call: (remote) => remote.write(2n ** 64n - 1n, bytesOf("abc")),
    asked: "write(0xffffffffffffffff, 3, data)",
    tagged: "EFAULT",
  },
  {
    what: "a free of what is not allocated",
    call: (remote) => remote.free(BASE + 4096n),
    asked: "free(0xc420001000)",
    tagged: "EINVAL",
  },
  {
    what: "a realloc of what is not allocated",
    call: (remote) => remote.realloc(BASE + 4096n, 1),
    asked: "realloc(0xc420001000, 1)",
    tagged: "EINVAL",
    classic: { errno: "ENOSYS" },
  },
  {
    what: "a compare-and-swap that is not aligned",
    call: (remote) => remote.compareAndSwap(BASE + 1n, 0n, -1n),
    asked: "cas(0xc420000001, 0, 18446744073709551615)",
    tagged: "EINVAL",
    classic: { errno: "ENOSYS" },
  },
  {
    what: "a fetch-and-add outside of the heap",
    call: (remote) => remote.fetchAndAdd(0n, 1n),
    asked: "add(0x0, 1)",
    tagged: "EFAULT",
    classic: { errno: "ENOSYS" },
  },
];

socketTest("Remote rejects with what was asked and why it was refused", async (t) => {
  await using daemon = await startDaemon({ strict: true, memory: HEAP });
  const { server } = daemon;
  await using tagged = await connect({ server, protocol: "tagged" });
  await using classic = await connect({ server, protocol: "classic" });
  for (const { what, call, asked, ...expected } of REFUSED) {
    await t.step(what, async () => {
      await tagged.malloc(16);
      const error = await assertRejects(() => call(tagged), RefusedError);
      assertEquals([error.asked, error.errno], [asked, expected.tagged]);
      assert(error.message.startsWith(`${asked}: `), error.message);
      if (expected.classic === undefined) return;
      const silent = await assertRejects(() => call(classic), RefusedError);
      assertEquals([silent.asked, silent.errno], [asked, expected.classic.errno]);
    });
  }
});

socketTest(
  "Remote rejects what is no length, no pointer or no timeout before it sends anything",
  async () => {
    await using daemon = new FakeDaemon(SILENT);
    const { server } = daemon;
    await using remote = await connect({ server, protocol: "classic" });
    await assertRejects(() => remote.malloc(1.5), RangeError);
    await assertRejects(() => remote.calloc(0.5, 2), RangeError);
    await assertRejects(() => remote.free(undefined as unknown as bigint), TypeError);
    for (const length of [-1, 2 ** 53, 2 ** 64, -1n, 2n ** 64n]) {
      await assertRejects(() => remote.malloc(length), RangeError, `${length}`);
      await assertRejects(() => remote.calloc(length, 1), RangeError, `${length}`);
      await assertRejects(() => remote.calloc(1, length), RangeError, `${length}`);
      await assertRejects(() => remote.realloc(BASE, length), RangeError, `${length}`);
    }
    for (
      const call of [
        () => remote.free(-1n),
        () => remote.read(-1n, 1),
        () => remote.readInto(-1n, new Uint8Array(1)),
        () => remote.write(-1n, FIVE_ONES),
        () => remote.realloc(-1n, 1),
        () => remote.compareAndSwap(-1n, 0n, 1n),
        () => remote.fetchAndAdd(-1n, 1n),
        () => remote.call(-1n),
        () => remote.uninstall(-1n),
      ]
    ) await assertRejects(call, RangeError, "Cannot take -1");
    for (const value of [2n ** 64n, -(2n ** 63n) - 1n]) {
      await assertRejects(() => remote.free(value), RangeError, `${value}`);
      await assertRejects(() => remote.read(value, 1), RangeError, `${value}`);
      await assertRejects(() => remote.write(value, FIVE_ONES), RangeError, `${value}`);
      await assertRejects(() => remote.fetchAndAdd(BASE, value), RangeError, `${value}`);
      await assertRejects(() => remote.compareAndSwap(BASE, value, 0n), RangeError, `${value}`);
      await assertRejects(() => remote.compareAndSwap(BASE, 0n, value), RangeError, `${value}`);
    }
    const typed = "5" as unknown as number & bigint;
    await assertRejects(() => remote.malloc(typed), RangeError, 'Cannot malloc "5"');
    await assertRejects(() => remote.read(BASE, typed), RangeError, 'Cannot read "5" bytes');
    await assertRejects(() => remote.free(typed), TypeError, 'Cannot take "5"');
    const text = "hello" as unknown as Uint8Array;
    await assertRejects(() => remote.write(BASE, text), TypeError, "Cannot write a string");
    await assertRejects(() => remote.readInto(BASE, text), TypeError, "Cannot read into a string");
    await assertRejects(() => remote.install(text), TypeError, "Cannot install a string");
    await assertRejects(() => remote.call(1n, text), TypeError, "Cannot call with a string");
    const buffer = new ArrayBuffer(5) as unknown as Uint8Array;
    await assertRejects(() => remote.write(BASE, buffer), TypeError, "Cannot write an ArrayBuffer");
    const none = null as unknown as Uint8Array;
    await assertRejects(() => remote.write(BASE, none), TypeError, "Cannot write null");
    const numbers = [1] as unknown as bigint[];
    await assertRejects(() => remote.call(1n, numbers), TypeError, "Cannot take 1: an argument");
    const big = 5n as unknown as number;
    await assertRejects(() => remote.read(BASE, big), RangeError, "Cannot read 5n bytes");
    for (const timeout of ["5" as unknown as number, 0, -1, NaN, MAX_TIMEOUT_MS + 1]) {
      await assertRejects(() => remote.malloc(1, { timeout }), RangeError, "timeout");
      await assertRejects(() => Remote.connect({ server, timeout }), RangeError, "timeout");
    }
    for (const server of ["nonsense:", 8081 as unknown as string]) {
      await assertRejects(() => Remote.connect({ server }), TypeError, `${server}: a server is`);
    }
    const protocol = "udp" as "auto";
    await assertRejects(() => Remote.connect({ server, protocol }), TypeError, "Cannot speak udp");
    assertEquals(daemon.requests, []);
  },
);

socketTest(
  "Remote.write() keeps long writes apart that are made one after the other, or at once",
  async () => {
    await using daemon = await startDaemon();
    const LONG = 100_000;
    for (const protocol of PROTOCOLS) {
      await using remote = await connect({ server: daemon.server, protocol });
      const bytes = new Uint8Array(LONG);
      const write = async (value: number, pointer: bigint) => {
        const written = remote.write(pointer, bytes.fill(value));
        bytes.fill(0xff);
        await written;
        return pointer;
      };
      const pointers = await Promise.all([1, 2, 3, 4].map(() => remote.malloc(LONG)));
      for (const value of [10, 20]) {
        await write(value, pointers[0]!);
        await Promise.all(pointers.map((pointer, i) => write(value + i, pointer)));
        for (const [i, pointer] of pointers.entries()) {
          assertEquals(await remote.read(pointer, LONG), new Uint8Array(LONG).fill(value + i));
        }
      }
      for (const pointer of pointers) await remote.free(pointer);
    }
  },
);

socketTest("Remote.readInto() fills the bytes that it is given, and no others", async () => {
  await using daemon = await startDaemon();
  for (const protocol of PROTOCOLS) {
    await using remote = await connect({ server: daemon.server, protocol });
    const pointer = await remote.malloc(70_000);
    for (const length of [0, 5, 70_000]) {
      await remote.write(pointer, new Uint8Array(length).fill(7));
      const bytes = new Uint8Array(length + 2).fill(9);
      await remote.readInto(pointer, bytes.subarray(1, 1 + length));
      assertEquals(
        bytes,
        new Uint8Array(length + 2).fill(7, 1, 1 + length).fill(9, 0, 1).fill(9, 1 + length),
      );
    }
    await remote.free(pointer);
  }
});

socketTest("Remote.write() takes the bytes when it is called", async () => {
  await using daemon = await startDaemon();
  for (const protocol of PROTOCOLS) {
    await using remote = await connect({ server: daemon.server, protocol });
    const pointer = await remote.malloc(5);
    const bytes = bytesOf("hello");
    const written = remote.write(pointer, bytes);
    bytes.fill(0);
    await written;
    assertEquals(await remote.read(pointer, 5), bytesOf("hello"));
  }
});

socketTest("Remote rejects with NoReplyError when nobody answers", async () => {
  await using daemon = new FakeDaemon(SILENT);
  const { server } = daemon;
  for (const protocol of ["auto", "tagged"] as const) {
    const connecting = connect({ server, protocol, timeout: 120 });
    const error = await assertRejects(() => connecting, NoReplyError);
    assertEquals([error.name, error.server, error.timeout], ["NoReplyError", server, 120]);
    assertEquals(error.message, `no reply from ${server} within 120ms: is mallocd running there?`);
  }
  await using remote = await connect({ server, protocol: "classic" });
  for (const timeout of [20, 70]) {
    const error = await assertRejects(() => remote.malloc(5, { timeout }), NoReplyError);
    assertEquals([error.name, error.asked, error.timeout], ["NoReplyError", "malloc(5)", timeout]);
  }
});

socketTest("Remote does not wait for a daemon that is not there", async () => {
  for (const hostname of ["127.0.0.1", "::1"]) {
    const server = unreachable(hostname);
    for (const protocol of ["auto", "tagged"] as const) {
      // A test that waits for so long fails: no time is asserted.
      const connecting = connect({ server, protocol });
      const error = await assertRejects(() => connecting, NotThereError);
      assertEquals([error.asked, error.server], ["hello()", server]);
      assertEquals(error.message, `nobody listens on ${server}: is mallocd running there?`);
    }
    await using remote = await connect({ server, protocol: "classic" });
    for (const timeout of [20, PATIENCE_MS]) {
      const error = await assertRejects(() => remote.malloc(5, { timeout }), NotThereError);
      assertEquals([error.asked, error.timeout], ["malloc(5)", timeout]);
    }
    await remote.free(BASE); // nobody can know
  }
});

socketTest("Remote waits for a daemon that was there: it may be restarting", async () => {
  const first = new FakeDaemon(tagged(SILENT));
  const { server } = first;
  await using remote = await connect({ server });
  await first[Symbol.asyncDispose]();
  const error = await assertRejects(() => remote.malloc(5, { timeout: 200 }), NoReplyError);
  assertEquals(error.name, "NoReplyError");
  const waiting = remote.malloc(5);
  await using _second = new FakeDaemon(
    (request, from, daemon) => daemon.send(replyTo(request), from),
    Number(server.split(":")[1]),
  );
  assertEquals(await waiting, 0x0101010101010101n);
});

socketTest("Remote takes bytes of any kind of memory, and of another realm", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  const foreign: Uint8Array = runInNewContext("new Uint8Array(5)");
  assert(!(foreign instanceof Uint8Array));
  const shared = new Uint8Array(new SharedArrayBuffer(16)).subarray(3, 8);
  const resizable = new Uint8Array(new ArrayBuffer(5, { maxByteLength: 10 }));
  const { buffer } = new WebAssembly.Memory({ initial: 1 });
  const pointer = await remote.malloc(16);
  for (const bytes of [foreign, shared, resizable, new Uint8Array(buffer, 7, 5)]) {
    bytes.set([1, 2, 3, 4, 5]);
    await remote.write(pointer, bytes);
    assertEquals([...await remote.read(pointer, 5)], [1, 2, 3, 4, 5]);
    await remote.write(pointer, new Uint8Array([5, 4, 3, 2, 1]));
    await remote.readInto(pointer, bytes);
    assertEquals([...bytes], [5, 4, 3, 2, 1]);
  }
});

socketTest("Remote.install() takes the module's bytes when it is called", async () => {
  const modules: string[] = [];
  await using daemon = new FakeDaemon(tagged(async (request, from, daemon) => {
    const { opcode } = decoded(request);
    if (opcode === METHODS.write.opcode) modules.push(request.subarray(-5).toHex());
    await daemon.send(replyTo(request), from);
  }));
  await using remote = await connect({ server: daemon.server });
  const module = new Uint8Array(FIVE_ONES);
  const installing = remote.install(module);
  module.fill(2);
  assertEquals([await installing, modules], [0x0101010101010101n, ["0101010101"]]);
});

Deno.test("unlessAborted() gives what a promise gives, or the signal's reason before that", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  assertEquals(await unlessAborted(signal, Promise.resolve(5)), 5);
  assertEquals(await reasonOf(unlessAborted(signal, Promise.reject("refused"))), "refused");
  const late = Promise.withResolvers<void>();
  const waiting = reasonOf(unlessAborted(signal, late.promise));
  controller.abort("changed my mind");
  assertEquals(await waiting, "changed my mind");
  assertEquals(await reasonOf(unlessAborted(signal, late.promise)), "changed my mind");
  late.reject("too late"); // nobody hears of it
});

for (const protocol of PROTOCOLS) {
  socketTest(`Remote gives up one ${protocol} call in time, and serves the next`, async () => {
    // It does not answer reads of 13 bytes.
    await using daemon = new FakeDaemon(async (request, from, daemon) => {
      if (request.at(-1) === 13) return;
      const isTagged = request[6] !== 0;
      await daemon.send(isTagged ? replyTo(request) : FIVE_ONES, from);
    });
    await using remote = await connect({ server: daemon.server, protocol });
    const error = await assertRejects(() => remote.read(BASE, 13, { timeout: 20 }), NoReplyError);
    assertEquals([error.asked, error.timeout], ["read(0xc420000000, 13)", 20]);
    assertEquals(await remote.read(BASE, 5), FIVE_ONES);
  });

  socketTest(`Remote stops a ${protocol} call when its signal is aborted`, async () => {
    const asked = Promise.withResolvers<void>();
    await using daemon = new FakeDaemon(async (request, from, daemon) => {
      if (request[7] === HELLO || request.at(-1) === 5) {
        await daemon.send(protocol === "tagged" ? replyTo(request) : FIVE_ONES, from);
      } else asked.resolve();
    });
    const { server } = daemon;
    await using remote = await connect({ server, protocol });
    const sent = daemon.requests.length;
    const early = AbortSignal.abort("too early");
    assertEquals(await reasonOf(remote.read(BASE, 9, { signal: early })), "too early");
    assertEquals(daemon.requests.length, sent);

    const controller = new AbortController();
    const { signal } = controller;
    const first = reasonOf(remote.read(BASE, 9, { signal }));
    const second = reasonOf(remote.read(BASE, 9, { signal })); // waits, in the classic protocol
    await asked.promise;
    controller.abort("changed my mind");
    assertEquals(await Promise.all([first, second]), ["changed my mind", "changed my mind"]);
    assertEquals(await remote.read(BASE, 5), FIVE_ONES);
  });

  socketTest(
    `Remote.close() rejects ${protocol} calls that are pending, and all later ones`,
    async () => {
      const asked = Promise.withResolvers<void>();
      await using daemon = new FakeDaemon(async (request, from, daemon) => {
        if (isHello(request)) await daemon.send(replyTo(request), from);
        else asked.resolve();
      });
      const { server } = daemon;
      const remote = await connect({ server, protocol });
      const pending = [remote.malloc(1), remote.read(BASE, 5), remote.read(BASE, HEAP)].map(
        reasonOf,
      );
      await asked.promise;
      const closing = Promise.all([remote.close(), remote.close()]);
      for (const reason of await Promise.all(pending)) {
        assert(reason instanceof DOMException, String(reason));
        assertEquals(reason.name, "AbortError");
      }
      await closing;
      await assertRejects(() => remote.malloc(1), DOMException, "malloc(1): the remote was closed");
      await remote.close();
    },
  );
}

async function reasonOf(promise: Promise<unknown>): Promise<unknown> {
  return await promise.then((value) => assert(false, `resolved with ${value}`), (reason) => reason);
}

/** Every method that takes options, with arguments that a daemon would take. */
const CALLS: Readonly<
  Record<string, (remote: Remote, options?: CallOptions) => Promise<unknown>>
> = {
  malloc: (remote, options) => remote.malloc(1, options),
  calloc: (remote, options) => remote.calloc(1, 1, options),
  free: (remote, options) => remote.free(BASE, options),
  realloc: (remote, options) => remote.realloc(BASE, 1, options),
  read: (remote, options) => remote.read(BASE, 1, options),
  write: (remote, options) => remote.write(BASE, FIVE_ONES, options),
  compareAndSwap: (remote, options) => remote.compareAndSwap(BASE, 0n, 1n, options),
  fetchAndAdd: (remote, options) => remote.fetchAndAdd(BASE, 1n, options),
  readInto: (remote, options) => remote.readInto(BASE, new Uint8Array(1), options),
  install: (remote, options) => remote.install(FIVE_ONES, options),
  call: (remote, options) => remote.call(1n, [], options),
  uninstall: (remote, options) => remote.uninstall(1n, options),
  sync: (remote, options) => remote.sync(options),
  snapshot: (remote, options) => remote.snapshot(options),
  stats: (remote, options) => remote.stats(options),
  ping: (remote, options) => remote.ping(options),
  renew: (remote, options) => remote.renew(options),
};

socketTest("Remote rejects options that are none, before it sends anything", async (t) => {
  await using daemon = new FakeDaemon(tagged(SILENT));
  const { server } = daemon;
  await using remote = await connect({ server });
  const sent = daemon.requests.length;
  const { signal } = new AbortController();
  const misuses: [unknown, string][] = [
    [1000, "Cannot take 1000: options are an object"],
    [null, "Cannot take null: options are an object"],
    [signal, "Cannot take a signal: options are an object"],
    [{ signal: 5 }, "Cannot take 5: a signal is an AbortSignal"],
  ];
  const begin = (_: Remote, options?: CallOptions) => Remote.connect({ server }, options);
  // Of a daemon that is no cluster's there is nothing to ask.
  const survey = (remote: Remote, options?: CallOptions) => remote.survey(options);
  for (const [method, call] of Object.entries({ ...CALLS, connect: begin, survey })) {
    await t.step(`${method}()`, async () => {
      for (const [options, message] of misuses) {
        await assertRejects(() => call(remote, options as CallOptions), TypeError, message);
      }
    });
  }
  const text = server as unknown as { server: string };
  await assertRejects(() => Remote.connect(text), TypeError, `Cannot take ${server}: options`);
  assertEquals(daemon.requests.length, sent);
});

for (const protocol of PROTOCOLS) {
  socketTest(`Remote stops every ${protocol} method when its signal is aborted`, async (t) => {
    let aborting: AbortController | undefined;
    await using daemon = new FakeDaemon(tagged(() => aborting?.abort("changed my mind")));
    const { server } = daemon;
    await using remote = await connect({ server, protocol });
    for (const [method, call] of Object.entries(CALLS)) {
      await t.step(`${method}()`, async () => {
        const sent = daemon.requests.length;
        if (protocol === "classic" && method === "renew") return; // has nothing to do
        const early = AbortSignal.abort("too early");
        assertEquals(await reasonOf(call(remote, { signal: early })), "too early");
        assertEquals(daemon.requests.length, sent);
        // What the classic protocol does not answer is done at once, what it lacks is refused at once.
        const waits = protocol === "tagged"
          ? method !== "ping" && method !== "renew" // which are answered
          : ["malloc", "calloc", "read", "ping"].includes(method);
        if (!waits) return;
        aborting = new AbortController();
        assertEquals(await reasonOf(call(remote, aborting)), "changed my mind");
      });
    }
  });
}

socketTest("Remote.connect() stops when its signal is aborted", async () => {
  const controller = new AbortController();
  await using daemon = new FakeDaemon(() => controller.abort("not now"));
  const { server } = daemon;
  const connecting = connect({ server }, controller);
  assertEquals(await reasonOf(connecting), "not now");
  const sent = daemon.requests.length;
  for (const protocol of ["auto", ...PROTOCOLS] as const) {
    const early = connect({ server, protocol }, { signal: AbortSignal.abort("too early") });
    assertEquals(await reasonOf(early), "too early");
  }
  assertEquals(daemon.requests.length, sent);
});

socketTest("Remote leaves nothing open when it is disposed of", async () => {
  await using daemon = await startDaemon();
  for (const protocol of PROTOCOLS) {
    await using remote = await connect({ server: daemon.server, protocol });
    await remote.malloc(1);
    await assertRejects(() => remote.read(0n, 1), RefusedError);
  }
  const server = unreachable();
  await assertRejects(() => connect({ server, timeout: 20 }), NoReplyError);
}, { sanitizeOps: true, sanitizeResources: true });

socketTest("Remote removes its listeners from a signal when a call has ended", async () => {
  await using daemon = await startDaemon();
  let listeners = 0;
  const { signal } = new AbortController();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners++;
    addEventListener.apply(signal, args);
  };
  signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners--;
    removeEventListener.apply(signal, args);
  };
  for (const protocol of PROTOCOLS) {
    await using remote = await connect({ server: daemon.server, protocol });
    const pointer = await remote.malloc(100_000, { signal });
    await remote.read(pointer, 100_000, { signal });
    await assertRejects(() => remote.read(0n, 1, { signal }), RefusedError);
    assertEquals(listeners, 0);
  }
});

socketTest("Remote sends the calls of one turn in one datagram", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server, clock: SLOW_CLOCK });
  const before = [daemon.count("received"), daemon.count("sent")];
  const pointers = await Promise.all(Array.from({ length: 1000 }, () => remote.malloc(16)));
  assertEquals(new Set(pointers).size, 1000);
  assertEquals([daemon.count("received"), daemon.count("sent")], before.map((count) => count + 1));
  await Promise.all(pointers.map((pointer) => remote.free(pointer)));
  assertEquals([daemon.count("received"), daemon.count("sent")], before.map((count) => count + 2));
});

socketTest("Remote carries 100,000 calls at once", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  const counter = await remote.malloc(8);
  const olds = await Promise.all(
    Array.from({ length: 100_000 }, () => remote.fetchAndAdd(counter, 1n)),
  );
  assertEquals(new Set(olds).size, 100_000);
  assertEquals(await remote.fetchAndAdd(counter, 0n), 100_000n);
});

for (const protocol of PROTOCOLS) {
  socketTest(`Remote transfers what no datagram can hold in the ${protocol} protocol`, async () => {
    await using daemon = await startDaemon();
    const { server } = daemon;
    await using remote = await connect({ server, protocol });
    const pointer = await remote.malloc(HEAP / 2);
    const random = new Random(1);
    const pattern = random.bytes(10_007);
    // Around the data that one call carries, and much more.
    for (const length of [61_415, 61_416, 61_417, 61_440, 61_441, 122_881, 65_507, 5_000_001]) {
      const data = Uint8Array.from({ length }, (_, i) => pattern[i % pattern.length]!);
      await remote.write(pointer + 3n, data);
      const copy = await remote.read(pointer + 3n, length);
      assert(
        copy.every((byte, i) => byte === data[i]) && copy.length === length,
        `${length} bytes`,
      );
    }
  });
}

socketTest("Remote begins no more pieces of a transfer when one has been refused", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  const end = BASE + BigInt(HEAP);
  const writing = remote.write(end - 100_000n, new Uint8Array(HEAP / 2));
  const error = await assertRejects(() => writing, RefusedError);
  assertEquals(error.errno, "EFAULT");
  const writes = daemon.requests("write");
  assert(writes < 70, `${writes} of 137 pieces`);
  // Nor is any under way any more: whoever frees the block now will not see it written to.
  await remote.ping();
  assertEquals(daemon.requests("write"), writes);
});

socketTest("Remote loses no classic frees and writes, however many in a row", async () => {
  await using daemon = await startDaemon();
  const { server } = daemon;
  await using remote = await connect({ server, protocol: "classic" });
  const pointers: bigint[] = [];
  for (let i = 0; i < 2000; i++) pointers.push(await remote.malloc(64));
  await Promise.all(pointers.map((pointer) => remote.write(pointer, new Uint8Array(64))));
  await Promise.all(pointers.map((pointer) => remote.free(pointer)));
  await remote.ping();
  assertEquals([daemon.requests("write"), daemon.requests("free")], [2000, 2000]);
  assertEquals(daemon.count("blocks"), 0);
});

/** The daemon of the paper, as far as its clients can see: it knows four words, and nothing of tags. */
function classicOnly(): Answer {
  const heap = new Uint8Array(4096);
  let end = 0;
  return async (request, from, daemon) => {
    const view = new DataView(request.buffer, request.byteOffset, request.length);
    const field = (i: number) => Number(view.getBigUint64(FIELD * i));
    switch (view.getBigUint64(0)) {
      case 0n:
        await daemon.send(fields(BASE + BigInt(end)), from);
        end += field(1);
        break;
      case 2n: {
        const at = field(1) - Number(BASE);
        await daemon.send(heap.subarray(at, at + field(2)), from);
        break;
      }
      case 3n:
        heap.set(request.subarray(3 * FIELD), field(1) - Number(BASE));
        break;
    }
  };
}

socketTest("Remote falls back to the classic protocol where hello is not answered", async () => {
  const clock = new StoppedClock();
  const answer = classicOnly();
  await using daemon = new FakeDaemon((request, from, daemon) => {
    if (isHello(request)) clock.advance(PATIENCE_MS);
    return answer(request, from, daemon);
  });
  const { server } = daemon;
  await using remote = await connect({ server, clock });
  assertEquals([remote.protocol, remote.hello], ["classic", undefined]);
  const pointer = await remote.malloc(5);
  await remote.write(pointer, bytesOf("hello"));
  assertEquals(await remote.read(pointer, 4), bytesOf("hell"));
  assertEquals(await remote.ping(), undefined);
  await remote.free(pointer);
  await assertRejects(() => remote.realloc(pointer, 10), RefusedError, "needs the tagged protocol");
  await assertRejects(
    () => connect({ server, protocol: "tagged", timeout: 50 }),
    NoReplyError,
  );
});

socketTest(
  "Remote.connect() does not take a late answer to hello for one to the classic read",
  async () => {
    const clock = new StoppedClock();
    const late: [Uint8Array, Deno.NetAddr][] = [];
    await using daemon = new FakeDaemon(async (request, from, daemon) => {
      if (isHello(request)) {
        late.push([request, from]);
        clock.advance(PATIENCE_MS);
        return;
      }
      for (const [request, from] of late) await daemon.send(replyTo(request), from);
      await daemon.send("", from);
    });
    await using remote = await connect({ server: daemon.server, clock });
    assertEquals(remote.protocol, "classic");
  },
);

socketTest("Remote never sends a classic malloc twice", async () => {
  await using daemon = new FakeDaemon(SILENT);
  await using remote = await connect({ server: daemon.server, protocol: "classic" });
  await assertRejects(() => remote.malloc(77, { timeout: 300 }), NoReplyError);
  assertEquals(daemon.requests.map((request) => request.toHex()), [fields(MALLOC, 77)]);
});

socketTest("Remote does not take a late classic reply for the answer to a later call", async () => {
  const late: Deno.NetAddr[] = [];
  await using daemon = new FakeDaemon(async (_, from, daemon) => {
    late.push(from);
    if (late.length === 1) return;
    await daemon.send(fields(0xbad), late[0]!);
    await daemon.send(fields(0x600d), from);
  });
  await using remote = await connect({ server: daemon.server, protocol: "classic" });
  await assertRejects(() => remote.malloc(1, { timeout: 20 }), NoReplyError);
  assertEquals(await remote.malloc(1), 0x600dn);
});

for (const protocol of PROTOCOLS) {
  socketTest(`Remote ignores ${protocol} replies that others send`, async () => {
    const stranger = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    await using daemon = new FakeDaemon(async (request, from, daemon) => {
      const reply = protocol === "tagged" ? replyTo(request) : FIVE_ONES;
      await stranger.send(reply.with(reply.length - 1, 0xff), from);
      await daemon.send(reply, from);
    });
    await using remote = await connect({ server: daemon.server, protocol });
    assertEquals(await remote.read(BASE, 5), FIVE_ONES);
    stranger.close();
  });
}

socketTest("Remote ignores what is no answer to a tagged call", async () => {
  const answer = tagged(async (request, from, daemon) => {
    const [tag] = new Uint32Array(new Uint8Array(request.subarray(0, 4)).reverse().buffer);
    const body = fields(0xbad);
    const garbage = [
      "",
      "00",
      "ff".repeat(100),
      fields(0xbad),
      request.toHex(),
      head(tag! ^ 1, MALLOC, 0, 8) + body, // another tag
      head(tag!, READ, 0, 8) + body, // another method
      word(tag!, MALLOC, { flags: 0x01 }) + fields(8) + body, // not a reply
      word(tag!, MALLOC, { flags: 0x80 }) + fields(8) + body, // not tagged
      head(tag!, MALLOC, 0, 9) + body, // cut short
      head(tag!, MALLOC, 0, 8).slice(0, -2),
      word(tag!, MALLOC, { flags: 0x81 }) + fields(2n ** 64n - 16n) + body,
      new Random(1).bytes(1000).toHex(),
    ];
    for (const datagram of garbage) await daemon.send(datagram, from);
    // The answer may come after others in the same datagram.
    await daemon.send(
      head(tag! ^ 1, MALLOC, 12, 0) + head(tag!, MALLOC, 0, 8) + fields(BASE),
      from,
    );
    await daemon.send(head(tag!, MALLOC, 0, 8) + body, from); // too late: it has been answered
  });
  await using daemon = new FakeDaemon(answer);
  await using remote = await connect({ server: daemon.server });
  assertEquals(await remote.malloc(5), BASE);
  assertEquals(await remote.malloc(5), BASE);
});

socketTest(
  "Remote rejects when a reply has the wrong length or an errno that nobody knows",
  async () => {
    await using daemon = new FakeDaemon(tagged(async (request, from, daemon) => {
      const tag = new DataView(request.buffer, request.byteOffset).getUint32(0);
      const isFirst = request.at(-1) === 1;
      await daemon.send(
        isFirst ? head(tag, MALLOC, 0, 4) + "00000000" : head(tag, MALLOC, 77, 0),
        from,
      );
    }));
    await using remote = await connect({ server: daemon.server });
    await assertRejects(() => remote.malloc(1), RefusedError, "reply of a wrong length");
    const error = await assertRejects(() => remote.malloc(2), RefusedError, "unknown error");
    assertEquals(error.errno, "errno 77");
  },
);

socketTest(
  "Remote sends a tagged call again, with the same tag, until it is answered",
  async () => {
    const copies: string[] = [];
    await using daemon = new FakeDaemon(tagged(async (request, from, daemon) => {
      copies.push(request.toHex());
      if (copies.length >= 3) await daemon.send(replyTo(request), from);
    }));
    await using remote = await connect({ server: daemon.server });
    assertEquals(await remote.malloc(5), 0x0101010101010101n);
    assertEquals(new Set(copies).size, 1);
  },
);

/** The refusal of a tagged request, in its session. */
function refusal(datagram: Uint8Array, status: number): Uint8Array<ArrayBuffer> {
  const reply = replyTo(datagram).subarray(0, REPLY_HEAD);
  reply.set([status >>> 8, status], 4);
  reply.fill(0, FIELD);
  return reply;
}

const hasSession = (request: Uint8Array) => (request[6]! & Flag.session) !== 0;

socketTest("Remote does without a session where the daemon is of version 1", async () => {
  await using daemon = new FakeDaemon((request, from, daemon) =>
    daemon.send(hasSession(request) ? refusal(request, ERRNO.EINVAL) : replyTo(request), from)
  );
  await using remote = await connect({ server: daemon.server, clock: SLOW_CLOCK });
  assertEquals(remote.protocol, "tagged");
  assertEquals(await remote.read(BASE, 5), FIVE_ONES);
  await remote.ping();
  assertEquals(daemon.requests.map(hasSession), [true, false, false, false]);
});

socketTest("Remote claims its epoch, and shows its token, in every datagram", async () => {
  await using daemon = new FakeDaemon((request, from, daemon) =>
    daemon.send(replyTo(request), from)
  );
  await using remote = await connect({ server: daemon.server, clock: SLOW_CLOCK });
  await remote.malloc(5);
  await remote.write(BASE, FIVE_ONES);
  const sessions = daemon.requests.map((request) => request.subarray(8, 24).toHex());
  assertEquals(sessions, ["00".repeat(16), "01".repeat(16), "01".repeat(16)]);
});

socketTest(
  "Remote sends again at once what was too much for now, and says so when its time is up",
  async () => {
    let refusals = 200;
    const again = Promise.withResolvers<void>();
    let thirteens = 0;
    await using daemon = new FakeDaemon(tagged(async (request, from, daemon) => {
      const isThirteen = request.at(-1) === 13;
      if (isThirteen && ++thirteens === 2) again.resolve();
      const isTooMuch = isThirteen || refusals-- > 0;
      await daemon.send(isTooMuch ? refusal(request, ERRNO.EAGAIN) : replyTo(request), from);
    }));
    const { server } = daemon;
    // Time stands still: nothing is sent again because it was waited for.
    const clock = new StoppedClock();
    await using remote = await connect({ server, clock });
    assertEquals(await remote.read(BASE, 5), FIVE_ONES);
    const tags = daemon.requests.slice(1).map((request) => request.subarray(0, 4).toHex());
    assertEquals([tags.length, new Set(tags).size], [201, 1]);
    const reading = remote.read(BASE, 13, { timeout: 100 });
    await again.promise; // and so it knows that it was refused
    clock.advance(101);
    assertEquals((await assertRejects(() => reading, RefusedError)).errno, "EAGAIN");
  },
);

socketTest("Remote gets a new token when the daemon wants one", async () => {
  const hellos = new Set<string>(); // by their tags: one that is sent again is still the same
  await using daemon = new FakeDaemon(async (request, from, daemon) => {
    if (isHello(request)) hellos.add(request.subarray(0, 4).toHex());
    const proven = request.subarray(16, 24).toHex() === "02".repeat(8);
    const reply = isHello(request) || proven ? replyTo(request) : refusal(request, ERRNO.EPERM);
    // The first token is soon too old.
    if (isHello(request) && hellos.size > 1) reply.fill(2, REPLY_HEAD + 5 * FIELD);
    await daemon.send(reply, from);
  });
  await using remote = await connect({ server: daemon.server });
  const all = await Promise.all([remote.read(BASE, 5), remote.read(BASE, 5)]);
  assertEquals(all, [FIVE_ONES, FIVE_ONES]);
  assert(hellos.size > 1);
});

socketTest("Remote refuses pointers of a daemon's earlier life until it is renewed", async () => {
  const first = await startDaemon();
  const { server } = first;
  await using remote = await connect({ server });
  const { epoch } = remote.hello!;
  const pointer = await remote.malloc(5);
  await first[Symbol.asyncDispose]();
  await using second = await startDaemon({ port: Number(server.split(":")[1]) });
  await using stranger = await connect({ server });
  assertEquals(await stranger.malloc(5), pointer);
  for (const call of [() => remote.free(pointer), () => remote.malloc(5)]) {
    const error = await assertRejects(call, StaleEpochError);
    assertEquals([error.name, error.errno], ["StaleEpochError", "ESTALE"]);
  }
  assertEquals((await remote.ping())!.epoch, stranger.hello!.epoch);
  await assertRejects(() => remote.free(pointer), StaleEpochError);
  const writing = remote.write(pointer, new Uint8Array(10_000_000)).catch((error) => error);
  const hello = await remote.renew();
  assert(await writing instanceof StaleEpochError);
  assert(hello!.epoch !== epoch);
  assertEquals(remote.hello, hello);
  await remote.free(await remote.malloc(5));
  assertEquals(second.count("blocks"), 1);
  await using classic = await connect({ server, protocol: "classic" });
  assertEquals(await classic.renew(), undefined);
});

socketTest("Remote talks to a daemon over IPv6", async () => {
  await using daemon = await startDaemon({ hostname: "::1" });
  const { port } = parseServer(daemon.server)!;
  for (const server of [daemon.server, `[0:0:0:0:0:0:0:1]:${port}`]) {
    await using remote = await connect({ server });
    assertEquals(remote.protocol, "tagged");
    await remote.free(await remote.malloc(5));
  }
});

socketTest("Remote looks a host name up", async () => {
  await using daemon = await startDaemon();
  const server = daemon.server.replace("127.0.0.1", "localhost");
  await using remote = await connect({ server });
  assertEquals([remote.protocol, remote.server], ["tagged", server]);
});

Deno.test("parseServer() takes a host, a port or both", () => {
  const cases: [string, string, number][] = [
    ["127.0.0.1:9000", "127.0.0.1", 9000],
    ["127.0.0.1", "127.0.0.1", 8081],
    ["example.org:1", "example.org", 1],
    ["example.org", "example.org", 8081],
    ["[::1]:65535", "::1", 65535],
    ["[fe80::1]", "fe80::1", 8081],
    ["::1", "::1", 8081],
  ];
  for (const [text, hostname, port] of cases) {
    assertEquals(parseServer(text), { hostname, port }, text);
  }
  const wrong = [
    "",
    ":8081",
    "host:",
    "host:0",
    "host:65536",
    "host:1x",
    "[host]:1",
    "a b",
    "[::1",
  ];
  for (const text of wrong) assertEquals(parseServer(text), undefined, text);
});

socketTest("openUdp() keeps its socket open when the peer is unreachable", async () => {
  const transport = await openUdp(unreachable());
  for (let i = 0; i < 3; i++) await transport.send(new Uint8Array(8));
  await transport.close();
  await transport.send(new Uint8Array(8)); // nowhere
});
