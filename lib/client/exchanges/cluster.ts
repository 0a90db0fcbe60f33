/**
 * Many daemons as one: each call goes to the daemon that has the range of its pointer. Who that is, is
 * learned from the daemons themselves, and forgotten when one does not answer: its calls are then sent,
 * with the same tags and from the same port, to whoever has the range now. A malloc for which there is no
 * room in one range is asked for in the next.
 */

import {
  type Call,
  closedError,
  ElsewhereError,
  type Exchange,
  NoReplyError,
  RefusedError,
  RemoteError,
  unlessAborted,
  withResolvers,
} from "../exchange.ts";
import { type Cluster, decodeHello, type Hello } from "../hello.ts";
import { type MethodName, METHODS, PROTOCOL_VERSION } from "../../protocol/wire.ts";
import { TaggedExchange } from "./tagged.ts";
import { type Clock, peerOf, type Transport } from "../transport.ts";

const FIRST_BASE = 0xc420000000n;
const RANGE_SHIFT = 36n;

/** How long a daemon may take to tell who has a range, and how long to wait before it is asked again. */
const ASK_MS = 500;
const REST_MS = 100;

/** A daemon to ask who has which range. */
interface Guide {
  readonly exchange: TaggedExchange;
}

/** A range's daemon, as far as we know, and the port that we talk to it from. */
interface Owner {
  readonly range: number;
  readonly exchange: TaggedExchange;
  readonly transport: Transport;
  server: string;
  hello: Hello;
  /** While it is looked for; it never rejects. */
  seeking: Promise<void> | undefined;
}

export interface ClusterStart {
  /** The daemon that was reached first, and what it said. */
  readonly exchange: TaggedExchange;
  readonly transport: Transport;
  readonly server: string;
  readonly hello: Hello & { readonly cluster: Cluster };
  /** Others that may know where a range is. */
  readonly servers: readonly string[];
  readonly open: (server: string) => Promise<Transport>;
  readonly clock: Clock;
}

export class ClusterExchange implements Exchange {
  readonly protocol = "tagged";
  readonly chunk: number;
  readonly #owners = new Map<number, Promise<Owner>>();
  /** Of those that were found. */
  readonly #known = new Map<number, Owner>();
  readonly #guides = new Map<string, Promise<Guide>>();
  readonly #servers: Set<string>;
  readonly #open: ClusterStart["open"];
  readonly #clock: Clock;
  #ranges: number;
  /** The range of the daemon that was reached first: what names no place is asked of that one. */
  readonly #home: number;
  /** Where there was room the last time. */
  #roomy: number;
  #closed = false;
  /** Those that may turn out to be a range's daemon. */
  readonly #tried = new Set<TaggedExchange>();
  /** Ends those who rest. */
  readonly #resting = new Set<() => void>();

