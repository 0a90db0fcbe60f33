/**
 * The portable engine: `Deno.listenDatagram`, one loop, one datagram at a time. That is the fastest
 * order as well as the safest (docs/architecture.md): a `send` that is not awaited reads the reply
 * buffer after the next reply was written to it, and several `receive`s complete out of order.
 */

import { Counter, noteLatency } from "../counters.ts";
import type { Engine, EngineOptions } from "../engine.ts";
import { newService } from "../engine_service.ts";
import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { NO_REPLY, type Service } from "../service.ts";
import { SendBudget } from "./send_budget.ts";
import { isWildcard, writeSource } from "../../system/address.ts";

/** Where things lie in the I/O memory: a request, its reply, and who sent it. */
const REQUEST = 0;
const REPLY = 64 * 1024;
const SOURCE = 128 * 1024;
const IO_PAGES = 3;

/** How long the loop rests after an error of `receive`, so that a lasting one does not take a core. */
const REST_MS = 10;

/** One of so many datagrams is timed: to ask the clock costs 100 ns, and makes garbage. */
const SAMPLE = 16;
const LONGEST_NS = 2 ** 31 - 1;

export async function serveDatagram(options: EngineOptions): Promise<Engine> {
  const { hostname, port } = options;
  const { counters, clock } = options.state.service;
  if (isWildcard(hostname)) {
    const message =
      `Cannot listen on ${hostname} with the datagram engine: who asks one of a host's ` +
      "addresses would be answered from another; use --host with one of them, or --engine syscall";
    throw new RangeError(message);
  }
  const io = new WebAssembly.Memory({ initial: IO_PAGES, maximum: IO_PAGES });
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  const address = socket.addr as Deno.NetAddr;
  let service: Service;
  try {
    service = await newService(options, io, address.port);
  } catch (error) {
    socket.close();
    throw error;
  }
  const view = new DataView(io.buffer);
  const requests = new Uint8Array(io.buffer, REQUEST, MAX_DATAGRAM);
  const replies = new Uint8Array(io.buffer, REPLY, MAX_DATAGRAM);
  const budget = new SendBudget(io, clock);
  let closing = false;
  let lastHostname = "";
  let sending: Promise<number> = Promise.resolve(0);

  async function loop(): Promise<void> {
    while (!closing) {
      let length: number;
      let sender: Deno.NetAddr;
      try {
        const [request, from] = await socket.receive(requests);
        length = request.length;
        sender = from as Deno.NetAddr;
      } catch {
        if (closing) break; // close() interrupts a pending receive
        counters[Counter.receiveErrors]!++;
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
        continue;
      }
      if (closing) break; // it came too late to be answered
      const isTimed = counters[Counter.received]! % SAMPLE === 0;
      const start = isTimed ? performance.now() : 0;
      counters[Counter.received]!++;
      counters[Counter.receivedBytes]! += length;
      if (sender.hostname === lastHostname) view.setUint16(SOURCE + 2, sender.port);
      else writeSource(view, SOURCE, lastHostname = sender.hostname, sender.port);
      service.beginTurn();
      const replyLength = service.serve(REQUEST, length, REPLY, SOURCE);
      if (replyLength === NO_REPLY) continue;
      const { proven } = service;
      if (proven === 0 && !budget.admits(SOURCE, replyLength)) {
        counters[Counter.withheld]!++;
        continue;
      }
      const isWatched = budget.isExceeded;
      const sendStart = isWatched ? performance.now() : 0;
      try {
        sending = socket.send(replies.subarray(0, replyLength), sender);
        await sending;
        counters[Counter.sent]!++;
        counters[Counter.sentBytes]! += replyLength;
        if (isTimed) {
          const ns = Math.round((performance.now() - start) * 1e6);
          noteLatency(counters, 1, Math.min(ns, LONGEST_NS));
        }
      } catch { // the sender is gone or out of reach, or its port is 0: its loss, not ours
        counters[Counter.sendErrors]!++;
      }
      if (isWatched) budget.noteWait(performance.now() - sendStart, proven);
    }
  }

  const done = loop();
  return {
    name: "datagram",
    address: { hostname: address.hostname, port: address.port },
    async close() {
      if (!closing) {
        closing = true;
        await sending.catch(() => {}); // the loop counts its failure
        socket.close();
      }
      await done;
    },
  };
}
