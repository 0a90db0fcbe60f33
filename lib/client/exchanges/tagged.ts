/**
 * The client side of the tagged protocol: any number of calls in flight over one socket, told apart by
 * their tags. A call is sent again, with the same tag, until it is answered: the daemon's duplicate
 * request cache makes that harmless. Calls that are made in one turn of the event loop share datagrams.
 */

import {
  type Call,
  closedError,
  describe,
  type Exchange,
  FIRST_WAIT_MS,
  NoReplyError,
  NotThereError,
  RefusedError,
  untilAborted,
  withResolvers,
} from "../exchange.ts";
import {
  decodeReply,
  encodeRequest,
  FIELD,
  METHODS,
  Reply,
  REPLY_HEAD,
} from "../../protocol/wire.ts";
import type { Clock, Transport } from "../transport.ts";

/** Retransmission: each wait is twice the one before, up to this, with jitter. */
const LONGEST_WAIT_MS = 1000;
/** How often the calls in flight are looked through, at the most. */
const SHORTEST_WAIT_MS = 5;

/** The most that a datagram carries, either way: no fragments on a network, few calls on loopback. */
const NETWORK_DATAGRAM = 1400;
const JUMBO_DATAGRAM = 60 * 1024;

/** Bytes in flight, requests and expected replies: about what a default socket buffer takes. */
const WINDOW = 128 * 1024;

interface Pending extends Call {
  readonly tag: number;
  /** Bytes of request and reply, whichever is more. */
  readonly cost: number;
  readonly resolve: (body: Uint8Array) => void;
  readonly reject: (reason: unknown) => void;
  /** Whether its cost is part of what is in flight. */
  admitted: boolean;
  /** When it is given up; Infinity until it is sent. */
  deadline: number;
  wait: number;
  /** When it is to be sent again; Infinity until it is sent. */
  due: number;
  settled: boolean;
}

export class TaggedExchange implements Exchange {
  readonly protocol = "tagged";
  readonly chunk: number;
  readonly #transport: Transport;
  readonly #clock: Clock;
  /** The datagram that is being filled or sent. */
  readonly #datagram: DataView<ArrayBuffer>;
  readonly #pending = new Map<number, Pending>();
  /** Calls that wait for room in the window, and calls to be sent again, which have their room. */
  readonly #waiting = new Set<Pending>();
  #repeats: Pending[] = [];
  #inFlight = 0;
  #nextTag: number;
  #flushing = false;
  #closed = false;
  /** The one timer: when it goes off, Infinity if it is not set. */
  #wake = Infinity;
  #cancelTimer: () => void = () => {};
  readonly #reply = new Reply();

  constructor(transport: Transport, clock: Clock) {
    this.#transport = transport;
    this.#clock = clock;
    const datagramSize = transport.jumbo ? JUMBO_DATAGRAM : NETWORK_DATAGRAM;
    this.chunk = datagramSize - 3 * FIELD;
    this.#datagram = new DataView(new ArrayBuffer(datagramSize));
    this.#nextTag = Math.floor(clock.random() * 2 ** 32);
    transport.onDatagram = (datagram) => this.#take(datagram);
  }

  call(call: Call): Promise<Uint8Array> {
    if (this.#closed) return Promise.reject(closedError(call));
    if (call.signal?.aborted) return Promise.reject(call.signal.reason);
    const { promise, resolve, reject } = withResolvers<Uint8Array>();
    const request = FIELD * (call.fields.length + 1) + (call.data?.length ?? 0);
    const pending: Pending = {
      ...call,
      tag: this.#takeTag(),
      cost: Math.max(request, REPLY_HEAD + call.bodyLength),
      resolve,
      reject,
      admitted: false,
      deadline: Infinity,
      wait: FIRST_WAIT_MS,
      due: Infinity,
      settled: false,
    };
    this.#pending.set(pending.tag, pending);
    this.#waiting.add(pending);
    this.#scheduleFlush();
    return untilAborted(call, promise, (reason) => this.#settle(pending, () => reject(reason)));
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const call of this.#pending.values()) {
      this.#settle(call, () => call.reject(closedError(call)));
    }
    await this.#transport.close();
  }

  #takeTag(): number {
    do this.#nextTag = (this.#nextTag + 1) >>> 0; while (this.#pending.has(this.#nextTag));
    return this.#nextTag;
  }

