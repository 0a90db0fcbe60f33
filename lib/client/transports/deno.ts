/** UDP by Deno's own sockets, which are unstable: `--unstable-net`. */

import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { isLoopback, parseAddress } from "../../system/address.ts";

export class DenoTransport {
  readonly loopback: boolean;
  onDatagram: (datagram: Uint8Array) => void = () => {};
  #heard = false;
  #socket: Deno.DatagramConn | undefined;
  #receiving: Promise<void> = Promise.resolve();
  readonly #buffer = new Uint8Array(MAX_DATAGRAM);

  constructor(public peer: { hostname: string; port: number }, readonly server: string) {
    this.loopback = isLoopback(peer.hostname);
    if (Deno.listenDatagram !== undefined) return;
    throw new TypeError(
      'Deno has no UDP unless it is told so: use --unstable-net, or "unstable": ["net"] in deno.json',
    );
  }

  get jumbo(): boolean {
    return this.loopback;
  }

  async send(datagram: Uint8Array): Promise<void> {
    await this.#socket?.send(datagram, { transport: "udp", ...this.peer });
  }

  async renew(): Promise<void> {
    await this.close();
    const v6 = this.peer.hostname.includes(":");
    const hostname = v6 ? (this.loopback ? "::1" : "::") : this.loopback ? "127.0.0.1" : "0.0.0.0";
    const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
    this.#socket = socket;
    this.#receiving = this.#receive(socket);
  }

  /** Its socket sends wherever it is told to. */
  redirect(peer: { hostname: string; port: number }): Promise<void> {
    this.peer = peer;
    return Promise.resolve();
  }

  /**
   * Deno's sockets are not connected, and so are not told ECONNREFUSED. But an address of this host can be
   * taken while nobody has it, for the 10 microseconds that it takes to find out; any error may mean
   * anything. Once somebody has answered it is no matter of "not there": a daemon may be restarting. On
   * Windows a second socket may take an address that has one.
   */
  isAbsent(): boolean {
    if (!this.loopback || this.#heard || Deno.build.os === "windows") return false;
    try {
      Deno.listenDatagram({ transport: "udp", ...this.peer }).close();
      return true;
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.close(); // which interrupts the receive
    await this.#receiving;
  }

  async #receive(socket: Deno.DatagramConn): Promise<void> {
    while (this.#socket === socket) {
      try {
        const [datagram, from] = await socket.receive(this.#buffer);
        const { hostname, port } = from as Deno.NetAddr;
        if (port !== this.peer.port) continue;
        // The system writes an address in one way, a person may have written it in another.
        if (hostname !== this.peer.hostname && !isSame(hostname, this.peer.hostname)) continue;
        this.#heard = true;
        this.onDatagram(datagram);
      } catch (error) {
        if (this.#socket !== socket) return;
        // On some systems this is how a daemon that is gone shows: the call's timeout tells.
        const { ConnectionRefused, ConnectionReset } = Deno.errors;
        if (!(error instanceof ConnectionRefused || error instanceof ConnectionReset)) throw error;
      }
    }
  }
}

function isSame(hostname: string, other: string): boolean {
  return parseAddress(hostname)?.join() === parseAddress(other)?.join();
}
