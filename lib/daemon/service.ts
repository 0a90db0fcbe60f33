/**
 * The daemon's answer to a datagram: bytes in, bytes out, and nothing else. It is synchronous, total
 * over any bytes, and makes no garbage. Engines, the simulator and the tests all drive `serve`.
 */

import { Admission, ADMITTED } from "./admission.ts";
import type { Membership } from "./cluster/membership.ts";
import { askFor, ChoreFigure, failureOf } from "./chore.ts";
import { Counter, type Counters } from "./counters.ts";
import { type Heap, NULL } from "../heap/heap.ts";
import type { Undo } from "../heap/undo.ts";
import {
  CHANGES_NOTHING,
  CLUSTER_REPLY_BODY,
  Decoded,
  decodeRequest,
  encodeReplyHead,
  FIELD,
  fieldAt,
  FIRST_VERSION,
  Flag,
  MAX_DATAGRAM,
  METHODS,
  OWNER_BODY,
  PROTOCOL_VERSION,
  REPLY_BODY,
  REPLY_HEAD,
  Request,
  requestSize,
  SESSION,
  SESSION_REPLY_BODY,
  setField,
  STATS_NAMES,
  STATS_VALUES,
  Word,
  wordAt,
} from "../protocol/wire.ts";
import { ERRNO } from "../protocol/errno.ts";
import { ERRNO_OF, Refusal } from "./refusal.ts";
import type { Procedures } from "./procedures/procedures.ts";
import { Quota } from "./quota.ts";
import { ReplyBudget } from "./reply_budget.ts";
import { Stats } from "./stats.ts";
import type { State } from "./state.ts";
import { Tokens } from "./token.ts";
import { isLoopbackSource, sourceHead } from "../system/address.ts";
import {
  DuplicateRequestCache,
  NO_ROOM,
  OTHER_REQUEST,
  UNSEEN,
} from "./duplicate_request_cache.ts";

/** No datagram goes back. A reply of 0 bytes does: it is how a classic read is refused. */
export const NO_REPLY = -1;

/**
 * So many times the bytes of a datagram may go back to a sender that has not proven its address
 * (RFC 9000, section 8.1).
 */
export const AMPLIFICATION = 3;

/**
 * Bytes that may be moved and cleared in one turn, after which the replies of all its datagrams leave: a few
 * milliseconds, most of them the kernel's where the pages were never touched (docs/operations.md).
 */
export const WORK_PER_TURN = 2 * 1024 ** 2;

/** Bytes of a text that says why. */
const MAX_REASON = 256;

/** Replies that one datagram can carry: at the least, each is a head. */
const MAX_REPLIES = Math.floor(MAX_DATAGRAM / REPLY_HEAD);

/** Where requests are counted by opcode, what they were about, and refusals by number. */
const { requests: REQUESTS, payload: PAYLOAD, refused: REFUSALS } = Counter;

const MALLOC = METHODS.malloc.opcode;
const FREE = METHODS.free.opcode;
const READ = METHODS.read.opcode;
const WRITE = METHODS.write.opcode;
const REALLOC = METHODS.realloc.opcode;
const CAS = METHODS.cas.opcode;
const ADD = METHODS.add.opcode;
const HELLO = METHODS.hello.opcode;
const INSTALL = METHODS.install.opcode;
const CALL = METHODS.call.opcode;
const STATS = METHODS.stats.opcode;
const SYNC = METHODS.sync.opcode;
const SNAPSHOT = METHODS.snapshot.opcode;

/** What an operator decides, and what a daemon's threads share: plain data. */
export interface ServiceOptions {
  /** Senders that are admitted, as CIDR blocks; undefined for all who can reach the socket. */
  allow?: readonly string[] | undefined;
  /** Replies that the duplicate request cache remembers. */
  replayCache: number;
  /** Answer at any length who has not proven its address. */
  unvalidated?: boolean | undefined;
  /** Bytes of the heap that one address may hold; no limit if it is left out. */
  quota?: number | undefined;
  /** What a call of a stored procedure may use up; there are none if it is left out. */
  fuel?: number | undefined;
  /** Admit senders with a port below 1024. */
  lowPorts?: boolean | undefined;
  /** `newState` with the same sizes; the heap is over it, too. */
  state: State;
}

