/**
 * The engine for a hostile network: QUIC with TLS 1.3 (RFC 9000, 9001) through `Deno.QuicEndpoint`. A
 * request is a datagram (RFC 9221) or, where it or its reply is too long for one, a bidirectional stream
 * of its own. docs/protocol.md, "Over QUIC", specifies what a client does. It makes garbage: every
 * datagram is an array and two promises.
 */

import { Drop } from "../admission.ts";
import { Counter } from "../counters.ts";
import type { Engine, EngineOptions } from "../engine.ts";
import { newService } from "../engine_service.ts";
import type { Service } from "../service.ts";
import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { NO_REPLY } from "../service.ts";
import { FAMILY_INET, SOURCE_BYTES, writeSource } from "../../system/address.ts";
import { isToken, MAX_TOKEN, readSecrets, SecretError, type Secrets } from "./quic_secrets.ts";

const ALPN = "mallocd";

/** Why the daemon closes a connection: application error codes (RFC 9000, 20.2). */
const Close = { stopped: 0, tokenRefused: 1, noSession: 2, full: 3 } as const;

/**
 * What peers can hold: connections with a session, others, which take no place of the former, streams of
 * each, and how long anything may be half done.
 */
const PLACES = { sessions: 2048, unproven: 512 };
const MAX_STREAMS = 8;
const PATIENCE_MS = 5000;
const IDLE_MS = 30_000;

/** The session stream: the client's identity, then its token. */
const IDENTITY_BYTES = 8;
const MAX_HELLO = IDENTITY_BYTES + MAX_TOKEN;

const REQUEST = 0;
const REPLY = 64 * 1024;
const SOURCE = 128 * 1024;
const IO_PAGES = 3;

