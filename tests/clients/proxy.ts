/** A network between clients and a daemon, which can lose datagrams, and which remembers what it carried. */

import { Random } from "../testing.ts";

export interface ProxyOptions {
  /** The share of the datagrams that is lost, each way. */
  loss?: number;
  seed?: number;
}

/** The reply to the first request of a datagram, by which it is refused. */
function refusal(datagram: Uint8Array, status: number): Uint8Array {
  const reply = new Uint8Array(16);
  reply.set(datagram.subarray(0, 8));
  reply[5] = status;
  reply[6]! |= 0x80;
  return reply;
}

export class Proxy implements Disposable {
  readonly #front = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  /** One socket for each client, as the daemon tells them apart by their ports. */
  readonly #backs = new Map<number, Deno.DatagramConn>();
  readonly #daemon: Deno.NetAddr;
  readonly #random: Random;
  readonly #loss: number;
  /** Datagrams that came from clients and from the daemon since somebody emptied this, lost ones, too. */
  readonly requests: Uint8Array[] = [];
  readonly replies: Uint8Array[] = [];
  lost = 0;
  /** How many of the replies have been gone on with. */
  delivered = 0;
  /** What becomes of requests on their way; an errno if they go no further, and the first is so refused. */
  alter: (datagram: Uint8Array) => Uint8Array | number = (datagram) => datagram;
  /** What goes on to the client when a reply has come. */
  deliver: (reply: Uint8Array) => Uint8Array[] = (reply) => [reply];

  constructor(port: number, { loss = 0, seed = 1 }: ProxyOptions = {}) {
    this.#daemon = { transport: "udp", hostname: "127.0.0.1", port };
    this.#loss = loss;
    this.#random = new Random(seed);
    this.#carry(this.#front, async (datagram, client) => {
      this.requests.push(datagram);
      if (this.#loses()) return;
      const altered = this.alter(datagram);
      if (typeof altered === "number") await this.#front.send(refusal(datagram, altered), client);
      else await this.#back(client).send(altered, this.#daemon);
    });
  }

  get server(): string {
    return `127.0.0.1:${(this.#front.addr as Deno.NetAddr).port}`;
  }

  #loses(): boolean {
    const loses = this.#random.below(1000) < this.#loss * 1000;
    if (loses) this.lost++;
    return loses;
  }

  #back(client: Deno.NetAddr): Deno.DatagramConn {
    let back = this.#backs.get(client.port);
    if (back === undefined) {
      back = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      this.#backs.set(client.port, back);
      this.#carry(back, async (datagram) => {
        this.replies.push(datagram);
        if (this.#loses()) return;
        for (const reply of this.deliver(datagram)) await this.#front.send(reply, client);
        this.delivered = this.replies.length;
      });
    }
    return back;
  }

  async #carry(
    socket: Deno.DatagramConn,
    pass: (datagram: Uint8Array, from: Deno.NetAddr) => Promise<void>,
  ) {
    for await (const [datagram, from] of socket) {
      // A client that is gone, or a proxy that is closed, needs no answer any more.
      await pass(datagram, from as Deno.NetAddr).catch(() => {});
    }
  }

  [Symbol.dispose](): void {
    this.#front.close();
    for (const back of this.#backs.values()) back.close();
  }
}
