/**
 * A client's datagrams over QUIC (docs/protocol.md, "Over QUIC"). A connection that has ended is made anew
 * with the next datagram, under the same identity, so that the daemon knows a repeat for what it is.
 */

import { isLoopback } from "../../system/address.ts";
import type { Transport } from "../transport.ts";

export interface QuicOptions {
  /** As a person would write it. */
  server: string;
  /** The name or the address that the certificate must be for, and its address. */
  hostname: string;
  address: string;
  port: number;
  /** PEM; if left out, the certificates that the runtime trusts. */
  ca?: string | undefined;
  token?: string | undefined;
  /** Milliseconds that it may take to connect. */
  timeout: number;
}

const ALPN = "mallocd";
const IDENTITY_BYTES = 8;

/** The daemon's application error codes that a client may see before it has a session. */
const REASONS: Readonly<Record<number, string>> = {
  1: "the token was refused",
  2: "it got no session",
  3: "it has too many sessions",
};

/** What a packet of 1,200 bytes has room for, the shortest that every path takes (RFC 9000, 14). */
const LONGEST_DATAGRAM = 1100;

/** A daemon that is gone without a word is noticed after so long, and a NAT does not forget us. */
const IDLE_MS = 5000;
const KEEP_ALIVE_MS = 2000;

/**
 * Connects and opens the session. Rejects with an Error that says what is wrong, or with one named
 * TimeoutError if nobody answers in time.
 */
export async function openQuic(options: QuicOptions): Promise<Transport> {
  if (options.ca !== undefined && !options.ca.includes("-----BEGIN CERTIFICATE-----")) {
    throw new Error("what is given as the CA is no certificate in PEM");
  }
  const transport = new QuicTransport(options);
  await transport.renew();
  return transport;
}

class QuicTransport implements Transport {
  readonly jumbo = true;
  readonly server: string;
  onDatagram: (datagram: Uint8Array) => void = () => {};
  readonly #options: QuicOptions;
  readonly #identity = crypto.getRandomValues(new Uint8Array(IDENTITY_BYTES));
  /** The one that serves, or is being made; undefined if the next datagram is to make one. */
  #connection: Promise<Deno.QuicConn> | undefined;
  #closed = false;

  constructor(options: QuicOptions) {
    this.server = options.server;
    this.#options = options;
  }

  async send(datagram: Uint8Array, most = datagram.length): Promise<void> {
    if (this.#closed) return;
    const connection = await (this.#connection ??= this.#connect());
    if (most <= LONGEST_DATAGRAM) await connection.sendDatagram(datagram);
    else this.#sendOnStream(connection, datagram.slice()).catch(() => {}); // it was closed: sent again
  }

  async renew(): Promise<void> {
    await this.#end();
    await (this.#connection = this.#connect());
  }

  /** Somebody has answered, and shook hands. */
  isAbsent(): boolean {
    return false;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#end();
  }

  async #end(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined);
    connection?.close({ closeCode: 0, reason: "" });
    await connection?.closed.catch(() => {});
  }

  async #connect(): Promise<Deno.QuicConn> {
    const { address, timeout } = this.#options;
    const local = isLoopback(address) ? ["127.0.0.1", "::1"] : ["0.0.0.0", "::"];
    const hostname = local[Number(address.includes(":"))]!;
    const endpoint = new Deno.QuicEndpoint({ hostname, port: 0 });
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => late.reject(new DOMException("nobody answers", "TimeoutError")),
      timeout,
    );
    try {
      const connection = await Promise.race([this.#openSession(endpoint), late.promise]);
      connection.closed.catch(() => {}).finally(() => {
        this.#connection = undefined;
        endpoint.close();
      });
      this.#receive(connection).catch(() => {}); // it was closed
      return connection;
    } catch (error) {
      this.#connection = undefined;
      endpoint.close(); // which ends whatever is under way
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  async #openSession(endpoint: Deno.QuicEndpoint): Promise<Deno.QuicConn> {
    const { hostname, address, port, ca, token = "" } = this.#options;
    let connection: Deno.QuicConn;
    try {
      connection = await Deno.connectQuic<false>({
        endpoint,
        hostname: address,
        port,
        serverName: hostname,
        alpnProtocols: [ALPN],
        ...(ca !== undefined && { caCerts: [ca] }),
        maxIdleTimeout: IDLE_MS,
        keepAliveInterval: KEEP_ALIVE_MS,
      });
    } catch (error) {
      throw new Error(explain((error as Error).message, hostname));
    }
    const hello = new Uint8Array([...this.#identity, ...new TextEncoder().encode(token)]);
    const answer = await ask(connection, hello).catch(() => undefined);
    if (answer?.length === 1 && answer[0] === 0) return connection;
    connection.close({ closeCode: 0, reason: "" }); // unless the daemon has
    const { closeCode, reason } = await connection.closed;
    throw new Error(REASONS[closeCode] ?? (reason || "it ended the connection"));
  }

  async #receive(connection: Deno.QuicConn): Promise<void> {
    while (true) this.onDatagram(await connection.readDatagram());
  }

  async #sendOnStream(connection: Deno.QuicConn, datagram: Uint8Array): Promise<void> {
    const reply = await ask(connection, datagram);
    if (reply.length > 0) this.onDatagram(reply);
  }
}

/** One request and its reply, on a stream of their own. */
async function ask(connection: Deno.QuicConn, request: Uint8Array): Promise<Uint8Array> {
  const { readable, writable } = await connection.createBidirectionalStream({
    waitUntilAvailable: true,
  });
  const writer = writable.getWriter();
  await writer.write(request);
  await writer.close();
  return await new Response(readable).bytes();
}

/** What rustls says, which names alerts by their numbers (RFC 8446, 6). */
function explain(message: string, hostname: string): string {
  // BadSignature is that of another CA by the same name.
  if (/UnknownIssuer|BadSignature/.test(message)) {
    return "its certificate is not signed by the CA that is trusted";
  }
  if (/NotValidForName|error 42\b/.test(message)) {
    return `its certificate is not for ${hostname}, or cannot be used (${message})`;
  }
  if (/error 45\b/.test(message)) return "its certificate has expired, or is not yet valid";
  if (/error 120\b/.test(message)) return "it is no mallocd: it does not speak this protocol";
  return message;
}
