/**
 * The daemon's answer to a datagram: bytes in, bytes out, and nothing else. It is synchronous, total
 * over any bytes, and makes no garbage. Engines, the simulator and the tests all drive `serve`.
 */

import { Admission } from "./admission.ts";
import { Counter, type Counters, REFUSALS, REQUESTS } from "./counters.ts";
import { GRAIN, type Heap, NULL } from "../heap/heap.ts";
import {
  Decoded,
  decodeRequest,
  encodeReplyHead,
  FIELD,
  Flag,
  MAX_DATAGRAM,
  METHODS,
  PROTOCOL_VERSION,
  REPLY_BODY,
  REPLY_HEAD,
  Request,
  setField,
  Word,
  wordAt,
} from "../protocol/wire.ts";
import { ERRNO_OF, Refusal } from "./refusal.ts";
import { DuplicateRequestCache, NO_ROOM, UNSEEN } from "./duplicate_request_cache.ts";

/** No datagram goes back. A reply of 0 bytes does: it is how a classic read is refused. */
export const NO_REPLY = -1;

/** Replies that one datagram can carry: at the least, each is a head. */
const MAX_REPLIES = Math.floor(MAX_DATAGRAM / REPLY_HEAD);

const MALLOC = METHODS.malloc.opcode;
const FREE = METHODS.free.opcode;
const READ = METHODS.read.opcode;
const WRITE = METHODS.write.opcode;
const REALLOC = METHODS.realloc.opcode;
const CAS = METHODS.cas.opcode;
const ADD = METHODS.add.opcode;
const HELLO = METHODS.hello.opcode;

/** What an operator decides, and what a daemon's threads share: plain data, and arrays over shared memory. */
export interface ServiceOptions {
  /** Senders that are admitted, as CIDR blocks; undefined for all who can reach the socket. */
  allow?: readonly string[] | undefined;
  /** Replies that the duplicate request cache remembers. */
  replayCache: number;
  counters: Counters;
  /** `clock[0]` is the time in seconds; whoever runs the service advances it. */
  clock: Int32Array;
}

/** What a service works on. */
export interface Workplace {
  heap: Heap;
  /** The memory in which requests, replies and sources lie, the same that the heap was given. */
  io: WebAssembly.Memory;
  /** The port that the daemon listens on; 0 if there is no socket. */
  port: number;
}

export class Service {
  readonly counters: Counters;
  readonly heap: Heap;
  readonly #io: DataView;
  readonly #admission: Admission;
  readonly #cache: DuplicateRequestCache;
  /** A new one at each start, so that a client can tell that its pointers are gone. */
  readonly #epoch: Uint32Array;
  readonly #request = new Request();
  /** Of the request that was executed last: bytes of the reply's body. */
  #bodyLength = 0;

  constructor(options: ServiceOptions, { heap, io, port }: Workplace) {
    this.heap = heap;
    this.counters = options.counters;
    this.#io = new DataView(io.buffer);
    this.#admission = new Admission(options.allow, port);
    this.#cache = new DuplicateRequestCache(options.replayCache, io, options.clock, this.counters);
    this.#epoch = crypto.getRandomValues(new Uint32Array(2));
  }

