/**
 * A network and a time of their own for the real client library and the real service. Datagrams are
 * lost, doubled, delayed and so reordered by a seeded generator; time jumps to the next event as soon
 * as nothing is left to do at the present one. So a seed stands for one history, and hours take seconds.
 */

import { setImmediate } from "node:timers";
import type { Clock, Transport } from "../../lib/client/transport.ts";
import { Box, type BoxOptions, Random } from "../testing.ts";

/** What a datagram has to go through, either way. */
export interface Weather {
  /** Probabilities. */
  loss: number;
  duplication: number;
  /** Milliseconds; datagrams that are sent within the difference overtake each other. */
  shortestDelay: number;
  longestDelay: number;
  /** The probability of a delay that is longer by far, so that a copy comes when all is over. */
  straggling: number;
}

export const FAIR: Weather = {
  loss: 0,
  duplication: 0,
  shortestDelay: 1,
  longestDelay: 1,
  straggling: 0,
};

/** Delays are longer than the first wait of a client, so that some requests are repeated needlessly. */
export const FOUL: Weather = {
  loss: 0.2,
  duplication: 0.1,
  shortestDelay: 1,
  longestDelay: 80,
  straggling: 0.01,
};

/** Milliseconds; together with a call's timeout less than the daemon remembers its replies. */
const LONGEST_STRAGGLE = 9_000;

interface Event {
  readonly time: number;
  then: (() => void) | undefined;
}

/** The address of all clients; the daemon tells them apart by their ports. */
const HOST = "10.0.0.1";
/** Admitted, so that clients need no token to be answered at length. */
export const NETWORK = ["10.0.0.0/8"];

export class Simulation implements Clock {
  weather: Weather;
  /** The daemon; undefined while it is down. */
  daemon: Box | undefined;
  /** Called before each datagram is served. */
  onRequest: (daemon: Box) => void = () => {};
  readonly #random: Random;
  #now = 0;
  /** The next event is the last. */
  readonly #events: Event[] = [];
  #nextPort = 40000;

  constructor(seed: number, weather: Weather, daemon: BoxOptions) {
    this.#random = new Random(seed);
    this.weather = weather;
    this.daemon = new Box({ allow: NETWORK, ...daemon });
  }

  now(): number {
    return this.#now;
  }

  random(): number {
    return this.#random.word() / 2 ** 32;
  }

  after(ms: number, then: () => void): () => void {
    const event: Event = { time: this.#now + ms, then };
    let low = 0;
    let high = this.#events.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#events[middle]!.time > event.time) low = middle + 1;
      else high = middle;
    }
    this.#events.splice(low, 0, event);
    return () => event.then = undefined;
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  /** Lets time pass until `work` has settled. Throws if it waits for something that cannot happen. */
  async run<T>(work: Promise<T>): Promise<T> {
    let settled = false;
    const note = () => settled = true;
    work.then(note, note);
    while (true) {
      await microtasks();
      if (settled) return await work;
      if (!this.#step()) throw new Error("The simulation is stuck: no event is left");
    }
  }

  /** Lets time pass until nothing is left to happen, so that no datagram is on its way any more. */
  async drain(): Promise<void> {
    do await microtasks(); while (this.#step());
  }

  #step(): boolean {
    const event = this.#events.pop();
    if (event?.then === undefined) return event !== undefined;
    this.#now = event.time;
    event.then();
    return true;
  }

  /** A client's socket. */
  transport(): Transport {
    let port: number | undefined = this.#nextPort++;
    const transport: Transport = {
      server: "the simulated daemon",
      jumbo: false, // so that datagrams are small, and many
      onDatagram: () => {},
      send: (datagram) => {
        const from = port;
        this.#carry(datagram, (request) => {
          const reply = from === undefined ? undefined : this.#serve(request, from);
          if (reply === undefined) return;
          this.#carry(reply, (copy) => {
            if (port === from) transport.onDatagram(copy);
          });
        });
        return Promise.resolve();
      },
      renew: () => {
        port = this.#nextPort++;
        return Promise.resolve();
      },
      isAbsent: () => false,
      close: () => {
        port = undefined;
        return Promise.resolve();
      },
    };
    return transport;
  }

  #serve(request: Uint8Array, port: number): Uint8Array | undefined {
    if (this.daemon === undefined) return undefined;
    this.daemon.clock[0] = this.#now / 1000;
    this.onRequest(this.daemon);
    this.daemon.from(HOST, port);
    return this.daemon.askBytes(request);
  }

  #carry(datagram: Uint8Array, arrive: (copy: Uint8Array) => void): void {
    const { loss, duplication, shortestDelay, longestDelay, straggling } = this.weather;
    const bytes = datagram.slice();
    const copies = this.#random.chance(duplication) ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (this.#random.chance(loss)) continue;
      const longest = this.#random.chance(straggling) ? LONGEST_STRAGGLE : longestDelay;
      const delay = shortestDelay + (longest - shortestDelay) * this.random();
      this.after(delay, () => arrive(bytes));
    }
  }
}

/** Resolves when all promise reactions have run: a macrotask begins only then. */
function microtasks(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
