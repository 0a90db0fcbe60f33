/** The tagged exchange by itself, over a transport that keeps what is sent and answers when it is told. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Call } from "../../lib/client/exchange.ts";
import { TaggedExchange } from "../../lib/client/exchanges/tagged.ts";
import {
  decodeRequest,
  encodeReplyHead,
  FIELD,
  REPLY_BODY,
  REPLY_HEAD,
  Request,
  SESSION,
} from "../../lib/protocol/wire.ts";
import { NoReplyError } from "../../lib/client/remote.ts";
import type { Transport } from "../../lib/client/transport.ts";
import { FAIR, Simulation } from "../client/simulation.ts";

const MALLOC: Call = { method: "malloc", fields: [16n], bodyLength: FIELD, timeout: 5000 };
/** What a malloc takes of a window, or of a datagram: its reply is longer than its request. */
const MALLOC_COST = REPLY_HEAD + FIELD;
const WINDOW = 128 * 1024;

class ScriptedTransport implements Transport {
  readonly server = "the script";
  onDatagram: (datagram: Uint8Array) => void = () => {};
  /** What was sent, and is not answered yet. */
  readonly sent: Uint8Array[] = [];
  /** Sending takes until this promise has settled, and fails if it rejects. */
  gate: Promise<void> = Promise.resolve();

  constructor(readonly jumbo: boolean) {}

  async send(datagram: Uint8Array): Promise<void> {
    this.sent.push(datagram.slice());
    await this.gate;
  }

  /** The requests of all datagrams. */
  requests(): Uint8Array[] {
    return this.sent.flatMap((datagram) => {
      const requests: Uint8Array[] = [];
      const request = new Request();
      const view = new DataView(datagram.buffer);
      for (let at = 0; at < datagram.length; at += request.size) {
        decodeRequest(view, at, datagram.length - at, request);
        requests.push(datagram.subarray(at, at + request.size));
      }
      return requests;
    });
  }

  /** Answers all requests of the oldest datagram. */
  answer(): void {
    const request = new Request();
    const datagram = this.sent.shift()!;
    const view = new DataView(datagram.buffer);
    const reply = new Uint8Array(64 * 1024);
    let length = 0;
    for (let at = 0; at < datagram.length; at += request.size) {
      decodeRequest(view, at, datagram.length - at, request);
      const body = REPLY_BODY[request.opcode]!;
      encodeReplyHead(new DataView(reply.buffer), length, request, 0, body);
      length += REPLY_HEAD + body;
    }
    this.onDatagram(reply.subarray(0, length));
  }

  renew(): Promise<void> {
    return Promise.resolve();
  }

