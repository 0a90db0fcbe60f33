/** A network between clients and a daemon, which can lose datagrams, and which remembers what it carried. */

import { Random } from "../testing.ts";

export interface ProxyOptions {
  /** The share of the datagrams that is lost, each way. */
  loss?: number;
  seed?: number;
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

  constructor(port: number, { loss = 0, seed = 1 }: ProxyOptions = {}) {
    this.#daemon = { transport: "udp", hostname: "127.0.0.1", port };
    this.#loss = loss;
    this.#random = new Random(seed);
    this.#carry(this.#front, async (datagram, client) => {
      this.requests.push(datagram);
      if (!this.#loses()) await this.#back(client).send(datagram, this.#daemon);
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
        if (!this.#loses()) await this.#front.send(datagram, client);
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
