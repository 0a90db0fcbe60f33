import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Histogram } from "../../lib/client/load/histogram.ts";
import { latencyOf, latenessOf, runLoad, shortfallOf } from "../../lib/client/load/run.ts";
import type { Engine, EngineOptions } from "../../lib/daemon/engine.ts";
import { serveDatagram } from "../../lib/daemon/engines/datagram.ts";
import { LIBC_PATHS } from "../../lib/system/libc.ts";
import { serveSyscall } from "../../lib/daemon/engines/syscall.ts";
import { BLOCKS } from "../../lib/client/load/client.ts";
import { blockOf } from "../../lib/client/load/contents.ts";
import { DenoWire } from "../../lib/client/load/deno_wire.ts";
import { LibcWire } from "../../lib/client/load/libc_wire.ts";
import { Load } from "../../lib/client/load/load.ts";
import type { Wire } from "../../lib/client/load/wire.ts";
import {
  lossOf,
  parseMix,
  parseSizes,
  pickLength,
  problemOf,
  type Workload,
} from "../../lib/client/load/workload.ts";
import { MAX_DATAGRAM } from "../../lib/protocol/wire.ts";
import { RefusedError } from "../../lib/client/remote.ts";
import { socketTest } from "../sockets.ts";
import { Box, fields, newOptions, Random } from "../testing.ts";
import { connect } from "../remote.ts";

const NONE = { read: 0, write: 0, malloc: 0, free: 0, realloc: 0, cas: 0, add: 0 };
const READS: Workload = {
  protocol: "tagged",
  clients: 1,
  inFlight: 4,
  perDatagram: 1,
  mix: { ...NONE, read: 1, write: 0, malloc: 0, free: 0 },
  sizes: { min: 64, max: 64, log: false },
  timeout: 1000,
};
const MIXED: Workload = {
  ...READS,
  clients: 3,
  mix: { ...NONE, read: 70, write: 20, malloc: 5, free: 5 },
  sizes: { min: 1, max: 200, log: true },
};

const REQUEST = 0;
const REPLY = 64 * 1024;

/** What becomes of a reply on its way; undefined loses it. */
type Fate = (reply: Uint8Array) => Uint8Array | undefined;

/** A load on a service, without sockets. */
class Bench {
  readonly box = new Box({ size: 4 * 1024 ** 2 });
  readonly histogram = new Histogram();
  readonly load: Load;
  readonly #bytes = new Uint8Array(2 * REPLY);
  readonly #inFlight: { client: number; reply: Uint8Array }[] = [];

