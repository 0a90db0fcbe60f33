/**
 * The service against whoever sends bytes that do harm: requests of all methods, right, wrong and cut short,
 * from senders of every kind. What must hold for any of them is told here, not what each is answered.
 */

import { assert, assertEquals } from "@std/assert";
import { FIELD, Flag, MAX_DATAGRAM, METHODS, REPLY_HEAD } from "../../lib/protocol/wire.ts";
import { HEAP_BASE, newHeapMemory } from "../../lib/heap/heap.ts";
import { ChoreFigure } from "../../lib/daemon/chore.ts";
import { newSavedMemory, Undo } from "../../lib/heap/undo.ts";
import { newState } from "../../lib/daemon/state.ts";
import { startEngine } from "../../lib/daemon/engines/choice.ts";
import { Counter } from "../../lib/daemon/counters.ts";
import { Unavailable } from "../../lib/system/libc.ts";
import { socketTest } from "../sockets.ts";
import { Box, type BoxOptions, newOptions, Random } from "../testing.ts";

/** As docs/protocol.md has it (section 6.14). */
const AMPLIFICATION = 3;
const PORT = 9000;
const STEPS = 10_000;
/** Adds two numbers: `run` gives 0. As in docs/vectors.json. */
const MODULE = Uint8Array.fromHex(
  "0061736d0100000001070160027f7f017f020f0103656e76066d656d6f7279020000030201000707010372756e" +
    "00000a1701150003402001450d000b20002d000020002d00016e0b",
);
const HANDLE = 0x0003096ebff76121n;
/** Methods that only who has proven its address may use. */
const FOR_PROVEN: readonly number[] = [
  METHODS.install.opcode,
  METHODS.call.opcode,
  METHODS.uninstall.opcode,
  METHODS.sync.opcode,
  METHODS.snapshot.opcode,
];

interface Sender {
  host: string;
  port: number;
  kind: "proven" | "unproven" | "ignored";
}

const SENDERS: readonly Sender[] = [
  { host: "127.0.0.1", port: 40000, kind: "proven" },
  { host: "192.0.2.1", port: 40000, kind: "unproven" },
  { host: "2001:db8::1", port: 1024, kind: "unproven" },
  { host: "127.0.0.1", port: PORT, kind: "ignored" },
  { host: "192.0.2.1", port: PORT, kind: "ignored" },
  { host: "192.0.2.1", port: 1023, kind: "ignored" },
  { host: "::1", port: 0, kind: "ignored" },
];

class Attacker {
  readonly #random: Random;
  readonly #pointers: bigint[] = [0n, HANDLE, BigInt(HEAP_BASE)];
  readonly #token: bigint;
  readonly #size: bigint;

  constructor(random: Random, size: number, token: bigint) {
    this.#random = random;
    this.#size = BigInt(size);
    this.#token = token;
  }

