/**
 * The client side of the tagged protocol: any number of calls in flight over one socket, told apart by
 * their tags. A call is sent again, with the same tag, until it is answered: the daemon's duplicate
 * request cache makes that harmless. Calls that are made in one turn of the event loop share datagrams.
 * Each datagram says in what session it is (docs/protocol.md, section 6.14): a daemon that was restarted
 * does nothing with pointers of before.
 */

import {
  type Call,
  closedError,
  describe,
  ElsewhereError,
  type Exchange,
  FIRST_WAIT_MS,
  NoReplyError,
  NotThereError,
  RefusedError,
  StaleEpochError,
  takeBody,
  untilAborted,
  withResolvers,
} from "../exchange.ts";
import {
  decodeReply,
  encodeRequest,
  FIELD,
  METHODS,
  OWNER_BODY,
  Reply,
  REPLY_BODY,
  REPLY_HEAD,
  SESSION,
  type Session,
} from "../../protocol/wire.ts";
import { ERRNO } from "../../protocol/errno.ts";
import { formatAddress, joinHostPort } from "../../system/address.ts";
import type { Clock, Transport } from "../transport.ts";

/** Retransmission: each wait is twice the one before, up to this, with jitter. */
const LONGEST_WAIT_MS = 1000;
/** From this wait on the daemon is taken for one that is gone. */
const SILENCE_MS = 8 * FIRST_WAIT_MS;
/** How often the calls in flight are looked through, at the most. */
const SHORTEST_WAIT_MS = 5;

/** The most that a datagram carries, either way: no fragments on a network, few calls on loopback. */
const NETWORK_DATAGRAM = 1400;
const JUMBO_DATAGRAM = 60 * 1024;

/** Bytes in flight, requests and expected replies: about what a default socket buffer takes. */
const WINDOW = 128 * 1024;

/**
 * Into how many parts a share of the duplicate request cache may fall when strangers come: 64 accounts
 * for all who have proven nothing (docs/protocol.md, section 6.4). None of them is on loopback.
 */
const WORST_SPLIT = 65;

/**
 * How many calls, from the oldest unanswered one on, may be under way where `entries` replies are remembered.
 * It is half of them: those that are carried out after a call are as many before it in line, which were lost
 * at first, as behind it.
 */
function leadOf(entries: number): number {
  return Math.max(1, Math.floor((entries + 1) / 2));
}

interface Pending extends Call {
  readonly tag: number;
  /** Of those that are remembered and were admitted, in their order. */
  serial: number;
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
  /** An errno with which it was refused for now; 0 if it was not. */
  refusedWith: number;
}

