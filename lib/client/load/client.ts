/**
 * One client of the load generator: its datagrams in flight, its blocks, what it asks next and whether what
 * it is told is right.
 */

import {
  decodeReply,
  FIELD,
  fieldAt,
  Flag,
  METHODS,
  Reply,
  SESSION,
  setField,
} from "../../protocol/wire.ts";
import { ERRNO } from "../../protocol/errno.ts";
import { fillBlock, holdsBlock, holdsZeros } from "./contents.ts";
import type { Ledger } from "./ledger.ts";
import { opcodesOf, pickLength, type Sizes } from "./workload.ts";

const MALLOC = METHODS.malloc.opcode;
const FREE = METHODS.free.opcode;
const READ = METHODS.read.opcode;
const WRITE = METHODS.write.opcode;
const REALLOC = METHODS.realloc.opcode;
const CAS = METHODS.cas.opcode;
const ADD = METHODS.add.opcode;
const HELLO = METHODS.hello.opcode;

/** Where the token lies in the reply to a hello in a session, and what is then sent along with it. */
const TOKEN_AT = 5 * FIELD;
/** How long an answer to a hello is waited for before it is sent again, in milliseconds. */
const HELLO_WAIT_MS = 100;

/** Blocks that a client begins with. */
export const BLOCKS = 32;
/** Beyond this a malloc becomes a free; and where only one is left, a free becomes a malloc. */
const MAX_BLOCKS = 2 * BLOCKS;

/** One sender. It can be told what came and asked for what to send. */
export class Client {
  readonly #ledger: Ledger;
  readonly #io: DataView;
  readonly #index: number;
  readonly #tagged: boolean;
  readonly #inFlight: number;
  readonly #perDatagram: number;
  readonly #opcodes: Uint8Array;
  readonly #sizes: Sizes;
  readonly #random = new Uint32Array(1);

  /** Of the open loop: datagrams sent so far, and when the next one is due. */
  #sent = 0;
  #due = 0;
  /** Whether that one is due, and waits until a slot is idle. */
  #isHeld = false;
  /** What was due before this had to wait for what was in flight. */
  #heldUntil = -Infinity;

  /** Slots without a datagram: the first #idle of #idleSlots. */
  readonly #idleSlots: Int32Array;
  #idle: number;
  /** When it is to say hello, so that it gets a token; Infinity if it need not. */
  #helloDue: number;
  /** The token, two words: both 0 while there is none. */
  readonly #token = new Int32Array(2);
  /** By slot: when its datagram was due, and when it is lost; Infinity if there is none. */
  readonly #since: Float64Array;
  readonly #deadline: Float64Array;
  /**
   * By slot, how often it was used: it makes tags unique. The first is random, because the daemon may
   * remember the tags of an earlier run that had the same port.
   */
  readonly #turn: Float64Array;
  readonly #turns: number;
  /** Of the classic protocol: slots in the order in which they were sent, a ring. */
  readonly #queue: Int32Array;
  #oldest = 0;
  #queued = 0;

  /** By entry: what was asked, about which block. */
  readonly #opcode: Uint8Array;
  readonly #block: Int32Array;
  readonly #address: Float64Array;
  readonly #length: Int32Array;
  /** Of a read: nothing was known to be written yet, so that what it held before is right as well. */
  readonly #fresh: Uint8Array;
  /** What the block held before: so many bytes of what belongs to an address, then zeros. */
  readonly #origin: Float64Array;
  readonly #kept: Int32Array;
  /** Which use of the block's number it is about. */
  readonly #use: Int32Array;
  /**
   * Each entry has a counter, 8 bytes at #counters, for its cas and add: the value, what it is to become,
   * and whether it is known: of a request that was lost nobody can say whether it was carried out.
   */
  readonly #value: Int32Array;
  readonly #next: Int32Array;
  readonly #known: Uint8Array;
  #counters = 0;