/** What a service works on. */
export interface Workplace {
  heap: Heap;
  /** The memory in which requests, replies and sources lie, the same that the heap was given. */
  io: WebAssembly.Memory;
  /** The port that the daemon listens on; 0 if there is no socket. */
  port: number;
  /** Whether every sender has proven its address to the engine, as QUIC's handshake makes it. */
  validated?: boolean | undefined;
  /** Of a daemon in a cluster. */
  membership?: Membership | undefined;
  /** The heap's, if a request is to be whole or nothing although the process may be killed. */
  undo?: Undo | undefined;
  /** What procedures are, if there is fuel for them. */
  procedures?: typeof Procedures | undefined;
}

/**
 * What a datagram may have to do with the state of the daemon: `read` asks for no more than the heap's
 * bytes; `other` may be a repeat or a refusal that depends on anything; `changed` has made another state.
 */
export const Effect = { read: 0, other: 1, changed: 2 } as const;
export type Effect = (typeof Effect)[keyof typeof Effect];

export class Service {
  readonly counters: Counters;
  readonly heap: Heap;
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #admission: Admission;
  readonly #cache: DuplicateRequestCache;
  readonly #tokens: Tokens;
  readonly #stats: Stats;
  /** For admitted networks: what who has proven nothing may be sent all the same. */
  readonly #budget: ReplyBudget | undefined;
  readonly #unvalidated: boolean;
  readonly #quota: Quota | undefined;
  readonly #procedures: Procedures | undefined;
  /** Where the sender of this datagram stands. */
  #source = 0;
  readonly #validated: boolean;
  readonly #membership: Membership | undefined;
  readonly #undo: Undo | undefined;
  readonly #syncs: Int32Array;
  readonly #snapshots: Int32Array;
  /** A new one wherever nothing is left of an earlier one's heap, so that a client can tell that its pointers are gone. Never 0. */
  readonly #epoch: Int32Array;
  readonly #request = new Request();
  /** Of the request that was executed last: bytes of the reply's body. */
  #bodyLength = 0;
  /**
   * Whether the sender of the datagram that was served last has proven its address, 1 or 0: by its
   * token, to the engine, or because it is this host. Whoever has not may be a forger's victim.
   */
  proven = 0;
  /** Of the datagram that was served last: the longest reply that it could have got. */
  limit = 0;
  /** Of the datagram that was served last. */
  effect: Effect = Effect.read;
  /** Of this datagram: where a request may carry a session, and whether its epoch is another. */
  #first = 0;
  #stale = false;

