/**
 * The engine of a daemon in a cluster: it takes a range, or waits to take it, and serves as long as it is
 * its own. Deno's sockets, in the main thread, since its replies wait for another socket.
 */

import { ServingTime, TICK_MS } from "../clock.ts";
import { Counter, placeOf } from "../counters.ts";
import type { Engine, EngineOptions } from "../engine.ts";
import { isWildcard, joinHostPort } from "../../system/address.ts";
import { Follower } from "./follower.ts";
import { Lease } from "./lease.ts";
import { Membership } from "./membership.ts";
import type { MemberOptions } from "./options.ts";
import { Owner } from "./owner.ts";
import { ClusterError, knock, meaningOf } from "./primary.ts";
import { checkHead, type Head } from "./head.ts";
import { Owners } from "./owners.ts";
import { FencedError, Range } from "./range.ts";
import type { Node } from "./node.ts";
import { ConnectionError, RedisError } from "./resp.ts";
import { Watch, WATCH_MS } from "./watch.ts";

/** How often a standby looks for news, when there are none. */
const LOOK_MS = 50;
/** How often an owner looks who has the other ranges. */
const OWNERS_MS = 1000;
/** How long the cluster may take to answer for the first time. */
const PATIENCE_MS = 5000;
/** How long replicas may take to be there: those of a new cluster begin after 5 s, unless Redis is told otherwise. */
const REPLICAS_MS = 10_000;

export async function serveCluster(
  options: EngineOptions,
  member: MemberOptions,
): Promise<Engine> {
  const { hostname, port } = options;
  if (isWildcard(hostname)) {
    throw new RangeError(
      `Cannot listen on ${hostname} in a cluster: clients and other daemons are told this address; ` +
        "use --host with one of this host's",
    );
  }
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  const { hostname: bound, port: boundPort } = socket.addr as Deno.NetAddr;
  const engine = new ClusterEngine(options, member, socket, { hostname: bound, port: boundPort });
  try {
    await engine.start();
  } catch (error) {
    await engine.close();
    throw meaning(error);
  }
  options.state.service.counters[placeOf("engine", engine.name)] = 1;
  return engine;
}

/** What an error at the start means to an operator. */
function meaning(error: unknown): unknown {
  if (error instanceof RedisError) return meaningOf(error);
  if (!(error instanceof ConnectionError)) return error;
  return new ClusterError(
    `the cluster cannot be used: ${error.message}`,
    "--cluster with nodes that answer; docs/cluster.md shows how to start some",
  );
}

class ClusterEngine implements Engine {
  readonly name = "cluster";
  readonly keepsTime = true;
  readonly address: Node;
  readonly failed: Promise<never>;
  readonly #fail: (error: Error) => void;
  readonly #options: EngineOptions;
  readonly #member: MemberOptions;
  readonly #socket: Deno.DatagramConn;
  readonly #lease: Lease;
  readonly #owners: Owners;
  readonly #ended = new AbortController();
  #range: Range | undefined;
  #membership!: Membership;
  #owner: Owner | undefined;
  #serving: Promise<unknown> = Promise.resolve();

  constructor(
    options: EngineOptions,
    member: MemberOptions,
    socket: Deno.DatagramConn,
    address: Node,
  ) {
    this.#options = options;
    this.#member = member;
    this.#socket = socket;
    this.address = address;
    this.#lease = new Lease(member.lease);
    this.#owners = new Owners(member);
    const { promise, reject } = Promise.withResolvers<never>();
    promise.catch(() => {});
    this.failed = promise;
    this.#fail = reject;
  }

  /** What the ready line tells of it. */
  get details() {
    return {
      range: this.#range?.number,
      fence: this.#owner && this.#range?.fence,
      standby: this.#owner === undefined ? "yes" : undefined,
      copies: this.#member.copies,
      lease: `${this.#member.lease / 1000}s`,
    };
  }