  #scheduleFlush(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(async () => {
      do await this.#flush(); while (this.#repeats.length > 0 || this.#isRoomForNext());
      this.#flushing = false;
    });
  }

  #isRoomForNext(): boolean {
    const [next] = this.#waiting;
    return next !== undefined && this.#isRoomFor(next);
  }

  #isRoomFor(call: Pending): boolean {
    return this.#inFlight === 0 || this.#inFlight + call.cost <= WINDOW;
  }

  /** Sends what may be sent, in as few datagrams as possible. */
  async #flush(): Promise<void> {
    const batch = this.#repeats;
    this.#repeats = [];
    for (const call of this.#waiting) {
      if (!this.#isRoomFor(call)) break;
      this.#waiting.delete(call);
      this.#inFlight += call.cost;
      call.admitted = true;
      batch.push(call);
    }
    let now = this.#clock.now();
    let length = 0;
    let cost = 0;
    for (const call of batch) {
      if (cost > 0 && cost + call.cost > this.#datagram.byteLength) {
        await this.#send(length, cost);
        length = cost = 0;
        now = this.#clock.now();
      }
      // Whoever gave it up, perhaps just now, may be using its data for something else.
      if (call.settled) continue;
      const { tag, method, fields, data } = call;
      length += encodeRequest(this.#datagram, length, method, fields, {
        tag,
        ...(data && { data }),
      });
      cost += call.cost;
      this.#arm(call, now);
    }
    if (length > 0) await this.#send(length, cost);
  }

  /** What the kernel would not take is as good as lost: the retransmission sends it again. */
  async #send(length: number, most: number): Promise<void> {
    const datagram = new Uint8Array(this.#datagram.buffer, 0, length);
    await this.#transport.send(datagram, most).catch(() => {});
  }

  /** Says when a call that is being sent will be sent again. */
  #arm(call: Pending, now: number): void {
    if (call.deadline === Infinity) call.deadline = now + call.timeout;
    const jittered = call.wait * (0.75 + this.#clock.random() / 2);
    call.wait = Math.min(2 * call.wait, LONGEST_WAIT_MS);
    call.due = Math.min(now + jittered, call.deadline);
    this.#wakeAt(call.due);
  }

  /** There is one timer for all calls, so that those which are due together travel together. */
  #wakeAt(time: number): void {
    if (time >= this.#wake) return;
    this.#cancelTimer();
    this.#wake = time;
    const wait = Math.max(time - this.#clock.now(), SHORTEST_WAIT_MS);
    this.#cancelTimer = this.#clock.after(wait, () => this.#wakeUp());
  }

  #wakeUp(): void {
    const now = this.#clock.now();
    this.#wake = Infinity;
    let next = Infinity;
    let absent: boolean | undefined; // asked once, if something is overdue
    for (const call of this.#pending.values()) {
      if (now < call.due && now < call.deadline) {
        next = Math.min(next, call.due);
        continue;
      }
      absent ??= this.#transport.isAbsent();
      if (absent || now >= call.deadline) {
        const Reason = absent ? NotThereError : NoReplyError;
        const error = new Reason(describe(call), this.#transport.server, call.timeout);
        this.#settle(call, () => call.reject(error));
      } else {
        call.due = Infinity; // until it is sent
        this.#repeats.push(call);
      }
    }
    if (this.#repeats.length > 0) this.#scheduleFlush();
    if (next !== Infinity) this.#wakeAt(next);
  }

  /** Hands out the replies of one datagram. What is not an answer to a pending call is ignored. */
  #take(datagram: Uint8Array): void {
    const bytes = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
    const reply = this.#reply;
    for (let at = 0; decodeReply(bytes, at, datagram.length, reply); at += reply.size) {
      const call = this.#pending.get(reply.tag);
      if (call === undefined || METHODS[call.method].opcode !== reply.opcode) continue;
      const { status } = reply;
      const body = datagram.slice(reply.body, reply.body + reply.bodyLength);
      this.#settle(call, () => {
        if (status !== 0) call.reject(RefusedError.fromErrno(describe(call), status));
        else if (body.length === call.bodyLength) call.resolve(body);
        else call.reject(new RefusedError(describe(call), undefined, "reply of a wrong length"));
      });
    }
  }

  #settle(call: Pending, outcome: () => void): void {
    if (call.settled) return;
    call.settled = true;
    this.#pending.delete(call.tag);
    if (this.#pending.size === 0) {
      this.#cancelTimer();
      this.#wake = Infinity;
    }
    if (call.admitted) this.#inFlight -= call.cost;
    else this.#waiting.delete(call);
    outcome();
    if (this.#waiting.size > 0) this.#scheduleFlush();
  }
}