  constructor(
    options: ServiceOptions,
    { heap, io, port, validated = false, membership, undo, procedures }: Workplace,
  ) {
    this.#validated = validated;
    this.#membership = membership;
    this.heap = heap;
    const { service, cache, quota, tokens } = options.state;
    this.#undo = undo;
    this.counters = service.counters;
    this.#syncs = service.sync;
    this.#snapshots = service.snapshot;
    this.#io = new DataView(io.buffer);
    this.#admission = new Admission(options.allow, port, options.lowPorts);
    const { clock } = service;
    this.#clock = clock;
    const { counters } = service;
    this.#cache = new DuplicateRequestCache(options.replayCache, io, clock, counters, cache, undo);
    this.#quota = options.quota === undefined
      ? undefined
      : new Quota(options.quota, heap, io, quota, undo);
    this.#procedures = options.fuel === undefined
      ? undefined
      : new procedures!(options.fuel, heap, this.#quota);
    this.#tokens = new Tokens(io, clock, tokens);
    this.#stats = new Stats({ ...options, memory: heap.size }, options.state, io);
    this.#budget = options.allow && new ReplyBudget(io, clock);
    this.#unvalidated = options.unvalidated ?? false;
    this.#epoch = service.epoch;
    if (this.#epoch.every((word) => word === 0)) {
      this.#epoch.set(crypto.getRandomValues(new Int32Array(2)));
      this.#epoch[1]! |= 1;
    }
  }

  /**
   * Answers the datagram of `length` bytes at `at` of the I/O memory, which came from the sender whose
   * SOURCE_BYTES stand at `source`. The reply is written to `replyAt`, where MAX_DATAGRAM bytes must be
   * free; the result is its length, or NO_REPLY. This is the one place where a request is refused.
   */
  serve(at: number, length: number, replyAt: number, source: number): number {
    this.effect = Effect.read;
    const head = sourceHead(this.#io, source);
    const drop = this.#admission.drops(head, this.#io, source);
    if (drop !== ADMITTED) return this.#ignore(drop);
    if (length < FIELD) return this.#keepSilent(Refusal.truncated);
    const request = this.#request;
    const decoded = decodeRequest(this.#io, at, length, request);
    this.#source = source;
    if (isLoopbackSource(head, this.#io, source)) {
      this.proven = 1;
      this.limit = MAX_DATAGRAM;
    } else this.#judgeStranger(at, length, source);
    const reply = request.isClassic
      ? this.#classic(decoded, replyAt)
      : this.#tagged(at, length, decoded, replyAt, source, false);
    if (this.proven === 0) this.#spend(source, reply - AMPLIFICATION * length);
    return reply;
  }

  /** Counts a datagram that is nobody's business here. */
  #ignore(drop: number): number {
    this.counters[Counter.dropped + drop]!++;
    return NO_REPLY;
  }

  /** Refuses what is no request, which nobody can be told. */
  #keepSilent(refusal: Refusal): number {
    this.#refuse(refusal);
    this.counters[Counter.silent]!++;
    return NO_REPLY;
  }

  /** Takes what a stranger was sent beyond its due out of the budget of its network. */
  #spend(source: number, bytes: number): void {
    this.#budget?.spend(source, Math.max(bytes, 0));
  }

  /**
   * Does once more what a datagram did elsewhere: it was admitted there, `proven` and `limit` were found,
   * and `clock[0]` was what it is now. The same datagrams in the same order make the same state.
   */
  replay(
    at: number,
    length: number,
    replyAt: number,
    source: number,
    { proven, limit }: { proven: number; limit: number },
  ): number {
    this.#source = source;
    this.effect = Effect.read;
    this.proven = proven;
    this.limit = limit;
    const decoded = decodeRequest(this.#io, at, length, this.#request);
    return this.#request.isClassic
      ? this.#classic(decoded, replyAt)
      : this.#tagged(at, length, decoded, replyAt, source, true);
  }

  /** Finds out what may go back to a sender that is not this host. */
  #judgeStranger(at: number, length: number, source: number): void {
    const proven = this.#validated ||
      this.#hasSession(length) && this.#tokens.accepts(source, at + 2 * FIELD);
    this.proven = proven ? 1 : 0;
    this.limit = proven || this.#unvalidated ? MAX_DATAGRAM : this.#limitOf(length, source);
  }

  /** Whether the datagram of `length` bytes, of which the first request is decoded, brings a session. */
  #hasSession(length: number): boolean {
    return (this.#request.flags & Flag.session) !== 0 && length >= FIELD + SESSION;
  }

  /** How much may go back to who has proven nothing. */
  #limitOf(length: number, source: number): number {
    const budget = this.#budget === undefined ? 0 : this.#budget.left(source);
    return Math.min(AMPLIFICATION * length + budget, MAX_DATAGRAM);
  }

  /** Whether the epoch at `at` is that of another incarnation; 0 is none. */
  #isStale(at: number): boolean {
    const high = this.#io.getInt32(at);
    const low = this.#io.getInt32(at + 4);
    if ((high | low) === 0) return false;
    return ((high ^ this.#epoch[0]!) | (low ^ this.#epoch[1]!)) !== 0;
  }

  /** To be called before each batch of datagrams, which shares one budget of work. */
  beginTurn(): void {
    this.counters[Counter.turns]!++;
    this.idle();
  }

  /** To be called instead when there is no datagram. */
  idle(): void {
    this.heap.beginTurn(this.#clock[0]!);
    this.counters[Counter.work] = this.heap.worked[0]!;
  }

  /** Sections 4 and 5 of the paper; what it leaves open is settled in docs/protocol.md. */
  #classic(decoded: Decoded, replyAt: number): number {
    const request = this.#request;
    this.#bodyLength = 0;
    const refusal = decoded === Decoded.whole
      ? this.#execute(request, replyAt, this.limit)
      : this.#refuse(Refusal.truncated);
    this.#undo?.commit();
    if (request.opcode === READ) return this.#bodyLength;
    if (refusal !== Refusal.none) return this.#classicRefusal(request, refusal, replyAt);
    this.effect = Effect.changed;
    return request.opcode === MALLOC ? FIELD : NO_REPLY;
  }

  #classicRefusal(request: Request, refusal: Refusal, replyAt: number): number {
    this.#note(refusal);
    if (request.opcode === MALLOC) {
      setField(this.#io, replyAt, NULL);
      return FIELD;
    }
    this.counters[Counter.silent]!++;
    return NO_REPLY;
  }

  /** Notes what becomes of a request that is no read. Who was over the budget may have cleared something. */
  #note(refusal: Refusal): void {
    if (refusal === Refusal.none || refusal === Refusal.overBudget || isHalfDone(refusal)) {
      this.effect = Effect.changed;
    } else if (this.effect === Effect.read) this.effect = Effect.other;
  }