  /** Resolves when it owns a range and serves, or follows as a standby. */
  async start(): Promise<void> {
    const { range, standby, check, nodes, access } = this.#member;
    await knock(nodes, access);
    const known = await this.#owners.changes(performance.now() + PATIENCE_MS) ?? new Map();
    if (check) await this.#check(range);
    else if (standby) await this.#follow(range!, known);
    else if (range === undefined) await this.#takeAny(known);
    else await this.#take(range, known);
  }

  async close(): Promise<void> {
    this.#ended.abort();
    await this.#owner?.close();
    try {
      this.#socket.close();
    } catch {
      // it has failed, and is closed
    }
    if (this.#owner !== undefined) await this.#range?.release().catch(() => {});
    this.#range?.close();
    this.#owners.close();
    await this.#serving;
  }

  get #isClosed(): boolean {
    return this.#ended.signal.aborted;
  }

  /** Looks whether a range that there is could be ours. */
  async #check(number = 0): Promise<void> {
    const range = this.#range = new Range(this.#member, number);
    const head = await range.head(performance.now() + PATIENCE_MS);
    if (head !== undefined && this.#member.range !== undefined) {
      checkHead(number, head, this.#options);
    }
    await range.probe(performance.now() + PATIENCE_MS);
    await this.#checkCopies(range);
  }