  /** By block. */
  readonly #blockAddress = new Float64Array(MAX_BLOCKS);
  readonly #blockLength = new Int32Array(MAX_BLOCKS);
  readonly #written = new Uint8Array(MAX_BLOCKS);
  /** Whether a write was sent that is not confirmed: what the block holds is not known. */
  readonly #touched = new Uint8Array(MAX_BLOCKS);
  readonly #blockOrigin = new Float64Array(MAX_BLOCKS);
  readonly #blockKept = new Int32Array(MAX_BLOCKS);
  readonly #uses = new Int32Array(MAX_BLOCKS);
  /** Blocks to be used: the first #live of #liveBlocks; and numbers of blocks to come, likewise. */
  readonly #liveBlocks = new Int32Array(MAX_BLOCKS);
  #live = 0;
  readonly #spareBlocks = Int32Array.from({ length: MAX_BLOCKS }, (_, i) => i);
  #spare = MAX_BLOCKS;

  readonly #reply = new Reply();

  constructor(ledger: Ledger, io: DataView, index: number) {
    const { protocol, inFlight, perDatagram, mix, sizes, proves = false } = ledger.workload;
    this.#ledger = ledger;
    this.#io = io;
    this.#index = index;
    this.#tagged = protocol === "tagged";
    this.#helloDue = proves && this.#tagged ? 0 : Infinity;
    this.#inFlight = inFlight;
    this.#perDatagram = perDatagram;
    this.#opcodes = opcodesOf(mix);
    this.#sizes = sizes;
    this.#random[0] = index + 1; // runs repeat, and no two clients do the same

    this.#idleSlots = Int32Array.from({ length: inFlight }, (_, i) => i);
    this.#idle = inFlight;
    this.#since = new Float64Array(inFlight);
    this.#deadline = new Float64Array(inFlight).fill(Infinity);
    this.#turns = Math.floor(2 ** 32 / (inFlight * perDatagram));
    const firstTurn = Math.floor(Math.random() * this.#turns);
    this.#turn = new Float64Array(inFlight).fill(firstTurn);
    this.#queue = new Int32Array(inFlight);

    const entries = inFlight * perDatagram;
    this.#opcode = new Uint8Array(entries);
    this.#block = new Int32Array(entries);
    this.#address = new Float64Array(entries);
    this.#length = new Int32Array(entries);
    this.#fresh = new Uint8Array(entries);
    this.#origin = new Float64Array(entries);
    this.#kept = new Int32Array(entries);
    this.#use = new Int32Array(entries);
    this.#value = new Int32Array(2 * entries);
    this.#next = new Int32Array(2 * entries);
    this.#known = new Uint8Array(entries).fill(1);
  }

  /** Gives the client a block that holds what `fillBlock` makes, while nothing is in flight. */
  adopt(address: number, length: number): void {
    const block = this.#spareBlocks[--this.#spare]!;
    this.#add(block, address, length, address, 0);
    this.#written[block] = 1;
  }

  /** How many bytes of zeros the client needs for the counters of cas and add. */
  get counterBytes(): number {
    const { cas, add } = this.#ledger.workload.mix;
    return cas + add === 0 ? 0 : FIELD * this.#known.length;
  }

  adoptCounters(address: number): void {
    this.#counters = address;
  }

  /** The length of another block. */
  nextLength(): number {
    return pickLength(this.#sizes, this.#below(2 ** 32) / 2 ** 32);
  }

  /** The addresses of its blocks. */
  get blocks(): number[] {
    return Array.from(
      this.#liveBlocks.subarray(0, this.#live),
      (block) => this.#blockAddress[block]!,
    );
  }

  start(): void {
    this.#sent = 0;
    this.#schedule();
  }

  get isOver(): boolean {
    return this.#idle === this.#inFlight && this.#due > this.#ledger.end;
  }

  /** Whether there is something to be received. */
  get isWaiting(): boolean {
    return this.#idle < this.#inFlight || this.#helloDue !== Infinity;
  }

  get untilDue(): number {
    if (this.#helloDue !== Infinity) return this.#helloDue - this.#ledger.now;
    return this.#idle === 0 || this.#due > this.#ledger.end
      ? Infinity
      : this.#due - this.#ledger.now;
  }

  /** Writes the next datagram that is due to `at`; the result is its length, 0 if none is. */
  next(at: number): number {
    const { now, end, interval, done, workload } = this.#ledger;
    if (this.#helloDue !== Infinity) return this.#hello(at);
    if (this.#due > now || this.#due > end) return 0;
    if (this.#idle === 0) {
      this.#isHeld = true;
      return 0;
    }
    const since = interval === 0 ? now : this.#due;
    if (this.#isHeld) {
      this.#ledger.held += this.#perDatagram;
      this.#isHeld = false;
    }
    if (interval !== 0 && since > this.#heldUntil) {
      this.#ledger.lateness.record(Math.round((now - since) * 1e6), this.#perDatagram);
    }
    const slot = this.#idleSlots[this.#idle - 1]!;
    const first = slot * this.#perDatagram;
    const tag = (this.#turn[slot]! * this.#inFlight + slot) * this.#perDatagram;
    let length = 0;
    if (this.#isProven) {
      // The first request's word goes before the session, its fields behind it.
      length = SESSION + this.#request(at + SESSION, first, tag);
      this.#beginSession(at);
    } else {
      length = this.#request(at, first, tag);
    }
    for (let i = 1; i < this.#perDatagram; i++) {
      length += this.#request(at + length, first + i, tag + i);
    }
    this.#sent++;
    this.#schedule();
    const opcode = this.#opcode[first]!;
    if (!this.#tagged && (opcode === FREE || opcode === WRITE)) {
      done[opcode]!++; // nobody will tell whether it was
      return length;
    }
    this.#idle--;
    this.#since[slot] = since;
    this.#deadline[slot] = now + workload.timeout;
    if (!this.#tagged) this.#queue[(this.#oldest + this.#queued++) % this.#inFlight] = slot;
    return length;
  }

  get #isProven(): boolean {
    return (this.#token[0]! | this.#token[1]!) !== 0;
  }

  /** Writes a hello in a session, if it is due, and returns its length. */
  #hello(at: number): number {
    if (this.#helloDue > this.#ledger.now) return 0;
    this.#helloDue = this.#ledger.now + HELLO_WAIT_MS;
    this.#token.fill(0);
    this.#io.setInt32(at + SESSION, 0);
    this.#io.setInt32(at + SESSION + 4, Flag.tagged << 8 | HELLO);
    this.#beginSession(at);
    return FIELD + SESSION;
  }

  /** Puts epoch 0, which is none, and the token behind the word of the request that stands at `at + SESSION`. */
  #beginSession(at: number): void {
    const io = this.#io;
    io.setInt32(at, io.getInt32(at + SESSION));
    io.setInt32(at + 4, io.getInt32(at + SESSION + 4) | Flag.session << 8);
    io.setInt32(at + FIELD, 0);
    io.setInt32(at + FIELD + 4, 0);
    io.setInt32(at + 2 * FIELD, this.#token[0]!);
    io.setInt32(at + 2 * FIELD + 4, this.#token[1]!);
  }

  /** Takes a token; a daemon that knows no sessions refuses, and wants none. */
  #takeHello({ status, body, bodyLength }: Reply): void {
    this.#helloDue = Infinity;
    if (status !== 0 || bodyLength < TOKEN_AT + FIELD) return;
    this.#token[0] = this.#io.getInt32(body + TOKEN_AT);
    this.#token[1] = this.#io.getInt32(body + TOKEN_AT + 4);
  }

  /** Takes a datagram that came from the daemon. */
  take(at: number, length: number): void {
    if (this.#tagged) this.#takeTagged(at, at + length);
    else this.#takeClassic(at, length);
  }

  expire(): void {
    const { now } = this.#ledger;
    for (let slot = 0; slot < this.#inFlight; slot++) {
      if (this.#deadline[slot]! > now) continue;
      if (this.#tagged) this.#lose(slot);
      else while (this.#deadline[slot] !== Infinity) this.#lose(this.#dequeue());
    }
  }

  abandon(): void {
    for (let slot = 0; slot < this.#inFlight; slot++) {
      if (this.#deadline[slot] !== Infinity) this.#lose(slot);
    }
    this.#queued = 0;
    this.cancel();
  }

  cancel(): void {
    // They have waited at least until now: to leave them out would make the latencies look better.
    for (; this.#due <= this.#ledger.end; this.#sent++, this.#schedule()) {
      this.#ledger.unsent += this.#perDatagram;
      this.#ledger.answered(this.#due, this.#perDatagram);
    }
  }

  /** Says when the next datagram is due. */
  #schedule(): void {
    const { begin, interval, workload } = this.#ledger;
    this.#due = begin + (this.#sent * workload.clients + this.#index) * interval;
  }

  /** A random number below `bound`: xorshift (Marsaglia, 2003). */
  #below(bound: number): number {
    let word = this.#random[0]!;
    word ^= word << 13;
    word ^= word >>> 17;
    word ^= word << 5;
    this.#random[0] = word;
    return Math.floor((word >>> 0) / 2 ** 32 * bound);
  }

  /** Writes a request and returns its length. */
  #request(at: number, entry: number, tag: number): number {
    const io = this.#io;
    let opcode = this.#pickOpcode();
    if (opcode === CAS && this.#known[entry] === 0) opcode = ADD; // it tells the value
    io.setInt32(at, this.#tagged ? tag : 0);
    io.setInt32(at + 4, (this.#tagged ? Flag.tagged << 8 : 0) | opcode);
    this.#opcode[entry] = opcode;
    if (opcode === MALLOC) {
      const length = this.nextLength();
      this.#block[entry] = this.#spareBlocks[--this.#spare]!;
      this.#length[entry] = length;
      // When a classic reply is lost, the next malloc's pointer is taken for it: that must be as good.
      setField(io, at + FIELD, this.#tagged ? length : this.#sizes.max);
      return 2 * FIELD;
    }
    if (opcode === CAS || opcode === ADD) return this.#count(at, entry, opcode);
    const pick = this.#below(this.#live);
    const block = this.#liveBlocks[pick]!;
    const address = this.#blockAddress[block]!;
    const length = this.#blockLength[block]!;
    // What a realloc keeps must be known: of a block whose first write is under way it is not.
    const isUnsure = this.#touched[block] === 1 && this.#written[block] === 0;
    if (opcode === REALLOC && isUnsure) opcode = this.#become(READ, at, entry);
    this.#block[entry] = block;
    this.#address[entry] = address;
    this.#length[entry] = length;
    this.#use[entry] = this.#uses[block]!;
    const isWritten = this.#written[block] === 1;
    this.#origin[entry] = isWritten ? address : this.#blockOrigin[block]!;
    this.#kept[entry] = isWritten ? length : this.#blockKept[block]!;
    setField(io, at + FIELD, address);
    if (opcode === FREE) {
      this.#liveBlocks[pick] = this.#liveBlocks[--this.#live]!;
      this.#spareBlocks[this.#spare++] = block;
      return 2 * FIELD;
    }
    if (opcode === REALLOC) {
      const newLength = this.nextLength();
      this.#liveBlocks[pick] = this.#liveBlocks[--this.#live]!;
      this.#uses[block]!++;
      this.#length[entry] = newLength;
      this.#kept[entry] = Math.min(this.#kept[entry]!, newLength);
      setField(io, at + 2 * FIELD, newLength);
      return 3 * FIELD;
    }
    setField(io, at + 2 * FIELD, length);
    if (opcode === READ) {
      this.#fresh[entry] = 1 - this.#written[block]!;
      return 3 * FIELD;
    }
    this.#touched[block] = 1;
    fillBlock(io, at + 3 * FIELD, address, length);
    return 3 * FIELD + length;
  }

  /** Makes the request that is being written one of another method. */
  #become(opcode: number, at: number, entry: number): number {
    this.#io.setUint8(at + FIELD - 1, opcode);
    this.#opcode[entry] = opcode;
    return opcode;
  }

  /** Writes a cas or an add on the counter of an entry, and notes what that is to become. */
  #count(at: number, entry: number, opcode: number): number {
    const io = this.#io;
    const [high, low] = [2 * entry, 2 * entry + 1];
    setField(io, at + FIELD, this.#counters + FIELD * entry);
    const randomHigh = this.#below(2 ** 32);
    const randomLow = this.#below(2 ** 32);
    const value = this.#value;
    const next = this.#next;
    if (opcode === ADD) {
      const isKnown = this.#known[entry] === 1;
      const deltaHigh = isKnown ? randomHigh : 0;
      const deltaLow = isKnown ? randomLow : 0;
      const sum = (value[low]! >>> 0) + deltaLow;
      next[low] = sum;
      next[high] = value[high]! + deltaHigh + (sum >= 2 ** 32 ? 1 : 0);
      io.setInt32(at + 2 * FIELD, deltaHigh);
      io.setInt32(at + 2 * FIELD + 4, deltaLow);
      return 3 * FIELD;
    }
    const miss = this.#below(2); // half of them expect another value, and must change nothing
    io.setInt32(at + 2 * FIELD, value[high]!);
    io.setInt32(at + 2 * FIELD + 4, value[low]! ^ miss);
    io.setInt32(at + 3 * FIELD, randomHigh);
    io.setInt32(at + 3 * FIELD + 4, randomLow);
    next[high] = miss === 1 ? value[high]! : randomHigh;
    next[low] = miss === 1 ? value[low]! : randomLow;
    return 4 * FIELD;
  }

  /** Whether the counter of an entry had the value that it must have had. */
  #isCounted(entry: number, body: number, length: number): boolean {
    if (length !== FIELD) return false;
    const [high, low] = [2 * entry, 2 * entry + 1];
    const oldHigh = this.#io.getInt32(body);
    const oldLow = this.#io.getInt32(body + 4);
    if (this.#known[entry] === 1) {
      if (oldHigh !== this.#value[high] || oldLow !== this.#value[low]) return false;
      this.#value[high] = this.#next[high]!;
      this.#value[low] = this.#next[low]!;
      return true;
    }
    this.#value[high] = oldHigh; // 0 was added, only to learn this
    this.#value[low] = oldLow;
    this.#known[entry] = 1;
    return true;
  }

  #pickOpcode(): number {
    const opcode = this.#opcodes[this.#below(this.#opcodes.length)]!;
    if (opcode === REALLOC && this.#live === 1) return READ;
    if (opcode === FREE && this.#live === 1) return this.#spare > 0 ? MALLOC : READ;
    if (opcode === MALLOC && this.#spare === 0) return this.#live > 1 ? FREE : READ;
    return opcode;
  }

  /** The replies to a datagram come in one, in the order of the requests. */
  #takeTagged(at: number, end: number): void {
    const ledger = this.#ledger;
    const reply = this.#reply;
    if (!decodeReply(this.#io, at, end, reply)) {
      ledger.wrong++; // and what it should have answered will be lost
      return;
    }
    if (reply.opcode === HELLO) return this.#takeHello(reply);
    const datagram = Math.floor(reply.tag / this.#perDatagram);
    const slot = datagram % this.#inFlight;
    const isCurrent = this.#turn[slot] === Math.floor(datagram / this.#inFlight);
    if (!isCurrent || this.#deadline[slot] === Infinity) return; // it was given up for lost
    const first = slot * this.#perDatagram;
    const tag = datagram * this.#perDatagram;
    for (let i = 0; i < this.#perDatagram; i++) {
      const entry = first + i;
      const isReply = decodeReply(this.#io, at, end, reply) && reply.tag === tag + i &&
        reply.opcode === this.#opcode[entry];
      if (isReply && reply.status === ERRNO.EPERM && this.#helloDue === Infinity) {
        if (this.#isProven) this.#helloDue = ledger.now; // the token has expired
      }
      if (isReply && reply.status !== 0) this.#refuse(entry);
      else if (!isReply || !this.#isRight(entry, reply.body, reply.bodyLength)) this.#wrong(entry);
      ledger.done[this.#opcode[entry]!]!++;
      at += reply.size;
    }
    ledger.answered(this.#since[slot]!, this.#perDatagram);
    this.#release(slot);
  }

  /**
   * A classic reply does not say what it answers: it is the oldest request that it is right for, and
   * those before it are lost. If it is right for none, it is a wrong one for the oldest.
   */
  #takeClassic(at: number, length: number): void {
    const ledger = this.#ledger;
    if (this.#queued === 0) return; // it was given up for lost
    let lost = 0;
    while (lost < this.#queued && !this.#isRight(this.#queuedAt(lost), at, length)) lost++;
    const isWrong = lost === this.#queued;
    for (; !isWrong && lost > 0; lost--) this.#lose(this.#dequeue());
    const slot = this.#dequeue();
    if (isWrong) this.#wrong(slot);
    ledger.done[this.#opcode[slot]!]!++;
    ledger.answered(this.#since[slot]!, 1);
    this.#release(slot);
  }

  #queuedAt(i: number): number {
    return this.#queue[(this.#oldest + i) % this.#inFlight]!;
  }

  #dequeue(): number {
    const slot = this.#queuedAt(0);
    this.#oldest = (this.#oldest + 1) % this.#inFlight;
    this.#queued--;
    return slot;
  }

  /** Whether the body of a reply is what an entry asked for. If it is, it has its effect. */
  #isRight(entry: number, body: number, length: number): boolean {
    const block = this.#block[entry]!;
    const address = this.#address[entry]!;
    switch (this.#opcode[entry]) {
      case READ:
        if (length !== this.#length[entry]) return false;
        if (!holdsBlock(this.#io, body, address, length)) {
          const kept = this.#kept[entry]!;
          return this.#fresh[entry] === 1 &&
            holdsBlock(this.#io, body, this.#origin[entry]!, kept) &&
            holdsZeros(this.#io, body + kept, length - kept);
        }
        if (this.#fresh[entry] === 1) this.#confirm(entry);
        return true;
      case MALLOC: {
        if (length !== FIELD || this.#io.getInt32(body) < 0) return false; // as what a block holds
        const pointer = fieldAt(this.#io, body);
        if (pointer === 0) this.#refuse(entry);
        else this.#add(block, pointer, this.#length[entry]!, 0, 0);
        return true;
      }
      case REALLOC: {
        if (length !== FIELD || fieldAt(this.#io, body) === 0) return false;
        const pointer = fieldAt(this.#io, body);
        this.#add(block, pointer, this.#length[entry]!, this.#origin[entry]!, this.#kept[entry]!);
        return true;
      }
      case CAS:
      case ADD:
        return this.#isCounted(entry, body, length);
      case WRITE:
        if (length === 0) this.#confirm(entry);
        return length === 0;
      default:
        return length === 0;
    }
  }

  /** Notes that the block, if it is still the one that the entry is about, has been written. */
  #confirm(entry: number): void {
    const block = this.#block[entry]!;
    if (this.#uses[block] === this.#use[entry]) this.#written[block] = 1;
  }

  #add(block: number, address: number, length: number, origin: number, kept: number): void {
    this.#blockAddress[block] = address;
    this.#blockLength[block] = length;
    this.#blockOrigin[block] = origin;
    this.#blockKept[block] = kept;
    this.#written[block] = this.#touched[block] = 0;
    this.#uses[block]!++;
    this.#liveBlocks[this.#live++] = block;
  }

  #refuse(entry: number): void {
    this.#ledger.refused++;
    if (this.#opcode[entry] === REALLOC) this.#restore(entry);
    else this.#giveUp(entry);
  }

  /** A realloc that was refused has left the block as it was. */
  #restore(entry: number): void {
    const block = this.#block[entry]!;
    const wasWritten = this.#written[block]!;
    const kept = this.#blockKept[block]!;
    const origin = this.#blockOrigin[block]!;
    this.#add(block, this.#blockAddress[block]!, this.#blockLength[block]!, origin, kept);
    this.#written[block] = this.#touched[block] = wasWritten;
  }

  #wrong(entry: number): void {
    this.#ledger.wrong++;
    this.#giveUp(entry);
  }

  /** Undoes what an entry has set aside, now that it will not be carried out. */
  #giveUp(entry: number): void {
    const opcode = this.#opcode[entry];
    // Of a realloc that was not answered nobody can say where the block is.
    const isBlock = opcode === MALLOC || opcode === REALLOC;
    if (isBlock) this.#spareBlocks[this.#spare++] = this.#block[entry]!;
    if (opcode === CAS || opcode === ADD) this.#known[entry] = 0;
  }

  #lose(slot: number): void {
    this.#ledger.lost += this.#perDatagram;
    for (let i = 0; i < this.#perDatagram; i++) this.#giveUp(slot * this.#perDatagram + i);
    this.#release(slot);
  }

  #release(slot: number): void {
    this.#turn[slot] = (this.#turn[slot]! + 1) % this.#turns;
    this.#deadline[slot] = Infinity;
    if (this.#idle === 0) this.#heldUntil = this.#ledger.now;
    this.#idleSlots[this.#idle++] = slot;
  }
}