  datagram(): Uint8Array<ArrayBuffer> {
    const random = this.#random;
    if (random.chance(0.05)) return random.bytes(random.below(80));
    const count = random.chance(0.8)
      ? 1
      : random.chance(0.9)
      ? random.below(12)
      : random.below(900);
    const bytes: number[] = [];
    const isClassic = random.chance(0.25);
    for (let i = 0; i < count; i++) bytes.push(...this.#request(isClassic, i === 0));
    if (random.chance(0.1)) bytes.length = random.below(bytes.length + 1);
    const datagram = Uint8Array.from(bytes).slice(0, MAX_DATAGRAM);
    if (datagram.length > 0 && random.chance(0.1)) {
      datagram[random.below(Math.min(datagram.length, 48))]! ^= 1 << random.below(8);
    }
    return datagram;
  }

  /** Notes what a reply may have brought: pointers that mean something. */
  note(reply: Uint8Array): void {
    const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
    if (reply.length === FIELD) this.#pointers.push(view.getBigUint64(0));
    if (reply.length === REPLY_HEAD + FIELD) this.#pointers.push(view.getBigUint64(REPLY_HEAD));
    if (this.#pointers.length > 40) this.#pointers.splice(3, 20);
  }

  #request(isClassic: boolean, isFirst: boolean): number[] {
    const random = this.#random;
    const { opcode, request } = random.pick(
      Object.values(METHODS).filter(({ opcode }) => !isClassic || opcode <= METHODS.write.opcode),
    );
    const inSession = !isClassic && isFirst && random.chance(0.3);
    const flags = isClassic ? 0 : inSession ? Flag.tagged | Flag.session : Flag.tagged;
    const tag = isClassic ? [0, 0, 0, 0] : [0, 0, random.below(4), random.below(256)];
    const bytes = [...tag, 0, 0, flags, opcode];
    if (inSession) {
      const epoch = random.chance(0.9) ? 0n : BigInt(random.word());
      const token = random.chance(0.3) ? this.#token : random.chance(0.5) ? 0n : this.#field();
      bytes.push(...fieldBytes(epoch), ...fieldBytes(token));
    }
    let data = 0;
    for (const part of request) {
      if (part === "pointer" || part === "handle") bytes.push(...fieldBytes(this.#pointer()));
      else if (part === "data") bytes.push(...random.bytes(data));
      else {
        const value = this.#field();
        data = value < 3000n ? Number(value) : 0;
        bytes.push(...fieldBytes(value));
      }
    }
    return bytes;
  }

  #pointer(): bigint {
    const random = this.#random;
    if (random.chance(0.2)) return this.#field();
    return random.pick(this.#pointers) + (random.chance(0.1) ? BigInt(random.below(64)) : 0n);
  }

  #field(): bigint {
    const random = this.#random;
    if (random.chance(0.7)) return BigInt(random.pick([0, 1, 2, 8, 48, 58, 72, 100, 2000, 65_491]));
    const near = BigInt(random.below(40) - 20);
    const end = BigInt(HEAP_BASE) + this.#size;
    const base = random.pick([
      0n,
      BigInt(HEAP_BASE),
      end,
      2n ** 31n,
      2n ** 32n,
      2n ** 53n,
      2n ** 64n,
    ]);
    return random.chance(0.1) ? BigInt(random.word()) << 32n | BigInt(random.word()) : base + near;
  }
}

function fieldBytes(value: bigint): number[] {
  const view = new DataView(new ArrayBuffer(FIELD));
  view.setBigUint64(0, value);
  return [...new Uint8Array(view.buffer)];
}

/** What docs/protocol.md (section 7) says of a datagram's first word, without the code that reads it. */
function classOf(datagram: Uint8Array): "tagged" | "silent" | "classic" {
  if (datagram.length < 8 || (datagram[6]! & 0x80) !== 0) return "silent";
  if ((datagram[6]! & 0x01) !== 0) return "tagged";
  const isClassic = datagram.subarray(0, 7).every((byte) => byte === 0);
  return isClassic && [0, 2].includes(datagram[7]!) ? "classic" : "silent";
}

/** The replies in a datagram: opcode and status of each. Throws if they are not just the datagram. */
function* repliesIn(reply: Uint8Array): Generator<{ opcode: number; status: number }> {
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  let at = 0;
  while (at < reply.length) {
    assert((view.getUint8(at + 6) & 0x81) === 0x81);
    yield { opcode: view.getUint8(at + 7), status: view.getUint16(at + 4) };
    at += REPLY_HEAD + Number(view.getBigUint64(at + FIELD));
  }
  assertEquals(at, reply.length);
}

/** A token of the sender, as hello tells it. */
function tokenOf(box: Box, { host, port }: Sender): bigint {
  box.from(host, port);
  const hello = box.askBytes(Uint8Array.fromHex("0000000100000307" + "00".repeat(16)))!;
  return new DataView(hello.buffer, hello.byteOffset).getBigUint64(REPLY_HEAD + 5 * FIELD);
}

function check(box: Box, datagram: Uint8Array, sender: Sender, hasToken: boolean) {
  const before = box.heap.buddy.liveBlocks;
  const reply = box.askBytes(datagram)?.slice();
  const { liveBlocks } = box.heap.buddy;
  if (sender.kind === "ignored") {
    assertEquals(reply, undefined, "who is ignored is answered");
    assertEquals(liveBlocks, before, "who is ignored has changed something");
    return undefined;
  }
  const kind = classOf(datagram);
  assertEquals(reply !== undefined, kind !== "silent", `answered or not: ${kind}`);
  if (reply === undefined) return undefined;
  assert(reply.length <= MAX_DATAGRAM);
  const isProven = sender.kind === "proven" || hasToken;
  if (!isProven) {
    assert(reply.length <= AMPLIFICATION * datagram.length, `${reply.length} bytes`);
  }
  if (kind !== "tagged") return reply;
  let changed = 0;
  for (const { opcode, status } of repliesIn(reply)) {
    assert(status !== 0 || isProven || !FOR_PROVEN.includes(opcode), `opcode ${opcode} unproven`);
    if (status === 0 && opcode !== METHODS.read.opcode) changed++;
  }
  if (changed === 0 && !isProven) {
    assertEquals(liveBlocks, before, "refused, and changed something");
  }
  assertEquals(box.askBytes(reply), undefined, "a reply is answered");
  return reply;
}

function besiege(box: Box, size: number, seed: number, steps: number): void {
  const random = new Random(seed);
  const token = tokenOf(box, SENDERS[1]!);
  const attacker = new Attacker(random, size, token);
  const tokenHex = token.toString(16).padStart(16, "0");
  for (let step = 0; step < steps; step++) {
    const sender = random.pick(SENDERS);
    const datagram = attacker.datagram();
    box.from(sender.host, sender.port);
    // Whoever has it may be who it was made for.
    const hasToken = datagram.subarray(16, 24).toHex() === tokenHex &&
      sender.host === SENDERS[1]!.host;
    try {
      const reply = check(box, datagram, sender, hasToken);
      if (reply !== undefined) attacker.note(reply);
    } catch (cause) {
      const context = `seed ${seed}, step ${step}, ${sender.host}: ${datagram.toHex()}`;
      throw new Error(context, { cause });
    }
    if (random.chance(0.01)) box.clock[0]! += random.below(100);
  }
  assertEquals(box.count("blocks"), box.heap.buddy.liveBlocks);
  assert(box.count("refused") > 100);
}

const SIZE = 1024 ** 2;
const BOXES: Readonly<Record<string, BoxOptions>> = {
  "": {},
  ", strict": { strict: true },
  ", with procedures": { fuel: 1000 },
  ", with a quota": { quota: SIZE / 16 },
};

for (const [what, options] of Object.entries(BOXES)) {
  Deno.test(`serve() holds what it promises, whoever sends what${what}`, () => {
    const box = new Box({ size: SIZE, port: PORT, ...options });
    if (options.fuel !== undefined) install(box);
    besiege(box, SIZE, 11, STEPS);
  });
}

Deno.test("serve() holds what it promises, whoever sends what, with a heap file", () => {
  const state = newState({ memory: SIZE, replayCache: 64 });
  const { sync, snapshot } = state.service;
  sync[ChoreFigure.possible] = snapshot[ChoreFigure.possible] = 1;
  const memory = newHeapMemory(SIZE);
  const undo = new Undo(state.undo, newSavedMemory(SIZE), memory);
  const box = new Box({ size: SIZE, port: PORT, state, memory, undo });
  besiege(box, SIZE, 12, STEPS);
  assertEquals(state.undo.log[0], 0, "nothing is half done");
});

/** So that there is something to call. */
function install(box: Box): void {
  const hex = (value: number | bigint) => value.toString(16).padStart(16, "0");
  const pointer = box.ask(hex(0) + hex(MODULE.length))!;
  box.ask(hex(3) + pointer + hex(MODULE.length) + MODULE.toHex());
  const reply = box.ask("0000000200000108" + pointer + hex(MODULE.length));
  assertEquals(reply?.slice(32), hex(HANDLE));
}

const FENCE = "fffffffe00000107";

for (const name of ["datagram", "syscall"] as const) {
  socketTest(`the engine ${name} survives whatever is sent, and answers in the end`, async () => {
    const options = newOptions({ memory: SIZE, fuel: 1000 });
    const started = await startEngine(name, options).catch((error) => {
      if (!(error instanceof Unavailable)) throw error;
      console.log(`${name} is skipped: ${error.message}`);
    });
    if (started === undefined) return;
    const { engine } = started;
    const address = { transport: "udp", ...engine.address } as const;
    const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const attacker = new Attacker(new Random(13), SIZE, 0n);
    try {
      for (let round = 0; round < 1000; round++) {
        // One at a time: a few long replies would fill the socket's receive buffer.
        await socket.send(attacker.datagram(), address);
        await socket.send(Uint8Array.fromHex(FENCE), address);
        let reply: Uint8Array;
        do {
          [reply] = await socket.receive();
          attacker.note(reply);
        } while (!reply.subarray(0, 4).toHex().startsWith(FENCE.slice(0, 8)));
      }
      const { counters } = options.state.service;
      assertEquals(counters[Counter.received], 2 * 1000);
      assertEquals([counters[Counter.receiveErrors], counters[Counter.sendErrors]], [0, 0]);
    } finally {
      socket.close();
      await engine.close();
    }
  });
}
