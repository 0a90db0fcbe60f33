/**
 * A load for servers that speak over TCP: Redis and memcached. They are measured as we are: system calls
 * through libc, a loop that does not sleep, every byte of a reply compared. Nothing has to be parsed,
 * because the same request always has the same reply.
 */

import { equals } from "@std/bytes";
import { WARM_UP_MS } from "../../lib/client/load/run.ts";
import { Libc, LIBC_PATHS, MSG_DONTWAIT, SOCK_CLOEXEC } from "../../lib/system/libc.ts";
import { SOURCE_BYTES, writeSource } from "../../lib/system/address.ts";
import type { Measurement } from "./measurement.ts";

/** <bits/socket_type.h>, <netinet/in.h>, <netinet/tcp.h> */
const SOCK_STREAM = 1;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

const SYMBOLS = {
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
} as const satisfies Deno.ForeignLibraryInterface;

export interface StreamWorkload {
  readonly port: number;
  readonly connections: number;
  /** Requests that are sent together; the next ones follow when all replies have come. */
  readonly pipeline: number;
  readonly request: Uint8Array;
  readonly reply: Uint8Array;
}

/** Puts the load on the server of this host for so many milliseconds. */
export function runStreamLoad(workload: StreamWorkload, milliseconds: number): Measurement {
  const { port, connections, pipeline } = workload;
  const libc = new Libc();
  const streams = openLibc();
  const { send, recv } = streams.symbols;
  const request = repeat(workload.request, pipeline);
  const expected = repeat(workload.reply, pipeline);
  const requestLength = BigInt(request.length);
  const received = new Uint8Array(expected.length);
  const room = BigInt(received.length);
  const sockets = Array.from({ length: connections }, () => connect(libc, port));
  /** By connection, how much of the reply has come. */
  const have = new Int32Array(connections);
  let requests = 0;

  const ask = (i: number) => {
    have[i] = 0;
    const sent = send(sockets[i]!, request, requestLength, 0);
    if (sent !== requestLength) throw new Error(`Cannot send: ${sent} bytes went`);
  };
  /** Takes what has come on a connection, and asks again if that was all. */
  const take = (i: number) => {
    const length = Number(recv(sockets[i]!, received, room, MSG_DONTWAIT));
    if (length === 0) throw new Error("Cannot receive: the connection was closed");
    if (length < 0) return; // nothing yet
    const from = have[i]!;
    if (!equals(received.subarray(0, length), expected.subarray(from, from + length))) {
      throw new Error("Cannot use a reply: it is not what was written");
    }
    have[i] = from + length;
    if (have[i] !== expected.length) return;
    requests += pipeline;
    ask(i);
  };
  const runUntil = (end: number) => {
    while (performance.now() < end) for (let i = 0; i < connections; i++) take(i);
  };

  try {
    for (let i = 0; i < connections; i++) ask(i);
    runUntil(performance.now() + WARM_UP_MS);
    requests = 0;
    const start = performance.now();
    runUntil(start + milliseconds);
    const seconds = (performance.now() - start) / 1000;
    return { rate: requests / seconds, lost: 0 };
  } finally {
    for (const socket of sockets) libc.symbols.close(socket);
    streams.close();
    libc.close();
  }
}

function connect(libc: Libc, port: number): number {
  const name = new DataView(new ArrayBuffer(SOURCE_BYTES));
  writeSource(name, 0, "127.0.0.1", port);
  const fd = libc.symbols.socket(name.getUint16(0, true), SOCK_STREAM | SOCK_CLOEXEC, 0);
  const on = new Int32Array([1]);
  libc.symbols.setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, on, on.byteLength);
  if (libc.symbols.connect(fd, name, SOURCE_BYTES) !== 0) {
    throw new Error(`Cannot connect to port ${port} (os error ${libc.errno()})`);
  }
  return fd;
}

function repeat(bytes: Uint8Array, times: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(bytes.length * times);
  for (let i = 0; i < times; i++) all.set(bytes, i * bytes.length);
  return all;
}

function openLibc(): Deno.DynamicLibrary<typeof SYMBOLS> {
  for (const path of LIBC_PATHS) {
    try {
      return Deno.dlopen(path, SYMBOLS);
    } catch {
      // Another distribution's path.
    }
  }
  throw new Error(`Cannot open libc: it is not at ${LIBC_PATHS.join(" or ")}`);
}