  isAbsent(): boolean {
    return false;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function setUp({ jumbo = true } = {}) {
  const clock = new Simulation(1, FAIR, {});
  const transport = new ScriptedTransport(jumbo);
  const exchange = new TaggedExchange(transport, clock);
  const call = (count: number, options: Partial<Call> = {}) =>
    Array.from({ length: count }, () => exchange.call({ ...MALLOC, ...options }));
  return { clock, transport, exchange, call };
}

/** Lets everything happen that happens without the passing of time. */
function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

Deno.test("TaggedExchange has no more in flight than the window holds", async () => {
  const { transport, call } = setUp();
  const calls = call(20_000);
  await turn();
  const most = Math.floor(WINDOW / MALLOC_COST);
  assertEquals(transport.requests().length, most);
  while (transport.sent.length > 0) {
    transport.answer();
    await turn();
    assert(transport.requests().length <= most);
  }
  await Promise.all(calls);
});

Deno.test("TaggedExchange fills datagrams that neither way has to be cut into fragments", async () => {
  for (const [jumbo, limit] of [[true, 60 * 1024], [false, 1400]] as const) {
    const { transport, exchange, call } = setUp({ jumbo });
    assertEquals(exchange.chunk, limit - SESSION - 3 * FIELD);
    const data = new Uint8Array(exchange.chunk);
    const calls = [
      ...call(100),
      ...call(2, { method: "write", fields: [0n, BigInt(data.length)], bodyLength: 0, data }),
      ...call(100),
    ];
    while (transport.sent.length === 0) await turn();
    while (transport.sent.length > 0) {
      assert(transport.sent.every(({ length }) => length <= limit));
      transport.answer();
      await turn();
    }
    await Promise.all(calls);
  }
});

Deno.test("TaggedExchange waits twice as long each time before it sends a call again", async () => {
  const { clock, transport, call } = setUp();
  const times: number[] = [];
  const { send } = transport;
  transport.send = (datagram) => {
    times.push(clock.now());
    return send.call(transport, datagram);
  };
  await clock.run(assertRejects(() => call(1)[0]!, NoReplyError));
  assertEquals(clock.now(), 5000);
  const waits = times.slice(1).map((time, i) => time - times[i]!);
  for (const [i, wait] of waits.entries()) {
    const nominal = Math.min(50 * 2 ** i, 1000);
    assert(wait >= 0.75 * nominal && wait <= 1.25 * nominal, `${i}: ${waits}`);
  }
  assert(times.length >= 7 && times.length <= 10, `${times}`);
  assertEquals(new Set(transport.sent.map((datagram) => datagram.toHex())).size, 1);
});

Deno.test("TaggedExchange sends calls again together that were sent together", async () => {
  const { clock, transport, call } = setUp();
  const calls = call(1000);
  await clock.run(clock.sleep(70)); // the longest first wait is 62.5 ms
  const datagrams = transport.sent.length;
  assertEquals(transport.requests().length, 2000);
  assert(datagrams <= 1 + 25 / 5 + 1, `${datagrams} datagrams`); // one each 5 ms of the jitter
  while (transport.sent.length > 0) transport.answer();
  await Promise.all(calls);
});

Deno.test("TaggedExchange sets no timer when nothing is pending", async () => {
  const { clock, transport, call } = setUp();
  const calls = call(3);
  await turn();
  transport.answer();
  await Promise.all(calls);
  await clock.drain();
  assertEquals(clock.now(), 0);
});

Deno.test("TaggedExchange sends again what the kernel would not take", async () => {
  const { clock, transport, call } = setUp();
  transport.gate = Promise.reject(new Deno.errors.ConnectionRefused());
  const [first] = call(1);
  await turn();
  transport.gate = Promise.resolve();
  transport.sent.length = 0;
  await clock.run(clock.sleep(70));
  transport.answer();
  await first;
});

Deno.test("TaggedExchange does not send what was given up while it waited to be sent", async () => {
  const { transport, exchange, call } = setUp({ jumbo: false });
  const { promise, resolve } = Promise.withResolvers<void>();
  transport.gate = promise;
  const perDatagram = Math.floor((1400 - SESSION) / MALLOC_COST);
  const first = call(perDatagram);
  const controller = new AbortController();
  const data = new Uint8Array(16).fill(1);
  const fields = [0n, 16n];
  const { signal } = controller;
  const second = call(1, { method: "write", fields, bodyLength: 0, data, signal });
  const third = call(perDatagram - 1, { signal });
  await turn();
  assertEquals(transport.sent.length, 1);
  controller.abort("never mind");
  data.fill(2); // by whoever wrote it, who has it back
  resolve();
  const outcomes = await Promise.allSettled([...second, ...third]);
  assert(outcomes.every(({ status }) => status === "rejected"));
  await turn();
  assertEquals(transport.sent.length, 1);

  // And it takes no room: as much as ever may be in flight.
  transport.answer();
  await Promise.all(first);
  const all = Math.floor(WINDOW / MALLOC_COST);
  const calls = call(all + 1).map((call) => call.catch(() => {}));
  await turn();
  assertEquals(transport.requests().length, all);
  await exchange.close();
  await Promise.all(calls);
});

Deno.test("TaggedExchange gives 5,000 waiting calls up at once", async () => {
  const { transport, call } = setUp();
  const controller = new AbortController();
  const calls = call(5_000, { signal: controller.signal });
  await turn();
  controller.abort();
  const outcomes = await Promise.allSettled(calls);
  assert(outcomes.every(({ status }) => status === "rejected"));
  transport.sent.length = 0;
  const [last] = call(1);
  await turn();
  transport.answer();
  await last;
});