  /**
   * Answers a datagram of tagged requests, if that is what it is: the first is decoded. They are carried out
   * one after the other and answered with one datagram of as many replies. A reply may take the room that
   * the heads of those after it leave; beyond that it is refused as too long.
   * Requests after the first MAX_REPLIES cannot even be refused: they are not executed.
   * In a replay, the epoch was compared where the datagram came in.
   */
  #tagged(
    at: number,
    length: number,
    decoded: Decoded,
    replyAt: number,
    source: number,
    isReplay: boolean,
  ): number {
    const request = this.#request;
    if (!request.isTagged) return this.#keepSilent(Refusal.unknownMethod);
    this.#stale = !isReplay && this.#hasSession(length) && this.#isStale(at + FIELD);
    this.#first = at;
    const end = at + length;
    const count = decoded === Decoded.whole && at + request.size < end
      ? Math.min(1 + this.#countTagged(at + request.size, end), MAX_REPLIES)
      : 1;
    if (count === 1) return this.#answer(at, decoded, replyAt, this.limit, source);
    const limit = replyAt + this.limit;
    let reply = replyAt;
    for (let owed = REPLY_HEAD * (count - 1);; owed -= REPLY_HEAD) {
      reply += this.#answer(at, decoded, reply, limit - reply - owed, source);
      if (owed === 0) return reply - replyAt;
      at += request.size;
      decoded = decodeRequest(this.#io, at, end - at, request);
    }
  }

  /** How many requests there are between `at` and `end`; one that cannot be decoded is the last. */
  #countTagged(at: number, end: number): number {
    let count = 0;
    while (end - at >= FIELD && wordAt(this.#io, at) === Word.tagged) {
      count++;
      const size = requestSize(this.#io, at, end - at);
      if (size === 0) break;
      at += size;
    }
    return count;
  }

  /**
   * Answers the tagged request at `at`, as it was decoded, within `room` bytes and returns the length of
   * the reply.
   */
  #answer(at: number, decoded: Decoded, replyAt: number, room: number, source: number): number {
    const request = this.#request;
    let refusal = this.#check(at, decoded);
    const once = refusal === Refusal.none && CHANGES_NOTHING[request.opcode] === 0 &&
      (request.opcode !== FREE || request.pointer !== NULL);
    let digest = 0;
    if (once) {
      if (this.effect === Effect.read) this.effect = Effect.other;
      digest = this.#cache.digest(at, request);
      const recalled = this.#cache.recall(source, at, digest, replyAt, room);
      if (recalled === NO_ROOM) refusal = this.#refuseLength();
      else if (recalled === OTHER_REQUEST) refusal = this.#refuse(Refusal.tagReused);
      else if (recalled !== UNSEEN) return recalled;
    }
    this.#bodyLength = 0;
    if (refusal === Refusal.none) {
      refusal = request.opcode === HELLO
        ? this.#hello(replyAt + REPLY_HEAD, room - REPLY_HEAD, source)
        : this.#execute(request, replyAt + REPLY_HEAD, room - REPLY_HEAD);
    }
    if (refusal === Refusal.outsideHeap && this.#membership !== undefined) {
      refusal = this.#redirect(this.#membership, request, replyAt + REPLY_HEAD, room - REPLY_HEAD);
    }
    if (once) this.#note(refusal);
    encodeReplyHead(this.#io, replyAt, request, ERRNO_OF[refusal]!, this.#bodyLength);
    // What was refused has changed nothing, and need not be kept from happening twice.
    if (once && (refusal === Refusal.none || isHalfDone(refusal))) {
      this.#cache.remember(source, this.proven !== 0, digest, replyAt);
    }
    this.#undo?.commit();
    return REPLY_HEAD + this.#bodyLength;
  }

  /** Tells who asks for a pointer of another range who has it. */
  #redirect(membership: Membership, { pointer }: Request, body: number, room: number): Refusal {
    const range = membership.otherRange(pointer);
    if (range === -1) return Refusal.outsideHeap;
    this.counters[REFUSALS + Refusal.outsideHeap]!--;
    if (room < OWNER_BODY) return this.#refuseLength();
    membership.writeOwner(range, this.#io, body);
    this.#bodyLength = OWNER_BODY;
    return this.#refuse(Refusal.otherRange);
  }

  /** Whether a tagged request may be executed, as far as its bytes and its datagram tell. */
  #check(at: number, decoded: Decoded): Refusal {
    if (decoded === Decoded.unknownMethod) return this.#refuse(Refusal.unknownMethod);
    if (decoded === Decoded.truncated) return this.#refuse(Refusal.truncated);
    const { flags, status, opcode } = this.#request;
    const allowed = at === this.#first ? flags & ~Flag.session : flags;
    if (allowed !== Flag.tagged || status !== 0) return this.#refuse(Refusal.badWord);
    return this.#stale && opcode !== HELLO ? this.#refuse(Refusal.staleEpoch) : Refusal.none;
  }

  /**
   * Carries out one whole request, writes the body of its reply to `body`, where `room` bytes are free,
   * and sets #bodyLength, unless it refuses.
   */
  #execute(request: Request, body: number, room: number): Refusal {
    this.counters[REQUESTS + request.opcode]!++;
    if (room < REPLY_BODY[request.opcode]!) return this.#refuseLength();
    switch (request.opcode) {
      case MALLOC:
        return this.#address(request, this.#malloc(request), body);
      case FREE:
        return this.#refuse(this.#quota?.free(request) ?? this.heap.free(request));
      case READ:
        return this.#read(request, body, room);
      case WRITE:
        return this.#write(request);
      case REALLOC:
        return this.#address(request, this.#realloc(request), body);
      case CAS:
        return this.#old(this.heap.cas(request, request.rest, body));
      case ADD:
        return this.#old(this.heap.add(request, request.rest, body));
      default:
        return this.#executeOther(request, body, room);
    }
  }

  #read(request: Request, body: number, room: number): Refusal {
    if (request.length > room) return this.#refuseLength();
    const refusal = this.heap.read(request, body);
    if (refusal !== Refusal.none) return this.#refuse(refusal);
    this.#bodyLength = request.length | 0;
    this.counters[PAYLOAD + READ]! += request.length;
    return refusal;
  }

  #write(request: Request): Refusal {
    const refusal = this.heap.write(request, request.rest);
    if (refusal !== Refusal.none) return this.#refuse(refusal);
    this.counters[PAYLOAD + WRITE]! += request.length;
    return refusal;
  }

  /** What is neither about a block nor about its bytes: apart, so that V8 inlines the rest into its callers. */
  #executeOther(request: Request, body: number, room: number): Refusal {
    if (request.opcode === STATS) return this.#tellStats(request.rest, body, room);
    if (request.opcode === SYNC) return this.#await(this.#syncs, request.rest, body);
    if (request.opcode === SNAPSHOT) return this.#await(this.#snapshots, request.rest, body);
    return this.#procedure(request, body, room);
  }

  /** Installs, calls or uninstalls a procedure, for who has proven its address. */
  #procedure(request: Request, body: number, room: number): Refusal {
    const procedures = this.#procedures;
    if (procedures === undefined) return this.#refuse(Refusal.noProcedures);
    if (this.proven === 0) return this.#refuse(Refusal.unproven);
    const { opcode } = request;
    const refusal = opcode === CALL
      ? procedures.call(request, request.rest, this.#source)
      : opcode === INSTALL
      ? procedures.install(request, this.#source)
      : procedures.uninstall(request);
    if (refusal === Refusal.none) {
      this.#bodyLength = REPLY_BODY[opcode]!;
      if (this.#bodyLength > 0) setField(this.#io, body, procedures.value);
    } else if (refusal === Refusal.notExecutable) this.#tell(procedures.reason, body, room);
    return this.#refuse(refusal);
  }

  /** Makes as much of a text as there is room for the body of the reply. */
  #tell(text: string, body: number, room: number): void {
    const bytes = new Uint8Array(this.#io.buffer, body, Math.min(room, MAX_REASON));
    this.#bodyLength = new TextEncoder().encodeInto(text, bytes).written;
  }

  #malloc(request: Request): Refusal {
    if (this.#quota === undefined) return this.heap.malloc(request);
    return this.#quota.malloc(request, this.#source);
  }

  #realloc(request: Request): Refusal {
    if (this.#quota === undefined) return this.heap.realloc(request);
    return this.#quota.realloc(request, this.#source);
  }

  /** The body of malloc and realloc is the pointer that the heap left in the request. */
  #address(request: Request, refusal: Refusal, body: number): Refusal {
    if (refusal === Refusal.none) {
      setField(this.#io, body, request.pointer);
      this.#bodyLength = FIELD;
      this.counters[PAYLOAD + request.opcode]! += request.length;
    }
    return this.#refuse(refusal);
  }

  /** The body of compare-and-swap and fetch-and-add is the old value, unless they were refused. */
  #old(refusal: Refusal): Refusal {
    if (refusal === Refusal.none) this.#bodyLength = FIELD;
    return this.#refuse(refusal);
  }

  /** All that is counted and measured, or the names of that, as the field at `at` says. */
  #tellStats(at: number, body: number, room: number): Refusal {
    const what = fieldAt(this.#io, at);
    if (what !== STATS_VALUES && what !== STATS_NAMES) return this.#refuse(Refusal.badArgument);
    const length = what === STATS_NAMES ? this.#stats.namesLength : this.#stats.valuesLength;
    if (length > room) return this.#refuseLength();
    if (what === STATS_NAMES) this.#stats.writeNames(body);
    else this.#stats.writeValues(body);
    this.#bodyLength = length;
    return Refusal.none;
  }

  /** The number of the sync or the snapshot to wait for, and that of the last one that is done. */
  #await(figures: Int32Array, at: number, body: number): Refusal {
    if (figures[ChoreFigure.possible] === 0) return this.#refuse(Refusal.noFile);
    if (this.proven === 0) return this.#refuse(Refusal.unproven);
    const number = askFor(figures, fieldAt(this.#io, at));
    const failure = failureOf(figures, number);
    if (failure !== 0) {
      return this.#refuse(failure === ERRNO.ENOSPC ? Refusal.diskFull : Refusal.diskFailed);
    }
    setField(this.#io, body, number);
    setField(this.#io, body + FIELD, figures[ChoreFigure.done]!);
    this.#bodyLength = 2 * FIELD;
    return Refusal.none;
  }

  /** Whom the client talks to and, in a session, its token and its share of the cache. */
  #hello(body: number, room: number, source: number): Refusal {
    this.counters[REQUESTS + HELLO]!++;
    const inSession = (this.#request.flags & Flag.session) !== 0;
    // Who has proven nothing may have no room for all, but has to get a token.
    const inCluster = inSession && this.#membership !== undefined &&
      room >= CLUSTER_REPLY_BODY[HELLO]!;
    const told = inCluster ? CLUSTER_REPLY_BODY : inSession ? SESSION_REPLY_BODY : REPLY_BODY;
    const length = told[HELLO]!;
    if (room < length) return this.#refuseLength();
    this.#io.setInt32(body, this.#epoch[0]!);
    this.#io.setInt32(body + 4, this.#epoch[1]!);
    setField(this.#io, body + FIELD, this.heap.base);
    setField(this.#io, body + 2 * FIELD, this.heap.size);
    setField(this.#io, body + 3 * FIELD, MAX_DATAGRAM);
    setField(this.#io, body + 4 * FIELD, inSession ? PROTOCOL_VERSION : FIRST_VERSION);
    if (inSession) {
      this.#tokens.write(source, body + 5 * FIELD);
      setField(this.#io, body + 6 * FIELD, this.#cache.share(source, this.proven !== 0));
      if (inCluster) this.#membership.writeSelf(this.#io, body + 7 * FIELD);
    }
    this.#bodyLength = length;
    return Refusal.none;
  }

  /** Refuses a reply that is longer than it may be. */
  #refuseLength(): Refusal {
    return this.#refuse(this.limit < MAX_DATAGRAM ? Refusal.unproven : Refusal.tooLong);
  }

  /** Counts a refusal, unless it is none, and hands it back. */
  #refuse(refusal: Refusal): Refusal {
    if (refusal !== Refusal.none) this.counters[REFUSALS + refusal]!++;
    return refusal;
  }
}

/** Whether it is that of a procedure which did not come to its end: what it has done stays done. */
function isHalfDone(refusal: Refusal): boolean {
  return refusal === Refusal.outOfFuel || refusal === Refusal.trapped;
}