  constructor({ exchange, transport, server, hello, servers, open, clock }: ClusterStart) {
    this.chunk = exchange.chunk;
    this.#servers = new Set([server, ...servers]);
    this.#open = open;
    this.#clock = clock;
    this.#ranges = hello.cluster.ranges;
    this.#home = this.#roomy = hello.cluster.range;
    const owner = { range: this.#home, exchange, transport, server, hello, seeking: undefined };
    this.#adopt(owner);
    this.#owners.set(this.#home, Promise.resolve(owner));
  }

  call(call: Call): Promise<Uint8Array> {
    if (this.#closed) return Promise.reject(closedError(call));
    if (call.signal?.aborted) return Promise.reject(call.signal.reason);
    return unlessAborted(call.signal, this.#route(call)); // a range may have to be found first
  }

  async #route(call: Call): Promise<Uint8Array> {
    const pointer = pointerOf(call);
    const isNew = call.method === "malloc" || call.method === "realloc" && pointer === 0n;
    if (isNew) return await this.#allocate(call);
    return await this.#callIn(this.#rangeOf(pointer) ?? this.#home, call);
  }

  /** The epoch of the range that a call's pointer lies in; undefined if it has none or that is not known yet. */
  epochOf(method: MethodName, fields: readonly bigint[]): bigint | undefined {
    const pointer = pointerOf({ method, fields });
    return pointer === undefined
      ? undefined
      : this.#known.get(this.#rangeOf(pointer) ?? this.#home)?.hello.epoch;
  }

  /** What each range's daemon says now, in the order of the ranges; undefined where none answers in time. */
  async survey(timeout: number): Promise<({ server: string; hello: Hello } | undefined)[]> {
    await this.#callIn(this.#home, { method: "hello", fields: [], bodyLength: 40, timeout })
      .then((body) => this.#learn(decodeHello(body)), () => {});
    return await Promise.all(
      Array.from({ length: this.#ranges }, async (_, range) => {
        try {
          const owner = await this.#owner(range, timeout);
          owner.hello = decodeHello(await owner.exchange.begin(timeout, undefined));
          return { server: owner.server, hello: owner.hello };
        } catch {
          return undefined;
        }
      }),
    );
  }

  /** Says hello to all that are known, and takes over the sessions. Resolves with what the first one tells. */
  async renew(timeout: number, signal: AbortSignal | undefined): Promise<Hello> {
    const owners = [...this.#known.values()];
    await Promise.all(owners.map(async (owner) => {
      owner.hello = decodeHello(await owner.exchange.begin(timeout, signal));
    }));
    return owners[0]!.hello;
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const wake of this.#resting) wake();
    const owners = [...this.#known.values()];
    const guides = await Promise.allSettled(this.#guides.values());
    await Promise.all([
      ...[...this.#tried].map((exchange) => exchange.close()),
      ...owners.map(({ exchange }) => exchange.close()),
      ...guides.map((guide) => guide.status === "fulfilled" && guide.value.exchange.close()),
    ]);
    await Promise.allSettled([...this.#owners.values(), ...owners.map(({ seeking }) => seeking)]);
  }

  /** In the range where there was room, or else in the next one that has some. */
  async #allocate(call: Call): Promise<Uint8Array> {
    let refusal: unknown;
    for (let i = 0, first = this.#roomy; i < this.#ranges; i++) {
      const range = (first + i) % this.#ranges;
      try {
        const body = await this.#callIn(range, { ...call, epoch: undefined }); // it has no pointer
        this.#roomy = range;
        return body;
      } catch (error) {
        const isFull = error instanceof RefusedError && error.errno === "ENOMEM";
        // A range that has no daemon now has no room either.
        if (!isFull && !(error instanceof ElsewhereError)) throw error;
        if (refusal === undefined || isFull) refusal = error;
      }
    }
    throw refusal;
  }

  async #callIn(range: number, call: Call): Promise<Uint8Array> {
    const { exchange, hello } = this.#known.get(range) ?? await this.#owner(range, call.timeout);
    const epoch = call.method === "hello" ? undefined : call.epoch ?? hello.epoch;
    return await exchange.call({ ...call, epoch });
  }

  /** The range of a pointer; undefined if it is none of the ranges, so that any daemon can refuse it. */
  #rangeOf(pointer: bigint | undefined): number | undefined {
    if (pointer === undefined || pointer < FIRST_BASE) return undefined;
    const range = Number((pointer - FIRST_BASE) >> RANGE_SHIFT);
    return range < this.#ranges ? range : undefined;
  }

  #owner(range: number, timeout: number): Promise<Owner> {
    const known = this.#owners.get(range);
    if (known !== undefined) return known;
    const finding = this.#find(range, timeout);
    this.#owners.set(range, finding);
    finding.catch(() => this.#owners.delete(range));
    return finding;
  }

  /** Finds a range's daemon for the first time. */
  async #find(range: number, timeout: number): Promise<Owner> {
    const deadline = this.#clock.now() + timeout;
    for (;;) {
      const server = await this.#locate(range);
      const left = deadline - this.#clock.now();
      if (this.#closed || server === undefined && left < REST_MS) {
        throw new ElsewhereError(`hello() of range ${range}`, undefined);
      }
      if (server !== undefined) {
        const transport = await this.#open(server);
        const exchange = new TaggedExchange(transport, this.#clock);
        this.#tried.add(exchange);
        if (this.#closed) await exchange.close();
        try {
          const hello = decodeHello(await exchange.begin(Math.max(left, REST_MS), undefined));
          if (this.#learn(hello).range === range) {
            const owner = { range, exchange, transport, server, hello, seeking: undefined };
            this.#adopt(owner);
            return owner;
          }
        } catch (error) {
          if (left < REST_MS || !(error instanceof NoReplyError)) {
            await exchange.close();
            throw error;
          }
        } finally {
          this.#tried.delete(exchange);
        }
        await exchange.close();
      }
      await this.#rest();
    }
  }

  #adopt(owner: Owner): void {
    const { exchange, range, server } = owner;
    this.#known.set(range, owner);
    this.#servers.add(server);
    // A daemon that says that it has another range now was restarted: where ours is, others know better.
    exchange.onElsewhere = (to) => this.#follow(owner, to);
    exchange.onSilence = () => {
      if (!this.#closed) owner.seeking ??= this.#seek(owner);
    };
  }

  /** Sends what is under way to a daemon, and what will be, somewhere else. It never rejects. */
  async #follow(owner: Owner, server: string | undefined): Promise<void> {
    if (server === undefined || server === owner.server) return;
    const before = owner.server;
    owner.server = server;
    this.#servers.add(server);
    try {
      await owner.transport.redirect?.(await peerOf(server));
    } catch {
      owner.server = before; // it is looked for again as long as somebody waits
    }
  }

  /** Looks for the daemon of a range as long as somebody waits for an answer of it. */
  async #seek(owner: Owner): Promise<void> {
    await this.#follow(owner, await this.#locate(owner.range));
    await this.#rest();
    owner.seeking = undefined;
  }

  /** Asks all whom we know who has a range. Who says that it has it itself is believed before others. */
  async #locate(range: number): Promise<string | undefined> {
    const pointer = FIRST_BASE + (BigInt(range) << RANGE_SHIFT);
    let told: string | undefined;
    const answers = [...this.#servers].map(async (server) => {
      const { exchange } = await this.#guide(server);
      const hello = decodeHello(await exchange.begin(ASK_MS, undefined));
      if (this.#learn(hello).range === range) return server;
      try {
        const call = {
          method: "read",
          fields: [pointer, 0n],
          bodyLength: 0,
          timeout: ASK_MS,
        } as const;
        await exchange.call(call);
      } catch (error) {
        if (error instanceof ElsewhereError) told ??= error.owner;
      }
      throw undefined; // it is not this one
    });
    return await Promise.any(answers).catch(() => told);
  }

  #guide(server: string): Promise<Guide> {
    if (this.#closed) {
      return Promise.reject(new DOMException("the remote was closed", "AbortError"));
    }
    const known = this.#guides.get(server);
    if (known !== undefined) return known;
    const opening = this.#open(server).then((transport) => ({
      exchange: new TaggedExchange(transport, this.#clock),
    }));
    this.#guides.set(server, opening);
    opening.catch(() => this.#guides.delete(server));
    return opening;
  }

  #learn(hello: Hello): Cluster {
    const { version, cluster } = hello;
    if (version !== PROTOCOL_VERSION) {
      throw new RemoteError(
        `a daemon of the cluster speaks version ${version} of the protocol, and this client ${PROTOCOL_VERSION}`,
        "hello()",
      );
    }
    if (cluster === undefined) {
      throw new RemoteError("a daemon is not part of the cluster", "hello()");
    }
    this.#ranges = Math.max(this.#ranges, cluster.ranges);
    return cluster;
  }

  async #rest(): Promise<void> {
    if (this.#closed) return;
    const { promise, resolve } = withResolvers<void>();
    const cancel = this.#clock.after(REST_MS, resolve);
    this.#resting.add(resolve);
    await promise;
    this.#resting.delete(resolve);
    cancel();
  }
}

/** Where a call goes to: what it names first, if its method names a place. */
function pointerOf({ method, fields }: Pick<Call, "method" | "fields">): bigint | undefined {
  return METHODS[method].request[0] === "pointer" ? fields[0] : undefined;
}
