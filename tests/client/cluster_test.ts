/** Remote with many daemons, which are services of this process behind sockets of their own. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Membership } from "../../lib/daemon/cluster/membership.ts";
import { HEAP_BASE, MIN_HEAP, RANGE_BYTES } from "../../lib/heap/heap.ts";
import { Counter } from "../../lib/daemon/counters.ts";
import { MAX_TIMEOUT_MS, Remote, RemoteError } from "../../lib/client/remote.ts";
import { DenoTransport } from "../../lib/client/transports/deno.ts";
import { NodeTransport } from "../../lib/client/transports/node.ts";
import { newState } from "../../lib/daemon/state.ts";
import { NO_SOCKETS } from "../sockets.ts";
import { Box } from "../testing.ts";

const base = (range: number) => BigInt(HEAP_BASE + range * RANGE_BYTES);

/** A daemon of one range, which can be silent, and can move to another port. */
class Daemon implements AsyncDisposable {
  readonly membership: Membership;
  readonly box: Box;
  #socket = listen();
  #done: Promise<void>;
  /** Receives, does what it is asked for, and says nothing. */
  mute = false;
  /** How many datagrams have come. */
  heard = 0;
  /** What hello is to say instead of the real version. */
  version = 2;

  constructor(range: number) {
    this.membership = new Membership(range);
    const state = newState({ memory: MIN_HEAP, replayCache: 64 });
    state.service.epoch.set([7, range]); // who has a range after another has its epoch, too
    this.box = new Box({ membership: this.membership, state });
    this.#done = this.#serve(this.#socket);
  }

  get address(): Deno.NetAddr {
    return this.#socket.addr as Deno.NetAddr;
  }

  get server(): string {
    return `127.0.0.1:${this.address.port}`;
  }

  async move(): Promise<void> {
    this.#socket.close();
    await this.#done;
    this.#socket = listen();
    this.#done = this.#serve(this.#socket);
  }

  async #serve(socket: Deno.DatagramConn): Promise<void> {
    for (;;) {
      try {
        const [datagram, from] = await socket.receive(new Uint8Array(65536));
        const { hostname, port } = from as Deno.NetAddr;
        this.heard++;
        this.box.from(hostname, port);
        const reply = this.box.askBytes(datagram);
        if (reply === undefined || this.mute) continue;
        if (reply[7] === 7) reply[16 + 5 * 8 - 1] = this.version;
        await socket.send(reply, from);
      } catch {
        return;
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    await this.#done;
  }
}

function listen(): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
}

/** Everybody knows where everybody is. */
function introduce(daemons: readonly Daemon[]): void {
  for (const { membership } of daemons) {
    for (const other of daemons) {
      membership.setOwner(other.membership.range, "127.0.0.1", other.address.port);
    }
  }
}

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: name + NO_SOCKETS, ignore: NO_SOCKETS !== "", fn });
}

test("Remote sends each call to the daemon of its pointer, and learns who that is from any of them", async () => {
  await using zero = new Daemon(0);
  await using one = new Daemon(1);
  introduce([zero, one]);
  await using remote = await Remote.connect({ server: zero.server, timeout: 3000 });
  assertEquals(remote.hello?.cluster, { range: 0, fence: 0n, ranges: 2 });
  const first = await remote.malloc(MIN_HEAP);
  const second = await remote.malloc(MIN_HEAP);
  assertEquals([first, second], [base(0), base(1)], "where there is room");
  const error = await assertRejects(() => remote.malloc(16), RemoteError);
  assertEquals(error.message, "malloc(16): out of memory");
  const data = new Uint8Array(MIN_HEAP).fill(7);
  await remote.write(second, data);
  assertEquals(await remote.read(second, MIN_HEAP), data);
  assertEquals(await remote.fetchAndAdd(second + 8n, 1n), 0x0707070707070707n);
  await remote.free(first);
  assertEquals(await remote.realloc(second, 64), second);
  await assertRejects(() => remote.read(base(5), 1), RemoteError, "bad address");
  await assertRejects(
    () => remote.read(base(0) + BigInt(MIN_HEAP) - 1n, 2),
    RemoteError,
    "bad address",
  );
  const survey = await remote.survey();
  assertEquals(survey.map((found) => found?.server), [zero.server, one.server]);
});

test("Remote finds a range that has moved, and repeats what was under way with its tag and from its port", async () => {
  await using zero = new Daemon(0);
  await using one = new Daemon(1);
  introduce([zero, one]);
  await using remote = await Remote.connect({ server: zero.server, timeout: 10_000 });
  assertEquals(await remote.fetchAndAdd(base(1), 5n), 0n);
  one.mute = true; // it adds, but nobody hears of it
  const adding = remote.fetchAndAdd(base(1), 1n);
  while (one.box.service.counters[Counter.replays] === 0) await sleep(10);
  await one.move();
  one.mute = false;
  introduce([zero, one]);
  assertEquals(await adding, 5n);
  assertEquals(await remote.fetchAndAdd(base(1), 0n), 6n, "it was added once");
});