  /** Refuses a cluster of which too few nodes would have a new range. */
  async #checkCopies(range: Range): Promise<void> {
    const { copies } = this.#member;
    const until = performance.now() + REPLICAS_MS;
    let found: number;
    do {
      found = await range.countNodes(until);
      if (found >= copies) return;
      await this.#rest(LOOK_MS);
    } while (performance.now() < until);
    throw new ClusterError(
      `range ${range.number} lies on ${found} node${found === 1 ? "" : "s"} of the cluster that ` +
        `answer${found === 1 ? "s" : ""}, and --copies ${copies} needs ${copies}`,
      `more replicas, or --copies ${found}`,
    );
  }

  /** Takes a range as soon as the lease is over of whoever has it; if that is renewed, it is refused. */
  async #take(number: number, known: ReadonlyMap<number, Node>): Promise<void> {
    const until = performance.now() + this.#lease.ms + PATIENCE_MS;
    const range = this.#range = new Range(this.#member, number);
    for (;;) {
      const head = await range.head(until);
      const found = await this.#claim(range, head);
      if (found === undefined) break;
      if (performance.now() + found.ms > until) {
        throw new ClusterError(
          `range ${number} belongs to ${found.owner}, which renews its lease`,
          "--standby to take its place when it fails, or another --range",
        );
      }
      await this.#rest(found.ms);
    }
    await this.#serve(await this.#newFollower(range, known));
  }

  /** Takes the first range that has no owner, or makes a new one. */
  async #takeAny(known: ReadonlyMap<number, Node>): Promise<void> {
    for (let number = 0;; number++) {
      const range = this.#range = new Range(this.#member, number);
      const head = await range.head(performance.now() + PATIENCE_MS);
      if (head === undefined || isFit(number, head, this.#options)) {
        if (await this.#claim(range, head) === undefined) {
          return await this.#serve(await this.#newFollower(range, known));
        }
      }
      range.close();
    }
  }

  /** Follows a range that there is; what comes after that goes on by itself. */
  async #follow(number: number, known: ReadonlyMap<number, Node>): Promise<void> {
    const range = this.#range = new Range(this.#member, number);
    const head = await range.head(performance.now() + PATIENCE_MS);
    if (head === undefined) {
      throw new ClusterError(
        `there is no range ${number} to stand by for`,
        "a daemon that has it first",
      );
    }
    checkHead(number, head, this.#options);
    const follower = await this.#newFollower(range, known);
    this.#serving = this.#standBy(follower, head).catch((error) => this.#fail(error));
  }

  async #standBy(follower: Follower, head: Head): Promise<void> {
    const { trim, say } = this.#member;
    const range = this.#range!;
    while (!this.#isClosed) {
      const count = await follower.advance();
      // Not only at the end: under load there may always be something to read.
      if (follower.logged > Math.max(trim, follower.snapshotted)) {
        const logged = follower.logged;
        if (await follower.trim()) {
          say({
            msg: "trimmed",
            log: logged,
            snapshot: follower.snapshotted,
            at: follower.position,
          });
        }
      }
      if (count > 0) continue;
      if (await this.#claim(range, head) === undefined) {
        await this.#serve(follower);
        say({ msg: "took over", range: range.number, fence: range.fence });
        return;
      }
      await this.#rest(LOOK_MS);
    }
  }

  async #claim(range: Range, head: Head | undefined) {
    if (head !== undefined) checkHead(range.number, head, this.#options);
    else await this.#checkCopies(range); // what there is goes on, and waits for those that are gone
    return await range.claim(head, this.#options, this.address, this.#lease);
  }

  async #newFollower(range: Range, known: ReadonlyMap<number, Node>): Promise<Follower> {
    const membership = this.#membership = new Membership(range.number);
    this.#learn(known);
    return await Follower.of(range, this.#options, membership, this.address.port);
  }

  #learn(owners: ReadonlyMap<number, Node>): void {
    for (const [range, { hostname, port }] of owners) {
      this.#membership.setOwner(range, hostname, port);
    }
  }

  /** The range is ours: replays what is left of the log, and begins to answer. */
  async #serve(follower: Follower): Promise<void> {
    const range = this.#range!;
    const membership = this.#membership;
    membership.fence = range.fence;
    const renewing = this.#repeat(this.#lease.ms / 3, () => this.#renew());
    await follower.finish();
    range.logBytes = follower.logged;
    const { clock, counters } = this.#options.state.service;
    const owner = new Owner({ socket: this.#socket, range, lease: this.#lease, follower, clock });
    owner.failed.catch((error) => this.#fail(error));
    this.#owner = owner;
    const start = clock[0]!;
    const time = new ServingTime(performance.now());
    this.#repeat(TICK_MS, () => {
      Atomics.store(clock, 0, start + time.seconds(performance.now()));
      counters[Counter.held] = owner.heldBytes;
      counters[Counter.log] = range.logBytes;
      counters[Counter.copies] = range.copies;
      return Promise.resolve();
    });
    // The table may lie on a node that is down, and the range on one that is not.
    this.#owners.tell(range.number, this.address).then(
      () => this.#repeat(OWNERS_MS, () => this.#look()),
      (error) => this.#end(error),
    );
    const { trim, say } = this.#member;
    const watch = new Watch({ owner, range, lease: this.#lease, trim, say });
    this.#repeat(WATCH_MS, () => {
      watch.look();
      return Promise.resolve();
    });
    this.#serving = Promise.all([owner.serve(), renewing]);
  }

  async #renew(): Promise<void> {
    try {
      await this.#range!.renew(this.#lease);
      this.#owner?.renewed();
    } catch (error) {
      if (error instanceof FencedError || error instanceof ClusterError) this.#end(error);
      // All else passes, or the lease ends.
    }
  }

  #end(error: Error): void {
    if (this.#isClosed) return;
    this.#owner?.fail(error);
    this.#fail(error);
  }

  /** Learns who has the other ranges, and says again who has ours, if somebody who had it has said so since. */
  async #look(): Promise<void> {
    const owners = await this.#owners.changes().catch(() => undefined);
    if (owners === undefined) return;
    this.#learn(owners);
    const { number } = this.#range!;
    const told = owners.get(number);
    if (told !== undefined && joinHostPort(told) === joinHostPort(this.address)) return;
    if (this.#lease.holds) await this.#owners.tell(number, this.address).catch(() => {});
  }

  /** Does something again and again until this engine ends. */
  async #repeat(ms: number, work: () => Promise<void>): Promise<void> {
    for (;;) {
      await this.#rest(ms);
      if (this.#isClosed) return;
      await work();
    }
  }

  #rest(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    const end = () => {
      clearTimeout(timer);
      resolve();
    };
    const { signal } = this.#ended;
    signal.addEventListener("abort", end, { once: true });
    return promise.finally(() => signal.removeEventListener("abort", end));
  }
}

function isFit(number: number, head: Head, options: EngineOptions): boolean {
  try {
    checkHead(number, head, options);
    return true;
  } catch {
    return false;
  }
}
