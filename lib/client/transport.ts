/**
 * How a client's datagrams reach a daemon, and what time it is meanwhile: the two things that the
 * simulation replaces. `openUdp` is the real one, with the sockets of the runtime that it finds itself in.
 */

import { DEFAULT_PORT } from "../protocol/wire.ts";
import { parseAddress, unmap } from "../system/address.ts";
import { DenoTransport } from "./transports/deno.ts";
import { NodeTransport } from "./transports/node.ts";

/** A daemon's address. */
export interface Peer {
  /** An address, not a name. */
  readonly hostname: string;
  /** Of UDP. */
  readonly port: number;
}

/** One peer's datagrams, unreliable and unordered, as UDP has them. */
export interface Transport {
  /** The daemon as a person would write it: `127.0.0.1:8081`, `[::1]:8081`. */
  readonly server: string;
  /** Whether large datagrams are cheap and never fragmented: on this host, or where they are streams. */
  readonly jumbo: boolean;
  /**
   * Sends one datagram; its bytes may be changed as soon as the promise has settled. Neither it nor its
   * reply has more than `most` bytes.
   */
  send(datagram: Uint8Array, most?: number): Promise<void>;
  /** Called with each datagram that comes; its bytes are valid during the call. */
  onDatagram: (datagram: Uint8Array) => void;
  /** Takes a new local port, so that no late answer to an earlier request arrives any more. */
  renew(): Promise<void>;
  /** Talks to another daemon from now on, from the same port. QUIC cannot. */
  redirect?(peer: Peer): Promise<void>;
  /** Whether it is certain that nobody listens at the peer's address; asked when an answer is overdue. */
  isAbsent(): boolean;
  /** Lets go of the socket. */
  close(): Promise<void>;
}

/** What time it is, and chance. */
export interface Clock {
  /** Milliseconds since some start. */
  now(): number;
  /** Calls `then` after so many milliseconds, unless the function that it returns is called first. */
  after(ms: number, then: () => void): () => void;
  /** Uniform in [0, 1): for jitter. */
  random(): number;
}

export const REAL_CLOCK: Clock = {
  now: () => performance.now(),
  after: (ms, then) => {
    // A timer that is cleared in the turn in which it is due may go off all the same.
    let wanted = true;
    const timer = setTimeout(() => wanted && then(), ms);
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  },
  random: Math.random,
};

/** `host:port`, `host`, `[v6]:port` or a bare IPv6 address. Undefined if it is none of these. */
export function parseServer(text: string): { hostname: string; port: number } | undefined {
  if (parseAddress(text) !== undefined) return { hostname: text, port: DEFAULT_PORT };
  const match = /^(?:\[([^\]]+)\]|([^:\s[\]]+))(?::(\d{1,5}))?$/.exec(text);
  if (match === null) return undefined;
  const [, v6, name, digits] = match;
  const port = digits === undefined ? DEFAULT_PORT : Number(digits);
  if (port < 1 || port > 65535 || (v6 !== undefined && parseAddress(v6) === undefined)) {
    return undefined;
  }
  return { hostname: v6 ?? name!, port };
}

/** How the name of a server begins that is reached over QUIC. */
export const QUIC = "quic://";

export function isQuic(server: string): boolean {
  return typeof server === "string" && server.startsWith(QUIC);
}

/** A UDP socket that talks to one daemon. Throws TypeError if `server` is not `host:port`. */
export async function openUdp(server: string): Promise<Transport> {
  const peer = await peerOf(server);
  // Bun has what Node has.
  const RuntimeTransport = "Deno" in globalThis ? DenoTransport : NodeTransport;
  const transport = new RuntimeTransport(peer, server);
  await transport.renew();
  return transport;
}

/** Whom `host:port` names. Throws TypeError if it is none. */
export async function peerOf(server: string): Promise<Peer> {
  const parsed = typeof server === "string" ? parseServer(server) : undefined;
  if (parsed === undefined) {
    throw new TypeError(`Cannot parse server: ${server}: a server is "host:port" or "[v6]:port"`);
  }
  return { hostname: await resolve(parsed.hostname), port: parsed.port };
}

/**
 * Names are looked up once, as the system would: the daemon's answers carry an address. A mapped address
 * becomes the IPv4 address that it is, because no IPv6 socket of Deno's sends there.
 */
export async function resolve(hostname: string): Promise<string> {
  if (parseAddress(hostname) !== undefined) return unmap(hostname);
  // Loaded for names only: it takes time. Its promises would make Deno 2.6 print a deprecation warning.
  const { lookup } = await import("node:dns");
  return await new Promise((resolve, reject) => {
    lookup(hostname, (error, address) => error === null ? resolve(address) : reject(error));
  });
}