/** `places` are fewer in tests. */
export async function serveQuic(options: EngineOptions, places = PLACES): Promise<Engine> {
  const { hostname, port, secrets: files } = options;
  const { counters } = options.state.service;
  if (files === undefined) throw new TypeError("The quic engine needs a certificate and a key");
  let secrets = await readSecrets(files);
  const endpoint = new Deno.QuicEndpoint({ hostname, port });
  const address = endpoint.addr;
  const io = new WebAssembly.Memory({ initial: IO_PAGES, maximum: IO_PAGES });
  const bytes = new Uint8Array(io.buffer);
  const connections = new Set<Deno.QuicConn>();
  let listener: Deno.QuicListener;
  /** Of `connections` and of handshakes: those without a session. */
  let unproven = 0;
  let sessions = 0;
  let service: Service;
  try {
    service = await newService(options, io, address.port, { validated: true });
    listener = listen(secrets);
  } catch (error) {
    endpoint.close();
    throw error;
  }

  function listen({ cert, key }: Secrets): Deno.QuicListener {
    let listener: Deno.QuicListener;
    try {
      listener = endpoint.listen({
        cert,
        key,
        alpnProtocols: [ALPN],
        maxIdleTimeout: IDLE_MS,
        maxConcurrentBidirectionalStreams: MAX_STREAMS,
        maxConcurrentUnidirectionalStreams: 0,
      });
    } catch (error) { // no PEM, or a key of another certificate
      const { message } = error as Error;
      throw new SecretError(`Cannot use ${files!.cert} with ${files!.key}: ${message}`);
    }
    accept(listener);
    return listener;
  }

  async function accept(listener: Deno.QuicListener): Promise<void> {
    while (true) {
      let incoming: Deno.QuicIncoming;
      try {
        incoming = await listener.incoming();
      } catch {
        return; // it was stopped
      }
      if (unproven >= places.unproven) {
        counters[Counter.dropped + Drop.session]!++;
        incoming.refuse();
        continue;
      }
      unproven++;
      incoming.accept<false>().then(serveConnection, () => counters[Counter.receiveErrors]!++)
        .finally(() => unproven--);
    }
  }

  /** Resolves when it has a session, or is to have none. */
  async function serveConnection(connection: Deno.QuicConn): Promise<void> {
    connections.add(connection);
    connection.closed.catch(() => {}).finally(() => connections.delete(connection));
    const streams = connection.incomingBidirectionalStreams.getReader();
    const source = await openSession(connection, streams).catch(() => undefined);
    if (source === undefined) {
      // Unless it is closed already: it counts nowhere any more.
      connection.close({ closeCode: Close.noSession, reason: "no session" });
      return;
    }
    serveDatagrams(connection, source).catch(() => {}); // it was closed
    serveStreams(streams, source).catch(() => {}); // likewise
  }

  /**
   * The first stream opens the session; until then no request is looked at. Resolves with the source of
   * its requests, or with undefined, and the connection is closed.
   */
  async function openSession(
    connection: Deno.QuicConn,
    streams: ReadableStreamDefaultReader<Deno.QuicBidirectionalStream>,
  ): Promise<Uint8Array | undefined> {
    const refuse = (closeCode: number, reason: string) => {
      counters[Counter.dropped + Drop.session]!++;
      connection.close({ closeCode, reason });
      return undefined;
    };
    const late = setTimeout(() => refuse(Close.noSession, "no session in time"), PATIENCE_MS);
    try {
      const { done, value: stream } = await streams.read();
      if (done) return undefined;
      const hello = await readAll(stream, MAX_HELLO);
      if (hello === undefined || hello.length < IDENTITY_BYTES) {
        return refuse(Close.noSession, "no session");
      }
      if (!await isToken(secrets, hello.subarray(IDENTITY_BYTES))) {
        return refuse(Close.tokenRefused, "token refused");
      }
      if (sessions >= places.sessions) return refuse(Close.full, "too many sessions");
      sessions++; // before anybody else's turn
      connection.closed.catch(() => {}).finally(() => sessions--);
      await writeAll(stream, new Uint8Array(1));
      return sourceOf(connection.remoteAddr, hello.subarray(0, IDENTITY_BYTES));
    } finally {
      clearTimeout(late);
    }
  }

  async function serveStreams(
    streams: ReadableStreamDefaultReader<Deno.QuicBidirectionalStream>,
    source: Uint8Array,
  ): Promise<void> {
    while (true) {
      const { done, value: stream } = await streams.read();
      if (done) return;
      serveStream(stream, source).catch(() => counters[Counter.receiveErrors]!++);
    }
  }

  /**
   * Who asks, for the duplicate request cache: the peer's IP address, as of the other engines, with the
   * identity where a sockaddr has zeros, and a port that is nobody's, since a reconnect changes it.
   */
  function sourceOf({ hostname }: Deno.NetAddr, identity: Uint8Array): Uint8Array {
    const source = new Uint8Array(SOURCE_BYTES);
    const fields = new DataView(source.buffer);
    writeSource(fields, 0, hostname, address.port === 65535 ? 65534 : 65535);
    if (fields.getUint16(0, true) === FAMILY_INET) source.set(identity, 8);
    else {
      source.set(identity.subarray(0, 4), 4);
      source.set(identity.subarray(4), 24);
    }
    return source;
  }

  /** The reply is a copy: sends of several connections are under way at a time. */
  function answer(request: Uint8Array, source: Uint8Array): Uint8Array | undefined {
    counters[Counter.received]!++;
    counters[Counter.receivedBytes]! += request.length;
    bytes.set(request, REQUEST);
    bytes.set(source, SOURCE);
    service.beginTurn();
    const length = service.serve(REQUEST, request.length, REPLY, SOURCE);
    return length === NO_REPLY ? undefined : bytes.slice(REPLY, REPLY + length);
  }

  function countSent(reply: Uint8Array): void {
    counters[Counter.sent]!++;
    counters[Counter.sentBytes]! += reply.length;
  }

  async function serveDatagrams(connection: Deno.QuicConn, source: Uint8Array): Promise<void> {
    while (true) {
      const reply = answer(await connection.readDatagram(), source);
      if (reply === undefined) continue;
      try {
        await connection.sendDatagram(reply);
        countSent(reply);
      } catch { // too long for the path: the client should have taken a stream
        counters[Counter.sendErrors]!++;
      }
    }
  }

  async function serveStream(stream: Deno.QuicBidirectionalStream, source: Uint8Array) {
    const request = await readAll(stream, MAX_DATAGRAM);
    if (request === undefined) {
      counters[Counter.receiveErrors]!++;
      return;
    }
    const reply = answer(request, source);
    await writeAll(stream, reply ?? new Uint8Array(0));
    if (reply !== undefined) countSent(reply);
  }

  return {
    name: "quic",
    address: { hostname: address.hostname, port: address.port },
    async reload() {
      const fresh = await readSecrets(files);
      listener.stop(); // first: the end of a listener is the end of all that the endpoint accepts
      try {
        listener = listen(fresh);
        secrets = fresh;
      } catch (error) { // certificate and key do not match
        listener = listen(secrets);
        throw error;
      }
    },
    async close() {
      listener.stop();
      const ends = [...connections].map((connection) => connection.closed.catch(() => {}));
      for (const connection of connections) {
        connection.close({ closeCode: Close.stopped, reason: "mallocd stops" });
      }
      await Promise.all(ends);
      endpoint.close({ closeCode: Close.stopped, reason: "mallocd stops" });
    },
  };
}

/** All bytes to the end of the stream; undefined, and the stream reset, if they are too many or too late. */
async function readAll(
  { readable, writable }: Deno.QuicBidirectionalStream,
  most: number,
): Promise<Uint8Array | undefined> {
  const reader = readable.getReader();
  let bytes = new Uint8Array(0); // it grows with what comes, for most streams are short, and some are silent
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    reader.cancel().catch(() => {});
  }, PATIENCE_MS);
  try {
    let length = 0;
    while (true) {
      const { done, value } = await reader.read();
      if (done && !late) return bytes.subarray(0, length);
      if (late || done || length + value.length > most) break;
      const needed = length + value.length;
      if (needed > bytes.length) {
        bytes = new Uint8Array(bytes.buffer.transfer(Math.min(most, 2 * needed)));
      }
      bytes.set(value, length);
      length = needed;
    }
    await reader.cancel().catch(() => {});
    await writable.abort().catch(() => {});
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

/** A peer that does not read its reply in time loses it. */
async function writeAll({ writable }: Deno.QuicBidirectionalStream, reply: Uint8Array) {
  const writer = writable.getWriter();
  const timer = setTimeout(() => writer.abort().catch(() => {}), PATIENCE_MS);
  try {
    if (reply.length > 0) await writer.write(reply);
    await writer.close();
  } finally {
    clearTimeout(timer);
  }
}