/** Where token and share lie in the reply to a hello in a session. */
const TOKEN_AT = 5 * FIELD;
const SHARE_AT = TOKEN_AT + FIELD;

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
  /** Calls in flight that the daemon will remember, oldest first, and how many there have been. */
  readonly #remembered = new Set<Pending>();
  #serial = 0;
  /**
   * How far they may run ahead of the oldest one that is unanswered, so that no reply is forgotten while its
   * call can still be sent again: it would be carried out again.
   */
  #lead = Infinity;
  #nextTag: number;
  #flushing = false;
  #closed = false;
  /** The one timer: when it goes off, Infinity if it is not set. */
  #wake = Infinity;
  #cancelTimer: () => void = () => {};
  readonly #reply = new Reply();
  /** Undefined for a daemon of version 1, which knows no sessions. */
  #session: Session | undefined = { epoch: 0n, token: 0n };
  #proving = false;
  /**
   * In a cluster: called when a call has waited for long, and with the address of the daemon that has its
   * range instead, if it is known. The call goes on, to wherever the transport then leads.
   */
  onSilence: (() => void) | undefined;
  onElsewhere: ((owner: string | undefined) => void) | undefined;

  constructor(transport: Transport, clock: Clock) {
    this.#transport = transport;
    this.#clock = clock;
    const datagramSize = transport.jumbo ? JUMBO_DATAGRAM : NETWORK_DATAGRAM;
    this.chunk = datagramSize - SESSION - 3 * FIELD;
    this.#datagram = new DataView(new ArrayBuffer(datagramSize));
    this.#nextTag = Math.floor(clock.random() * 2 ** 32);
    transport.onDatagram = (datagram) => this.#take(datagram);
  }

  call(call: Call): Promise<Uint8Array> {
    if (this.#closed) return Promise.reject(closedError(call));
    if (call.signal?.aborted) return Promise.reject(call.signal.reason);
    if (this.#isStale(call)) return Promise.reject(new StaleEpochError(describe(call)));
    const { promise, resolve, reject } = withResolvers<Uint8Array>();
    const request = FIELD * (call.fields.length + 1) + (call.data?.length ?? 0);
    const pending: Pending = {
      ...call,
      tag: this.#takeTag(),
      serial: 0,
      cost: Math.max(request, REPLY_HEAD + call.bodyLength),
      resolve,
      reject,
      admitted: false,
      deadline: Infinity,
      wait: FIRST_WAIT_MS,
      due: Infinity,
      settled: false,
      refusedWith: 0,
    };
    this.#pending.set(pending.tag, pending);
    this.#waiting.add(pending);
    this.#scheduleFlush();
    return untilAborted(call, promise, (reason) => this.#settle(pending, () => reject(reason)));
  }

  /**
   * Says hello, and takes over the session that it begins. Resolves with the reply's body. Calls that are
   * pending with another epoch are rejected: they must not be sent again in this one.
   */
  async begin(timeout: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const hello = helloCall(timeout, signal);
    let body: Uint8Array;
    try {
      body = await this.call(hello);
    } catch (error) {
      const isOld = error instanceof RefusedError && error.errno === "EINVAL";
      if (!isOld || this.#session === undefined) throw error;
      this.#session = undefined;
      return await this.call(hello);
    }
    if (this.#session === undefined) return body;
    this.#session.epoch = new DataView(body.buffer, body.byteOffset).getBigUint64(0);
    for (const call of this.#pending.values()) {
      if (!this.#isStale(call)) continue;
      this.#settle(call, () => call.reject(new StaleEpochError(describe(call))));
    }
    return body;
  }

  #isStale({ epoch }: Call): boolean {
    return epoch !== undefined && this.#session !== undefined && epoch !== this.#session.epoch;
  }

  /** Gets a token that is good, for what was refused without one is sent again when it is due. */
  async #prove(timeout: number): Promise<void> {
    if (this.#proving) return;
    this.#proving = true;
    await this.call(helloCall(timeout, undefined)).catch(() => {}); // the calls that want it have a timeout
    this.#proving = false;
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
    if (this.#inFlight > 0 && this.#inFlight + call.cost > WINDOW) return false;
    const [oldest] = this.#remembered;
    return oldest === undefined || METHODS[call.method].changesNothing ||
      this.#serial - oldest.serial < this.#lead;
  }

  #admit(call: Pending): void {
    this.#waiting.delete(call);
    this.#inFlight += call.cost;
    call.admitted = true;
    if (METHODS[call.method].changesNothing) return;
    call.serial = this.#serial++;
    this.#remembered.add(call);
  }

  /** Sends what may be sent, in as few datagrams as possible. */
  async #flush(): Promise<void> {
    const batch = this.#repeats;
    this.#repeats = [];
    for (const call of this.#waiting) {
      if (!this.#isRoomFor(call)) break;
      this.#admit(call);
      batch.push(call);
    }
    let now = this.#clock.now();
    let length = 0;
    let cost = SESSION;
    for (const call of batch) {
      // Hello comes first: the session flag, by which it tells more, is for the first of a datagram.
      const isFull = cost + call.cost > this.#datagram.byteLength;
      if (length > 0 && (isFull || call.method === "hello")) {
        await this.#send(length, cost);
        length = 0;
        cost = SESSION;
        now = this.#clock.now();
      }
      // Whoever gave it up, perhaps just now, may be using its data for something else.
      if (call.settled) continue;
      const { tag, method, fields, data } = call;
      length += encodeRequest(this.#datagram, length, method, fields, {
        tag,
        ...(data && { data }),
        ...(length === 0 && this.#session && { session: this.#session }),
      });
      cost += call.cost;
      this.#arm(call, now);
    }
    if (length > 0) await this.#send(length, cost);
  }

  /** What the kernel would not take is as good as lost: the retransmission sends it again. */
  async #send(length: number, most: number): Promise<void> {
    // Nothing but a hello is so short. Zeros make room for what a cluster tells to a stranger.
    if (length === FIELD + SESSION && !this.#transport.jumbo) {
      this.#datagram.setBigUint64(length, 0n);
      length += FIELD;
    }
    const datagram = new Uint8Array(this.#datagram.buffer, 0, length);
    await this.#transport.send(datagram, most).catch(() => {});
  }

  /** What was too much at once has been done in part: it is sent again without delay, until it is whole. */
  #sendOn(call: Pending): void {
    call.refusedWith = ERRNO.EAGAIN;
    if (call.due === Infinity) return; // it is about to be
    call.wait = FIRST_WAIT_MS;
    call.due = Infinity;
    this.#repeats.push(call);
    this.#scheduleFlush();
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
    let silent = false;
    let absent: boolean | undefined; // asked once, if something is overdue
    for (const call of this.#pending.values()) {
      if (now < call.due && now < call.deadline) {
        next = Math.min(next, call.due);
        continue;
      }
      absent ??= this.#transport.isAbsent();
      if (absent || now >= call.deadline) {
        const asked = describe(call);
        const Reason = absent ? NotThereError : NoReplyError;
        const error = call.refusedWith !== 0
          ? RefusedError.fromErrno(asked, call.refusedWith)
          : new Reason(asked, this.#transport.server, call.timeout);
        this.#settle(call, () => call.reject(error));
      } else {
        call.due = Infinity; // until it is sent
        if (call.wait >= SILENCE_MS) silent = true;
        this.#repeats.push(call);
      }
    }
    if (silent) this.onSilence?.();
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
      const isHello = call.method === "hello";
      if (!isHello && status === ERRNO.EPERM) {
        call.refusedWith = status; // nothing was done: it is sent again when it is due
        this.#prove(call.timeout);
        continue;
      }
      if (status === ERRNO.EAGAIN) {
        this.#sendOn(call);
        continue;
      }
      if (status === ERRNO.EREMOTE && this.onElsewhere !== undefined) {
        call.refusedWith = status; // nothing was done here, but perhaps before: it keeps its tag
        this.onElsewhere(ownerOf(bytes, reply));
        continue;
      }
      const body = takeBody(datagram.subarray(reply.body, reply.body + reply.bodyLength), call);
      const tellsToken = isHello && status === 0 && body.length >= SHARE_AT + FIELD;
      if (tellsToken && this.#session !== undefined) {
        this.#session.token = bytes.getBigUint64(reply.body + TOKEN_AT);
        const share = Number(bytes.getBigUint64(reply.body + SHARE_AT));
        this.#lead = leadOf(share / (this.#transport.jumbo ? 1 : WORST_SPLIT));
      }
      this.#settle(call, () => {
        if (status === ERRNO.ESTALE) call.reject(new StaleEpochError(describe(call)));
        else if (status === ERRNO.EREMOTE) {
          call.reject(new ElsewhereError(describe(call), ownerOf(bytes, reply)));
        } else if (status !== 0) {
          const reason = status === ERRNO.ENOEXEC ? new TextDecoder().decode(body) : "";
          call.reject(RefusedError.fromErrno(describe(call), status, reason));
        } else if (body.length === call.bodyLength || call.anyLength || tellsToken) {
          call.resolve(body);
        } else call.reject(new RefusedError(describe(call), undefined, "reply of a wrong length"));
      });
    }
  }

  #settle(call: Pending, outcome: () => void): void {
    if (call.settled) return;
    call.settled = true;
    this.#pending.delete(call.tag);
    this.#remembered.delete(call);
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

/** Whom a reply of status EREMOTE names; undefined if that is nobody. */
function ownerOf(bytes: DataView, { body, bodyLength }: Reply): string | undefined {
  if (bodyLength !== OWNER_BODY) return undefined;
  const port = bytes.getUint32(body + OWNER_BODY - 4);
  return port === 0 ? undefined : joinHostPort({ hostname: formatAddress(bytes, body), port });
}

function helloCall(timeout: number, signal: AbortSignal | undefined): Call {
  const bodyLength = REPLY_BODY[METHODS.hello.opcode]!;
  return { method: "hello", fields: [], bodyLength, timeout, signal };
}