  constructor(workload: Workload, readonly host = "127.0.0.1") {
    this.load = new Load(workload, new DataView(this.#bytes.buffer), this.histogram);
    for (const client of this.load.clients) {
      for (let i = 0; i < BLOCKS; i++) {
        const length = client.nextLength();
        const address = Number(`0x${this.box.ask(fields(0, length))}`);
        const data = blockOf(address, length);
        this.box.ask(fields(3, address, length) + data.toHex());
        client.adopt(address, length);
      }
    }
    for (const client of this.load.clients) {
      if (client.counterBytes === 0) continue;
      client.adoptCounters(Number(`0x${this.box.ask(fields(0, client.counterBytes))}`));
    }
    this.load.start();
  }

  /** Sends all that is due now, and returns how many datagrams that were. */
  send(): number {
    let sent = 0;
    this.load.clients.forEach((client, i) => {
      this.box.from(this.host, 40000 + i);
      for (let length; (length = client.next(REQUEST)) > 0; sent++) {
        assert(length <= MAX_DATAGRAM);
        const reply = this.box.askBytes(this.#bytes.subarray(REQUEST, REQUEST + length));
        if (reply !== undefined) this.#inFlight.push({ client: i, reply: reply.slice() });
      }
    });
    return sent;
  }

  /** Brings the replies to all that was sent. */
  receive(fate: Fate = (reply) => reply): void {
    for (const { client, reply } of this.#inFlight.splice(0)) {
      const arrived = fate(reply);
      if (arrived === undefined) continue;
      this.#bytes.set(arrived, REPLY);
      this.load.clients[client]!.take(REPLY, arrived.length);
    }
  }

  get outcome(): { lost: number; wrong: number; refused: number } {
    const { lost, wrong, refused } = this.load;
    return { lost, wrong, refused };
  }
}

const FLAWLESS = { lost: 0, wrong: 0, refused: 0 };

Deno.test("Load proves its addresses to a daemon that answers nobody else at length", () => {
  const proves = { ...MIXED, perDatagram: 4, proves: true };
  const [proven, unproven] = [proves, { ...proves, proves: false }].map((workload) => {
    const bench = new Bench(workload, "192.0.2.1");
    for (let turn = 0; turn < 200; turn++) {
      bench.load.now = turn;
      bench.send();
      bench.receive();
    }
    return bench;
  });
  assertEquals(proven!.outcome, FLAWLESS);
  assert(proven!.load.requests > 1000);
  assert(unproven!.outcome.refused > 0);
});

Deno.test("Load proves its addresses again when hello is lost and when the token has expired", () => {
  const bench = new Bench({ ...READS, perDatagram: 4, proves: true }, "192.0.2.1");
  assertEquals([bench.send(), bench.send()], [1, 0], "nothing but a hello");
  bench.receive(() => undefined);
  for (const second of [1, 2000]) { // KEY_SECONDS are 600
    bench.box.clock[0] = second;
    bench.load.now = 1000 * second;
    for (let turn = 0; turn < 10; turn++) {
      bench.send();
      bench.receive();
    }
    const before = bench.outcome.refused;
    bench.send();
    bench.receive();
    assertEquals(bench.outcome.refused, before);
  }
  assertEquals(bench.outcome.wrong, 0);
});

Deno.test("parseMix() takes each method once, with a weight", () => {
  assertEquals(parseMix("read=1"), { ...NONE, read: 1 });
  assertEquals(parseMix("cas=1,add=2,realloc=3"), { ...NONE, cas: 1, add: 2, realloc: 3 });
  assertEquals(parseMix("free=5,read=70,malloc=5,write=20"), MIXED.mix);
  for (
    const text of [
      "",
      "read",
      "read=",
      "read=-1",
      "read=1.5",
      "read=0",
      "read=1001",
      "read=1,read=2",
      "read=1,",
      "hello=1",
      "read=1 write=1",
    ]
  ) {
    assertEquals(parseMix(text), undefined, text);
  }
});

Deno.test("parseSizes() takes a size, a range, and a logarithmic range", () => {
  assertEquals(parseSizes("64"), { min: 64, max: 64, log: false });
  assertEquals(parseSizes("16-1024"), { min: 16, max: 1024, log: false });
  assertEquals(parseSizes("log:16-1024"), { min: 16, max: 1024, log: true });
  assertEquals(parseSizes("1KiB"), { min: 1024, max: 1024, log: false });
  assertEquals(parseSizes("log:64-1.5KiB"), { min: 64, max: 1536, log: true });
  for (
    const text of [
      "",
      "0",
      "-1",
      "16-",
      "1024-16",
      "1KiB-64",
      "1XiB",
      "0.5",
      "log:16",
      "lin:1-2",
      "1-2-3",
      "1e3",
    ]
  ) {
    assertEquals(parseSizes(text), undefined, text);
  }
});

Deno.test("pickLength() makes every length, or every doubling, equally likely", () => {
  const random = new Random(1);
  for (const [text, median] of [["64", 64], ["16-1024", 520], ["log:16-1024", 128]] as const) {
    const sizes = parseSizes(text)!;
    const lengths = Array.from({ length: 9999 }, () => pickLength(sizes, random.word() / 2 ** 32))
      .sort((a, b) => a - b);
    assert(lengths[0]! >= sizes.min && lengths.at(-1)! <= sizes.max, text);
    assert(Math.abs(lengths[4999]! / median - 1) < 0.1, `${text}: median ${lengths[4999]}`);
    assertEquals(pickLength(sizes, 0), sizes.min);
    assertEquals(pickLength(sizes, 1 - 2 ** -32), sizes.max);
  }
});

Deno.test("problemOf() finds loads that cannot be", () => {
  assertEquals(problemOf(MIXED), undefined);
  assertEquals(problemOf({ ...MIXED, protocol: "classic" }), undefined);
  const impossible: Partial<Workload>[] = [
    { protocol: "classic", perDatagram: 2 },
    { protocol: "classic", mix: { ...NONE, read: 0, write: 1, malloc: 0, free: 1 } },
    { perDatagram: 2000 },
    { sizes: { min: 1, max: MAX_DATAGRAM, log: false } },
  ];
  for (const change of impossible) assert(problemOf({ ...MIXED, ...change }) !== undefined);
});

Deno.test("problemOf() names the size that would fit, which does", () => {
  for (const perDatagram of [1, 2, 64, 1000, 2000]) {
    const of = (max: number) =>
      problemOf({ ...MIXED, perDatagram, sizes: { min: 1, max, log: false } });
    const most = Number(/with --size (\d+)/.exec(of(MAX_DATAGRAM)!)![1]);
    assertEquals(of(most), undefined, `${perDatagram}`);
    assert(of(most + 1) !== undefined, `${perDatagram}`);
  }
  assertMatch(problemOf({ ...MIXED, perDatagram: 2048 })!, /use fewer$/);
});

Deno.test("lossOf() names the limit that was hit: a socket's buffer, or the time", () => {
  assertMatch(lossOf(READS), /it took longer than --timeout 1s$/);
  const large = { ...READS, inFlight: 64, sizes: { min: 1, max: 60_000, log: false } };
  assertMatch(lossOf(large), /^up to 3800KiB were in flight at a time, .* use fewer --in-flight/);
});

for (const protocol of ["tagged", "classic"] as const) {
  for (const perDatagram of protocol === "tagged" ? [1, 7] : [1]) {
    Deno.test(`a ${protocol} load of ${perDatagram} a datagram is served without a flaw`, () => {
      const bench = new Bench({ ...MIXED, protocol, perDatagram });
      for (let i = 0; i < 2000; i++) {
        bench.load.now++;
        bench.send();
        bench.receive();
      }
      assertEquals(bench.outcome, FLAWLESS);
      assert(
        [0, 1, 2, 3].every((opcode) => bench.load.done[opcode]! > 100),
        bench.load.done.join(),
      );
      bench.load.stop();
      assert(bench.load.isOver);
      const blocks = bench.load.clients.flatMap((client) => client.blocks);
      assertEquals(bench.box.heap.buddy.liveBlocks, blocks.length);
    });
  }
}

const ALL = {
  ...MIXED,
  mix: { ...NONE, read: 40, write: 10, malloc: 5, free: 5, realloc: 20, cas: 10, add: 10 },
};

Deno.test("a load of all methods is served without a flaw, and counts each of them", () => {
  const bench = new Bench({ ...ALL, perDatagram: 3 });
  for (let i = 0; i < 3000; i++) {
    bench.load.now++;
    bench.send();
    bench.receive();
  }
  assertEquals(bench.outcome, FLAWLESS);
  assert([0, 1, 2, 3, 4, 5, 6].every((opcode) => bench.load.done[opcode]! > 100));
});

Deno.test("a load of all methods goes on when replies are lost", () => {
  const random = new Random(1);
  const bench = new Bench(ALL);
  for (let i = 0; i < 2000; i++) {
    bench.load.now += 1000;
    bench.load.expire();
    bench.send();
    bench.receive((reply) => random.chance(0.05) ? undefined : reply);
  }
  assert(bench.load.lost > 100);
  assertEquals(bench.load.wrong, 0);
});

Deno.test("a load finds every wrong byte of what cas and add return", () => {
  for (const mix of [{ ...NONE, cas: 1 }, { ...NONE, add: 1 }]) {
    for (let at = 16; at < 24; at++) {
      const bench = new Bench({ ...READS, mix });
      bench.send();
      bench.receive((reply) => reply.map((byte, i) => i === at ? byte ^ 0x10 : byte));
      assertEquals(bench.outcome, { ...FLAWLESS, wrong: READS.inFlight }, `byte ${at}`);
    }
  }
});

Deno.test("a load finds a realloc that keeps nothing, and one that leaves growth unzeroed", () => {
  const sizes = { min: 64, max: 128, log: false };
  for (const spoil of [0, 0xff]) {
    const bench = new Bench({ ...READS, sizes, mix: { ...NONE, read: 1, realloc: 1 } });
    for (let i = 0; i < 200; i++) {
      bench.send();
      bench.receive((reply) => {
        // Of reads only: their first byte, or their last one, is not what it was.
        if (reply.length >= 16 + 64) reply[spoil === 0 ? 16 : reply.length - 1]! ^= 0xff;
        return reply;
      });
    }
    assert(bench.load.wrong > 100 && bench.load.wrong === bench.load.done[2]);
  }
});

Deno.test("a load finds every wrong byte of a read", () => {
  for (const [protocol, body] of [["classic", 0], ["tagged", 16]] as const) {
    const bench = new Bench({ ...READS, protocol, sizes: { min: 13, max: 13, log: false } });
    for (let at = body; at < body + 13; at++) {
      bench.load.reset();
      bench.send();
      bench.receive((reply) => reply.map((byte, i) => i === at ? byte ^ 0x10 : byte));
      assertEquals(bench.outcome, { lost: 0, wrong: READS.inFlight, refused: 0 }, `byte ${at}`);
    }
    bench.load.reset();
    bench.send();
    bench.receive((reply) => reply.slice(0, -1));
    assertEquals(bench.outcome, { lost: 0, wrong: READS.inFlight, refused: 0 }, "a byte less");
  }
});

Deno.test("a load admits zeros only in a block that was never written", () => {
  const zeroed: Fate = (reply) => reply.length === 16 + 64 ? reply.fill(0, 16) : reply;
  const fresh = new Bench({ ...READS, mix: { ...NONE, read: 1, write: 0, malloc: 1, free: 0 } });
  for (let i = 0; i < 1000; i++) {
    fresh.send();
    fresh.receive();
  }
  assertEquals(fresh.outcome, FLAWLESS);
  const written = new Bench(READS);
  written.send();
  written.receive(zeroed);
  assertEquals(written.outcome, { lost: 0, wrong: READS.inFlight, refused: 0 });
});

Deno.test("a load counts replies that never come, and goes on", () => {
  for (const protocol of ["tagged", "classic"] as const) {
    const bench = new Bench({ ...READS, protocol });
    bench.send();
    bench.receive(() => undefined);
    bench.load.now = 999;
    bench.load.expire();
    assertEquals(bench.outcome, FLAWLESS);
    assertEquals(bench.send(), 0);
    bench.load.now = 1000;
    bench.load.expire();
    assertEquals(bench.outcome, { lost: READS.inFlight, wrong: 0, refused: 0 });
    bench.send();
    bench.receive();
    assertEquals(bench.outcome, { lost: READS.inFlight, wrong: 0, refused: 0 });
    assertEquals(bench.load.requests, READS.inFlight);
  }
});

Deno.test("a tagged load ignores a reply that comes twice or too late", () => {
  const bench = new Bench(READS);
  const late: Uint8Array[] = [];
  bench.send();
  bench.receive((reply) => void late.push(reply));
  bench.load.now = 1000;
  bench.load.expire();
  bench.send();
  let next = 0;
  bench.receive(() => late[next++]);
  assertEquals(bench.load.requests, 0);
  assertEquals(bench.outcome, { lost: READS.inFlight, wrong: 0, refused: 0 });
});

Deno.test("a classic load knows by their order, and by what they hold, which replies were lost", () => {
  const random = new Random(1);
  const bench = new Bench({
    ...MIXED,
    clients: 1,
    inFlight: 32,
    protocol: "classic",
    sizes: { min: 9, max: 200, log: true }, // 8 zeros are also what a refused malloc answers
    mix: { ...NONE, read: 8, write: 1, malloc: 1, free: 1 },
  });
  let lost = 0;
  for (let i = 0; i < 1000; i++) {
    bench.load.now++;
    bench.send();
    bench.receive((reply) => {
      if (!random.chance(0.05)) return reply;
      lost++;
      return undefined;
    });
  }
  bench.load.now += 1000;
  bench.load.expire();
  assert(lost > 100);
  assertEquals(bench.outcome, { lost, wrong: 0, refused: 0 });
});

/** A load of a second, on a daemon that answers at once but for 200 ms, in which it does nothing. */
function stalled(workload: Workload): Bench {
  const bench = new Bench(workload);
  for (let ms = 0; ms < 1000; ms++) {
    bench.load.now = ms;
    bench.send();
    if (ms < 300 || ms >= 500) {
      // What was waiting makes room for what is overdue.
      do bench.receive(); while (workload.rate !== undefined && bench.send() > 0);
    }
  }
  bench.load.stop();
  bench.load.abandon();
  return bench;
}

Deno.test("an open loop counts latency from the scheduled time, a closed loop from the sending", () => {
  const open = stalled({ ...READS, rate: 1000 });
  assertEquals(open.load.requests, 1000);
  // A fifth of the requests were due during the stall, and waited 100 ms on the average.
  assertEquals(open.histogram.total, 1000);
  assert(latencyOf(open.histogram).p50 < 1);
  assert(latencyOf(open.histogram).p90 > 99_000, `${latencyOf(open.histogram).p90}`);
  assert(latencyOf(open.histogram).p99 > 189_000);
  assert(latencyOf(open.histogram).max >= 200_000);

  const closed = stalled(READS);
  assert(latencyOf(closed.histogram).p99 < 1);
  assert(latencyOf(closed.histogram).max >= 200_000);
});

Deno.test("an open loop sends at the times of its schedule, over all clients in turn", () => {
  const bench = new Bench({ ...READS, clients: 2, rate: 500, perDatagram: 2 });
  const sentAt: number[] = [];
  for (let ms = 0; ms < 20; ms++) {
    bench.load.now = ms;
    for (let sent = bench.send(); sent > 0; sent--) sentAt.push(ms);
    bench.receive();
  }
  assertEquals(sentAt, [0, 4, 8, 12, 16]);
  assertEquals(bench.load.untilDue, 1);
});

Deno.test("an open loop counts what it could not even send as unsent, not as lost", () => {
  const bench = new Bench({ ...READS, rate: 1000 });
  for (let ms = 0; ms < 100; ms++) {
    bench.load.now = ms;
    bench.send();
  }
  bench.load.stop();
  assert(!bench.load.isOver);
  bench.load.abandon();
  const { lost, unsent } = bench.load;
  assertEquals({ lost, unsent }, { lost: READS.inFlight, unsent: 100 - READS.inFlight });
  // These have waited as well: the first of them, due at 4, for 95 ms.
  assertEquals(bench.histogram.total, unsent);
  assert(latencyOf(bench.histogram).max >= 94_900);
});

Deno.test("an open loop that is cancelled sends no more of what is due, and loses nothing for it", () => {
  const bench = new Bench({ ...READS, rate: 1_000_000 });
  for (let ms = 0; ms < 100; ms++) {
    bench.load.now = ms;
    bench.send();
    bench.receive();
  }
  bench.load.stop();
  bench.send();
  assert(!bench.load.isOver);
  bench.load.cancel();
  bench.receive();
  assertEquals(bench.send(), 0);
  assert(bench.load.isOver);
  bench.load.abandon();
  const { lost, unsent, requests } = bench.load;
  // Of the millisecond at the end the first request is due, too.
  assertEquals([lost, requests + unsent], [0, 99_001]);
});

Deno.test("an open loop counts what it sent late because no more might be in flight", () => {
  const bench = new Bench({ ...READS, rate: 1000 });
  for (let ms = 0; ms < 10; ms++) {
    bench.load.now = ms;
    bench.send();
  }
  assertEquals(bench.load.held, 0); // it is counted when it is sent
  bench.receive();
  bench.send();
  assertEquals(bench.load.held, 1);
});

Deno.test("an open loop counts by how much it sent later than due what nothing held back", () => {
  const bench = new Bench({ ...READS, inFlight: 4, rate: 1000 });
  for (const ms of [0, 1.250111, 2.250111, 3.250111]) {
    bench.load.now = ms;
    bench.send();
  }
  bench.load.now = 9;
  bench.receive();
  bench.send(); // what was held back until now
  const { lateness } = bench.load;
  assertEquals(lateness.total, 4);
  assertEquals([25, 50, 100].map((percent) => lateness.percentile(percent)), [0, 250_111, 250_111]);
});

Deno.test("latenessOf() says when the latencies are the client's own", () => {
  const latency = { p50: 100, p90: 100, p99: 100, "p99.9": 100, max: 100 };
  assertEquals(latenessOf({ latency }), undefined);
  assertEquals(latenessOf({ latency, late: 20 }), undefined);
  assert(
    latenessOf({ latency, late: 20.01 })!.startsWith("half of the requests were sent 20.01 us"),
  );
});

Deno.test("shortfallOf() says that a rate was not reached, and what held it back", () => {
  const { load } = stalled({ ...READS, rate: 1000 });
  assertEquals(shortfallOf(load, 1000), undefined);
  assert(shortfallOf(load, 900)!.endsWith("this client sends no faster"));
  load.held = load.requests;
  assert(shortfallOf(load, 900)!.includes("--in-flight 4 held requests back"));
  assertEquals(shortfallOf(stalled(READS).load, 0), undefined);
});

/** The load on a daemon of this process, over sockets. */
async function runOn(
  serve: (options: EngineOptions) => Promise<Engine>,
  wireTo: (peer: Deno.NetAddr, clients: number) => Wire,
  workload: Workload,
): Promise<void> {
  const engine = await serve(
    newOptions({ memory: 4 * 1024 ** 2, strict: true, replayCache: 65536 }),
  );
  const { hostname, port } = engine.address;
  const remote = await connect({ server: `${hostname}:${port}` });
  const wire = wireTo({ transport: "udp", hostname, port }, workload.clients);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  try {
    const report = await runLoad(workload, 250, { remote, wire, terminal });
    const { lost, wrong, refused } = report;
    assertEquals({ lost, wrong, refused }, FLAWLESS);
    assert(report.requests > 0);
    assert(report.latency.p50 > 0 && report.latency.p50 <= report.latency.max);
  } finally {
    await wire.close();
    await remote.close();
    await engine.close();
  }
}

socketTest("runLoad() leaves no blocks behind when the heap is too small for them", async () => {
  const options = newOptions({ memory: 64 * 1024, strict: true, replayCache: 65536 });
  const engine = await serveDatagram(options);
  const { hostname, port } = engine.address;
  const remote = await connect({ server: `${hostname}:${port}` });
  const wire = new DenoWire({ transport: "udp", hostname, port }, 1);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  const workload = { ...READS, sizes: { min: 4096, max: 4096, log: false } };
  try {
    const run = () => runLoad(workload, 250, { remote, wire, terminal });
    await assertRejects(run, RefusedError, "out of memory");
    // The whole heap is free again.
    await remote.free(await remote.malloc(64 * 1024));
  } finally {
    await wire.close();
    await remote.close();
    await engine.close();
  }
});

const LOADS: [name: string, workload: Workload][] = [
  ["tagged", { ...MIXED, perDatagram: 8 }],
  ["classic", { ...MIXED, protocol: "classic" }],
  ["mixed", ALL],
  ["open", { ...MIXED, rate: 2000 }],
];

for (const [name, workload] of LOADS) {
  socketTest(`DenoWire carries a ${name} load`, async () => {
    await runOn(serveDatagram, (peer, clients) => new DenoWire(peer, clients), workload);
  });
}

const NO_LIBC = Deno.build.os !== "linux" ||
    !LIBC_PATHS.some((path) =>
      Deno.permissions.querySync({ name: "ffi", path }).state === "granted"
    )
  ? " (skipped: no permission for libc, which `deno test -P` gives)"
  : "";

for (const coalesce of [false, true]) {
  for (const [name, workload] of LOADS) {
    Deno.test({
      name: `LibcWire carries a ${name} load${coalesce ? ", coalesced" : ""}${NO_LIBC}`,
      ignore: NO_LIBC !== "",
      fn: async () => {
        const wireTo = (peer: Deno.NetAddr, clients: number) =>
          new LibcWire(peer, clients, coalesce);
        await runOn(serveSyscall, wireTo, workload);
      },
    });
  }
}
