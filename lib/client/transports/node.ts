/** UDP by node:dgram, for Node and Bun. Its socket is connected: it hears the peer only. */

import type { Socket } from "node:dgram";
import { isLoopback } from "../../system/address.ts";

export class NodeTransport {
  readonly loopback: boolean;
  onDatagram: (datagram: Uint8Array) => void = () => {};
  #socket: Socket | undefined;
  /** Its port since it was renewed, 0 when it is closed. */
  #port = 0;
  #heard = false;
  #refused = false;

  constructor(public peer: { hostname: string; port: number }, readonly server: string) {
    this.loopback = isLoopback(peer.hostname);
  }

  get jumbo(): boolean {
    return this.loopback;
  }

  send(datagram: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#socket === undefined) return resolve();
      this.#socket.send(datagram, (error) => {
        if (error === null || this.#isRefusal(error)) resolve();
        else reject(error);
      });
    });
  }

  async renew(): Promise<void> {
    await this.#open(0);
    this.#port = this.#socket?.address().port ?? 0;
  }

  /** A socket that is connected anew may lose its port, so another one takes it over. */
  async redirect(peer: { hostname: string; port: number }): Promise<void> {
    this.peer = peer;
    if (this.#port !== 0) await this.#open(this.#port);
  }

  async #open(own: number): Promise<void> {
    await this.#end();
    const { createSocket } = await import("node:dgram"); // here, for Deno need not load it
    const { hostname, port } = this.peer;
    const v6 = hostname.includes(":");
    const socket = createSocket(v6 ? "udp6" : "udp4");
    const here = isLoopback(hostname) ? (v6 ? "::1" : "127.0.0.1") : undefined;
    socket.on("message", (datagram) => {
      this.#heard = true;
      this.onDatagram(datagram);
    });
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject);
        socket.bind(own, here, () =>
          socket.connect(port, hostname, (error?: Error) => {
            socket.off("error", reject);
            if (error) reject(error);
            else resolve();
          }));
      });
    } catch (error) { // somebody else has taken the port, or there is no way to the peer
      socket.close();
      throw error;
    }
    // That the network reports a datagram as lost is no news to a call, which has its timeout.
    socket.on("error", (error) => this.#isRefusal(error));
    this.#socket = socket;
  }

  /** What the kernel was told last, unless somebody has answered: then a daemon may be restarting. */
  isAbsent(): boolean {
    return this.#refused && !this.#heard;
  }

  async close(): Promise<void> {
    this.#port = 0;
    await this.#end();
  }

  async #end(): Promise<void> {
    const socket = this.#socket;
    this.#socket = undefined;
    if (socket !== undefined) await new Promise<void>((resolve) => socket.close(() => resolve()));
  }

  /** On Linux the error is what came back for an earlier datagram, and this one was not sent. */
  #isRefusal(error: Error): boolean {
    const refused = (error as { code?: string }).code === "ECONNREFUSED";
    this.#refused ||= refused;
    return refused;
  }
}