test("Remote goes on looking for a range where it could not go at first", async () => {
  await using zero = new Daemon(0);
  await using other = new Daemon(0);
  const transport = new DenoTransport(zero.address, zero.server);
  await transport.renew();
  const redirect = transport.redirect.bind(transport);
  let refusals = 2;
  transport.redirect = (peer) =>
    refusals-- > 0 ? Promise.reject(new Error("the port is taken")) : redirect(peer);
  await using remote = await Remote.connect({
    server: zero.server,
    others: [other.server],
    transport,
    timeout: 10_000,
  });
  const pointer = await remote.malloc(8);
  zero.mute = true;
  assertEquals(await remote.read(pointer, 8), new Uint8Array(8));
  assert(refusals < 0);
});

test("Remote asks the others that it was told of, when the only one it knows is gone", async () => {
  await using zero = new Daemon(0);
  await using standby = new Daemon(0);
  const server = `${zero.server},${standby.server}`;
  standby.mute = true;
  await using remote = await Remote.connect({ server, timeout: 10_000 });
  const pointer = await remote.malloc(8);
  zero.mute = true;
  const reading = remote.read(pointer, 8);
  await sleep(100);
  standby.mute = false;
  assertEquals(await reading, new Uint8Array(8));
});

test("Remote gives up a call whose range has no daemon yet when its signal is aborted, and closes", async () => {
  await using zero = new Daemon(0);
  await using one = new Daemon(1);
  introduce([zero, one]);
  one.mute = true;
  await using remote = await Remote.connect({ server: zero.server, timeout: MAX_TIMEOUT_MS });
  const controller = new AbortController();
  const { signal } = controller;
  const calls = [remote.read(base(1), 1, { signal }), remote.survey({ signal })];
  while (one.heard === 0) await sleep(10);
  controller.abort("changed my mind");
  const outcomes = await Promise.allSettled(calls);
  assertEquals(
    outcomes.map((outcome) => outcome.status === "rejected" && outcome.reason),
    ["changed my mind", "changed my mind"],
  );
});

test("Remote begins with whichever of some daemons answers", async () => {
  await using zero = new Daemon(0);
  const absent = new Daemon(0);
  await absent[Symbol.asyncDispose]();
  await using remote = await Remote.connect({
    server: `127.0.0.1:1,${zero.server}`,
    timeout: 3000,
  });
  assertEquals(remote.server, zero.server);
});

test("Remote refuses a cluster whose daemons speak different versions", async () => {
  await using zero = new Daemon(0);
  await using one = new Daemon(1);
  introduce([zero, one]);
  one.version = 3;
  await using remote = await Remote.connect({ server: zero.server, timeout: 2000 });
  const error = await assertRejects(() => remote.read(base(1), 1), RemoteError);
  assertEquals(
    error.message,
    "a daemon of the cluster speaks version 3 of the protocol, and this client 2",
  );
  assert(await remote.malloc(8) === base(0), "the one that it understands goes on");
});

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

for (const [name, Transport] of [["Deno", DenoTransport], ["Node", NodeTransport]] as const) {
  test(`redirect() of ${name}'s transport keeps the port`, async () => {
    const [one, other] = [listen(), listen()];
    const portOf = async (socket: Deno.DatagramConn) =>
      ((await socket.receive(new Uint8Array(8)))[1] as Deno.NetAddr).port;
    const peer = (socket: Deno.DatagramConn) => socket.addr as Deno.NetAddr;
    const transport = new Transport(peer(one), "one");
    await transport.renew();
    await transport.send(Uint8Array.of(1));
    const port = await portOf(one);
    await transport.redirect(peer(other));
    await transport.send(Uint8Array.of(2));
    assertEquals(await portOf(other), port);
    const heard = new Promise((resolve) =>
      transport.onDatagram = (datagram) => resolve([...datagram])
    );
    await one.send(Uint8Array.of(3), { transport: "udp", hostname: "127.0.0.1", port });
    await other.send(Uint8Array.of(4), { transport: "udp", hostname: "127.0.0.1", port });
    // Node connects its socket, so that the kernel keeps others out; Deno's node:dgram does not.
    assert(name === "Node" || (await heard as number[])[0] === 4, "only the new peer is heard");
    await transport.close();
    one.close();
    other.close();
  });
}