  /**
   * Answers the datagram of `length` bytes at `at` of the I/O memory, which came from the sender whose
   * SOURCE_BYTES stand at `source`. The reply is written to `replyAt`, where MAX_DATAGRAM bytes must be
   * free; the result is its length, or NO_REPLY. This is the one place where a request is refused.
   */
  serve(at: number, length: number, replyAt: number, source: number): number {
    if (!this.#admission.admits(this.#io, source)) {
      this.counters[Counter.dropped]!++;
      return NO_REPLY;
    }
    const word = length < FIELD ? Word.unknown : wordAt(this.#io, at);
    if (word === Word.classic) return this.#classic(at, length, replyAt);
    if (word === Word.tagged) return this.#tagged(at, length, replyAt, source);
    this.#refuse(length < FIELD ? Refusal.truncated : Refusal.unknownMethod);
    this.counters[Counter.silent]!++;
    return NO_REPLY;
  }

  /** Sections 4 and 5 of the paper; what it leaves open is settled in docs/protocol.md. */
  #classic(at: number, length: number, replyAt: number): number {
    const request = this.#request;
    this.#bodyLength = 0;
    const refusal = decodeRequest(this.#io, at, length, request) === Decoded.whole
      ? this.#execute(request, replyAt, MAX_DATAGRAM)
      : this.#refuse(Refusal.truncated);
    if (request.opcode === READ) return this.#bodyLength;
    if (request.opcode === MALLOC) {
      if (refusal !== Refusal.none) setField(this.#io, replyAt, NULL);
      return FIELD;
    }
    if (refusal !== Refusal.none) this.counters[Counter.silent]!++;
    return NO_REPLY;
  }

  /**
   * Answers a datagram of tagged requests, one after the other, with one of as many replies. A reply
   * may take the room that the heads of those after it leave; beyond that it is refused as too long.
   * Requests after the first MAX_REPLIES cannot even be refused: they are not executed.
   */
  #tagged(at: number, length: number, replyAt: number, source: number): number {
    const end = at + length;
    const limit = replyAt + MAX_DATAGRAM;
    let reply = replyAt;
    let owed = REPLY_HEAD * Math.min(this.#countTagged(at, end), MAX_REPLIES);
    while (owed > 0) {
      owed -= REPLY_HEAD;
      reply += this.#answer(at, end - at, reply, limit - reply - owed, source);
      at += this.#request.size;
    }
    return reply - replyAt;
  }

  /** How many requests a datagram holds; one that cannot be decoded is the last. */
  #countTagged(at: number, end: number): number {
    const request = this.#request;
    let count = 0;
    while (end - at >= FIELD && wordAt(this.#io, at) === Word.tagged) {
      count++;
      if (decodeRequest(this.#io, at, end - at, request) !== Decoded.whole) break;
      at += request.size;
    }
    return count;
  }

  /** Answers one tagged request within `room` bytes and returns the length of the reply. */
  #answer(at: number, available: number, replyAt: number, room: number, source: number): number {
    const request = this.#request;
    let refusal = this.#check(decodeRequest(this.#io, at, available, request));
    const once = refusal === Refusal.none && request.opcode !== READ && request.opcode !== HELLO;
    if (once) {
      const recalled = this.#cache.recall(source, at, replyAt, room);
      if (recalled === NO_ROOM) refusal = this.#refuse(Refusal.tooLong);
      else if (recalled !== UNSEEN) return recalled;
    }
    this.#bodyLength = 0;
    if (refusal === Refusal.none) {
      refusal = this.#execute(request, replyAt + REPLY_HEAD, room - REPLY_HEAD);
    }
    encodeReplyHead(this.#io, replyAt, request, ERRNO_OF[refusal]!, this.#bodyLength);
    // What had no room was not executed: it is not remembered, so that the client may send it again.
    if (once && refusal !== Refusal.tooLong) this.#cache.remember(source, replyAt);
    return REPLY_HEAD + this.#bodyLength;
  }

  /** Whether a tagged request may be executed, as far as its bytes tell. */
  #check(decoded: Decoded): Refusal {
    if (decoded === Decoded.unknownMethod) return this.#refuse(Refusal.unknownMethod);
    if (decoded === Decoded.truncated) return this.#refuse(Refusal.truncated);
    const { flags, status } = this.#request;
    return flags === Flag.tagged && status === 0 ? Refusal.none : this.#refuse(Refusal.badWord);
  }

  /**
   * Carries out one whole request, writes the body of its reply to `body`, where `room` bytes are free,
   * and sets #bodyLength, unless it refuses.
   */
  #execute(request: Request, body: number, room: number): Refusal {
    this.counters[REQUESTS + request.opcode]!++;
    if (room < REPLY_BODY[request.opcode]!) return this.#refuse(Refusal.tooLong);
    switch (request.opcode) {
      case MALLOC:
        return this.#address(request, this.heap.malloc(request), body);
      case FREE: {
        const refusal = this.heap.free(request);
        this.#gauge();
        return this.#refuse(refusal);
      }
      case READ: {
        if (request.length > room) return this.#refuse(Refusal.tooLong);
        const refusal = this.heap.read(request, body);
        if (refusal === Refusal.none) this.#bodyLength = request.length;
        return this.#refuse(refusal);
      }
      case WRITE:
        return this.#refuse(this.heap.write(request, request.rest));
      case REALLOC:
        return this.#address(request, this.heap.realloc(request), body);
      case CAS:
        return this.#old(this.heap.cas(request, request.rest, body));
      case ADD:
        return this.#old(this.heap.add(request, request.rest, body));
      default:
        return this.#hello(body);
    }
  }

  /** The body of malloc and realloc is the pointer that the heap left in the request. */
  #address(request: Request, refusal: Refusal, body: number): Refusal {
    if (refusal === Refusal.none) {
      setField(this.#io, body, request.pointer);
      this.#bodyLength = FIELD;
    }
    this.#gauge();
    return this.#refuse(refusal);
  }

  /** Shows the allocator's figures to whoever reads the counters. */
  #gauge(): void {
    const { liveBlocks, grainsInUse, highWater } = this.heap.buddy;
    this.counters[Counter.blocks] = liveBlocks;
    this.counters[Counter.bytes] = grainsInUse * GRAIN;
    this.counters[Counter.highWater] = highWater * GRAIN;
  }

  /** The body of compare-and-swap and fetch-and-add is the old value, unless they were refused. */
  #old(refusal: Refusal): Refusal {
    if (refusal === Refusal.none) this.#bodyLength = FIELD;
    return this.#refuse(refusal);
  }

  #hello(body: number): Refusal {
    this.#io.setUint32(body, this.#epoch[0]!);
    this.#io.setUint32(body + 4, this.#epoch[1]!);
    setField(this.#io, body + FIELD, this.heap.base);
    setField(this.#io, body + 2 * FIELD, this.heap.size);
    setField(this.#io, body + 3 * FIELD, MAX_DATAGRAM);
    setField(this.#io, body + 4 * FIELD, PROTOCOL_VERSION);
    this.#bodyLength = REPLY_BODY[HELLO]!;
    return Refusal.none;
  }

  /** Counts a refusal, unless it is none, and hands it back. */
  #refuse(refusal: Refusal): Refusal {
    if (refusal !== Refusal.none) this.counters[REFUSALS + refusal]!++;
    return refusal;
  }
}
