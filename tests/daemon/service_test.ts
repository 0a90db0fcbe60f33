import { assert, assertEquals } from "@std/assert";
import { figures, namedCounts } from "../../lib/daemon/counters.ts";
import { GRAIN, HEAP_BASE, MAX_HEAP, MIN_HEAP } from "../../lib/heap/heap.ts";
import { MAX_DATAGRAM } from "../../lib/protocol/wire.ts";
import { ERRNO } from "../../lib/protocol/errno.ts";
import { Effect } from "../../lib/daemon/service.ts";
import { Box, fields, head, Random, word } from "../testing.ts";

const [MALLOC, FREE, READ, WRITE, REALLOC, CAS, ADD, HELLO] = [0, 1, 2, 3, 4, 5, 6, 7];
const { ENOMEM, EACCES, EFAULT, EINVAL, ENOSYS, EMSGSIZE } = ERRNO;

/** 65,507 bytes less a reply's head. */
const MAX_TAGGED_READ = 65491;

const BASE = HEAP_BASE;
const END = BASE + MIN_HEAP;
const NO_REPLY = undefined;
const EMPTY = "";
const ALL_ONES = 2n ** 64n - 1n;

/** The allocator's gauges, and every other count that is not 0, but for those of requests. */
function counts(box: Box): Record<string, number> {
  const gauges = ["blocks", "bytes", "highWater"];
  const counted = figures().filter(({ name, kind }) => kind === "counter" || gauges.includes(name))
    .filter(({ family }) => !["requests", "payload", "turns"].includes(family));
  const { counters } = box;
  return Object.fromEntries(
    counted.map(({ name, at }) => [name, counters[at]!] as const)
      .filter(([name, count]) => gauges.includes(name) || count !== 0),
  );
}

/** One allocation of 32 bytes, in use, and a heap that is full but for it. */
function fullBox(): Box {
  const box = new Box({ strict: true });
  assertEquals(box.ask(fields(MALLOC, 32)), fields(BASE));
  for (let size = 32; size < MIN_HEAP; size *= 2) box.ask(fields(MALLOC, size));
  assertEquals(box.heap.buddy.largestFreeOrder, -1);
  return box;
}

interface Case {
  what: string;
  request: string;
  reply: string | undefined;
  counts: Record<string, number>;
}

/** Each is asked of a new service whose heap of 4 KiB holds one block of 32 bytes, at BASE. */
const CASES: Case[] = [
  {
    what: "a classic malloc of 2^64 - 1 bytes",
    request: fields(MALLOC, ALL_ONES),
    reply: fields(0),
    counts: { "refused.outOfMemory": 1 },
  },
  {
    what: "a classic malloc of 0 bytes",
    request: fields(MALLOC, 0),
    reply: fields(BASE + 32),
    counts: { blocks: 2, bytes: 48, highWater: 48 },
  },
  {
    what: "a classic malloc with bytes after it",
    request: fields(MALLOC, 16, ALL_ONES, ALL_ONES),
    reply: fields(BASE + 32),
    counts: { blocks: 2, bytes: 48, highWater: 48 },
  },
  {
    what: "a classic request with another after it, which is not seen",
    request: fields(FREE, BASE) + fields(MALLOC, 16),
    reply: NO_REPLY,
    counts: { blocks: 0, bytes: 0 },
  },
  {
    what: "a classic free of NULL",
    request: fields(FREE, 0),
    reply: NO_REPLY,
    counts: {},
  },
  {
    what: "a classic free inside of a block",
    request: fields(FREE, BASE + 16),
    reply: NO_REPLY,
    counts: { "refused.notAllocated": 1, silent: 1 },
  },
  {
    what: "a classic free of what is free",
    request: fields(FREE, BASE + 64),
    reply: NO_REPLY,
    counts: { "refused.alreadyFree": 1, silent: 1 },
  },
  {
    what: "a classic free of 2^64 - 1",
    request: fields(FREE, ALL_ONES),
    reply: NO_REPLY,
    counts: { "refused.outsideHeap": 1, silent: 1 },
  },
  {
    what: "a classic write of 0 bytes at the end of the heap",
    request: fields(WRITE, END, 0),
    reply: NO_REPLY,
    counts: {},
  },
  {
    what: "a classic write over the end of the heap",
    request: fields(WRITE, END - 8, 9) + "ff".repeat(9),
    reply: NO_REPLY,
    counts: { "refused.outsideHeap": 1, silent: 1 },
  },
  {
    what: "a classic write of 2^64 - 1 bytes",
    request: fields(WRITE, BASE, ALL_ONES) + "ff".repeat(100),
    reply: NO_REPLY,
    counts: { "refused.truncated": 1, silent: 1 },
  },
  {
    what: "a classic read of 0 bytes",
    request: fields(READ, BASE, 0),
    reply: EMPTY,
    counts: {},
  },
  {
    what: "a classic read of 0 bytes at NULL",
    request: fields(READ, 0, 0),
    reply: EMPTY,
    counts: { "refused.outsideHeap": 1 },
  },
  {
    what: "a classic read of the last bytes",
    request: fields(READ, END - 3, 3),
    reply: "000000",
    counts: {},
  },
  {
    what: "a classic read over the end",
    request: fields(READ, END - 3, 4),
    reply: EMPTY,
    counts: { "refused.outsideHeap": 1 },
  },
  {
    what: "a classic read of 65,508 bytes, which is too long before it is anything else",
    request: fields(READ, 0, MAX_DATAGRAM + 1),
    reply: EMPTY,
    counts: { "refused.tooLong": 1 },
  },
  {
    what: "an empty datagram",
    request: "",
    reply: NO_REPLY,
    counts: { "refused.truncated": 1, silent: 1 },
  },
  {
    what: "a realloc without a tag",
    request: fields(REALLOC, BASE, 64),
    reply: NO_REPLY,
    counts: { "refused.unknownMethod": 1, silent: 1 },
  },
  {
    what: "a word with a status, but no flags",
    request: word(0, MALLOC, { status: 1, flags: 0 }) + fields(16),
    reply: NO_REPLY,
    counts: { "refused.unknownMethod": 1, silent: 1 },
  },
  {
    what: "a word with a tag, but no flags",
    request: word(1, MALLOC, { flags: 0 }) + fields(16),
    reply: NO_REPLY,
    counts: { "refused.unknownMethod": 1, silent: 1 },
  },
  {
    what: "a word with a flag that is neither",
    request: word(0, MALLOC, { flags: 0x40 }) + fields(16),
    reply: NO_REPLY,
    counts: { "refused.unknownMethod": 1, silent: 1 },
  },
  {
    what: "a reply, with or without the tagged flag",
    request: word(7, MALLOC, { flags: 0x80 }) + fields(16),
    reply: NO_REPLY,
    counts: { "refused.unknownMethod": 1, silent: 1 },
  },
  {
    what: "tag 0, and tag 2^32 - 1",
    request: word(0, ADD) + fields(BASE, 1) + word(2 ** 32 - 1, ADD) + fields(BASE, 1),
    reply: head(0, ADD, 0, 8) + fields(0) + head(2 ** 32 - 1, ADD, 0, 8) + fields(1),
    counts: {},
  },
  {
    what: "a tagged malloc of 2^64 - 1 bytes",
    request: word(7, MALLOC) + fields(ALL_ONES),
    reply: head(7, MALLOC, ENOMEM, 0),
    counts: { "refused.outOfMemory": 1 },
  },
  {
    what: "a tagged free of NULL",
    request: word(7, FREE) + fields(0),
    reply: head(7, FREE, 0, 0),
    counts: {},
  },
  {
    what: "a realloc of NULL to 0 bytes",
    request: word(7, REALLOC) + fields(0, 0),
    reply: head(7, REALLOC, 0, 8) + fields(BASE + 32),
    counts: { blocks: 2, bytes: 48, highWater: 48 },
  },
  {
    what: "a realloc that grows in place",
    request: word(7, REALLOC) + fields(BASE, MIN_HEAP),
    reply: head(7, REALLOC, 0, 8) + fields(BASE),
    counts: { bytes: MIN_HEAP, highWater: MIN_HEAP },
  },
  {
    what: "a realloc of what is free",
    request: word(7, REALLOC) + fields(BASE + 64, 0),
    reply: head(7, REALLOC, EINVAL, 0),
    counts: { "refused.alreadyFree": 1 },
  },
  {
    what: "a compare-and-swap over the end, which is there before it is misaligned",
    request: word(7, CAS) + fields(END - 4, 0, 1),
    reply: head(7, CAS, EFAULT, 0),
    counts: { "refused.outsideHeap": 1 },
  },
  {
    what: "a fetch-and-add that is misaligned",
    request: word(7, ADD) + fields(BASE + 4, 1),
    reply: head(7, ADD, EINVAL, 0),
    counts: { "refused.misaligned": 1 },
  },
  {
    what: "every opcode that there is not",
    request: word(7, 0xff),
    reply: head(7, 0xff, ENOSYS, 0),
    counts: { "refused.unknownMethod": 1 },
  },
  {
    what: "an unknown opcode with unknown flags",
    request: word(7, 99, { flags: 0x7f, status: 0xffff }),
    reply: word(7, 99, { flags: 0xff, status: ENOSYS }) + fields(0),
    counts: { "refused.unknownMethod": 1 },
  },
  {
    what: "flags that do not exist, and the request after it",
    request: word(7, FREE, { flags: 0x05 }) + fields(BASE) + word(8, READ) + fields(BASE, 1),
    reply: word(7, FREE, { flags: 0x85, status: EINVAL }) + fields(0) + head(8, READ, 0, 1) + "00",
    counts: { "refused.badWord": 1 },
  },
  {
    what: "a classic request after a tagged one, which is ignored",
    request: word(7, FREE) + fields(BASE) + fields(MALLOC, 16),
    reply: head(7, FREE, 0, 0),
    counts: { blocks: 0, bytes: 0 },
  },
  {
    what: "7 bytes after a tagged request, which are ignored",
    request: word(7, FREE) + fields(BASE) + word(8, FREE).slice(0, 14),
    reply: head(7, FREE, 0, 0),
    counts: { blocks: 0, bytes: 0 },
  },
  {
    what: "a request that is cut short after one that is whole",
    request: word(7, FREE) + fields(BASE) + word(8, FREE) + "00".repeat(7),
    reply: head(7, FREE, 0, 0) + head(8, FREE, EINVAL, 0),
    counts: { blocks: 0, bytes: 0, "refused.truncated": 1 },
  },
  {
    what: "requests that see what those before them did",
    request: word(1, FREE) + fields(BASE) + word(2, MALLOC) + fields(64) +
      word(3, WRITE) + fields(BASE, 3) + "010203" + word(4, READ) + fields(BASE, 4) +
      word(5, CAS) + fields(BASE, 0x0102030000000000n, 5) + word(6, ADD) + fields(BASE, -6),
    reply: head(1, FREE, 0, 0) + head(2, MALLOC, 0, 8) + fields(BASE) +
      head(3, WRITE, 0, 0) + head(4, READ, 0, 4) + "01020300" +
      head(5, CAS, 0, 8) + "0102030000000000" + head(6, ADD, 0, 8) + fields(5),
    counts: { bytes: 64, highWater: 64 },
  },
];

for (const { what, request, reply, counts: expected } of CASES) {
  Deno.test(`serve() answers ${what}`, () => {
    const box = new Box();
    box.ask(fields(MALLOC, 32));
    assertEquals(box.ask(request), reply);
    assertEquals(counts(box), { blocks: 1, bytes: 32, highWater: 32, ...expected });
  });
}

Deno.test("serve() refuses the same in a full, strict heap, and harms nothing", () => {
  const box = fullBox();
  const before = box.heap.buddy.liveBlocks;
  assertEquals(box.ask(fields(MALLOC, 0)), fields(0));
  assertEquals(box.ask(word(1, MALLOC) + fields(0)), head(1, MALLOC, ENOMEM, 0));
  assertEquals(box.ask(word(2, REALLOC) + fields(BASE, 33)), head(2, REALLOC, ENOMEM, 0));
  assertEquals(box.ask(word(3, READ) + fields(BASE, 33)), head(3, READ, EACCES, 0));
  assertEquals(box.ask(word(4, WRITE) + fields(BASE + 31, 2) + "0000"), head(4, WRITE, EACCES, 0));
  assertEquals(box.ask(fields(READ, BASE, 33)), EMPTY);
  assertEquals(box.ask(fields(READ, BASE, 32)), "00".repeat(32));
  assertEquals(box.heap.buddy.liveBlocks, before);
});

/** A whole request of each method. */
const WHOLE: Record<string, string> = {
  malloc: fields(MALLOC, 16),
  free: fields(FREE, BASE),
  read: fields(READ, BASE, 16),
  write: fields(WRITE, BASE, 5) + "ffffffffff",
  "tagged malloc": word(7, MALLOC) + fields(16),
  "tagged free": word(7, FREE) + fields(BASE),
  "tagged read": word(7, READ) + fields(BASE, 16),
  "tagged write": word(7, WRITE) + fields(BASE, 5) + "ffffffffff",
  realloc: word(7, REALLOC) + fields(BASE, 64),
  cas: word(7, CAS) + fields(BASE, 0, ALL_ONES),
  add: word(7, ADD) + fields(BASE, ALL_ONES),
  hello: word(7, HELLO),
};

for (const [name, request] of Object.entries(WHOLE)) {
  const bytes = request.length / 2;
  Deno.test(`serve() executes no ${name} that lacks any of its ${bytes} bytes`, () => {
    for (let length = 0; length < bytes; length++) {
      const box = new Box();
      box.ask(fields(MALLOC, 32));
      box.leave(request);
      const reply = box.ask(request.slice(0, 2 * length));
      const expected = length < 8
        ? NO_REPLY
        : name === "malloc"
        ? fields(0)
        : name === "read"
        ? EMPTY
        : name === "free" || name === "write"
        ? NO_REPLY
        : request.slice(0, 10) + "1681" + request.slice(14, 16) + fields(0); // EINVAL
      assertEquals(reply, expected, `${length} bytes`);
      assertEquals(box.count("blocks"), 1);
      assertEquals(box.heap.buddy.orderAt(0), 1);
      assertEquals(box.ask(fields(READ, BASE, 32)), "00".repeat(32));
      assertEquals(counts(box)["refused.truncated"], 1);
    }
    const box = new Box();
    box.ask(fields(MALLOC, 32));
    box.ask(request);
    assertEquals(counts(box)["refused.truncated"], undefined, "the whole of it");
  });
}

Deno.test("serve() never uses the bytes that an earlier, longer datagram left in the buffer", () => {
  const box = new Box();
  const write = fields(WRITE, BASE, 64);
  const [ours, theirs] = ["00".repeat(64), "5e".repeat(64)];
  for (let length = 0; length < 64; length++) {
    box.leave(write + theirs);
    assertEquals(box.ask(write + ours.slice(0, 2 * length)), NO_REPLY);
    box.leave(word(7, WRITE) + write.slice(16) + theirs);
    box.ask(word(7, WRITE) + write.slice(16) + ours.slice(0, 2 * length));
    assertEquals(box.ask(fields(READ, BASE, 64)), ours, `${length} bytes came`);
  }
  box.leave((word(1, ADD) + fields(BASE, 1)).repeat(2));
  assertEquals(box.ask(word(1, ADD) + fields(BASE, 1))?.length, 2 * 24, "one request came");
});

Deno.test("serve() writes nothing of a write that is too short, and all of one that is too long", () => {
  const box = new Box();
  box.ask(fields(WRITE, BASE, 3) + "01");
  assertEquals(box.ask(fields(READ, BASE, 4)), "00000000");
  box.ask(fields(WRITE, BASE, 3) + "0102030405");
  assertEquals(box.ask(fields(READ, BASE, 4)), "01020300");
});

Deno.test("serve() answers a repeat from the cache, and EINVAL to another request with its tag", () => {
  const box = new Box();
  const reply = box.ask(word(7, MALLOC) + fields(32));
  const reused = (opcode: number) => head(7, opcode, EINVAL, 0);
  assertEquals(reply, head(7, MALLOC, 0, 8) + fields(BASE));
  assertEquals(box.ask(word(7, MALLOC) + fields(32)), reply);
  assertEquals(box.ask(word(7, MALLOC) + fields(64)), reused(MALLOC), "another length");
  assertEquals(box.ask(word(7, FREE) + fields(BASE)), reused(FREE), "another method");
  assertEquals(box.ask(word(8, WRITE) + fields(BASE, 5) + "0102030405"), head(8, WRITE, 0, 0));
  assertEquals(
    box.ask(word(8, WRITE) + fields(BASE, 5) + "0102030406"),
    head(8, WRITE, EINVAL, 0),
    "another last byte",
  );
  assertEquals(box.ask(fields(READ, BASE, 5)), "0102030405");
  assertEquals(box.count("blocks"), 1);
  assertEquals(counts(box)["refused.tagReused"], 3);
  assertEquals(box.count("replays"), 1);
  assertEquals(namedCounts(box.counters).find(([name]) => name === "requests.malloc")?.[1], 1);
});

Deno.test("serve() knows another request with a tag, however its bytes were chosen", () => {
  for (let i = 0; i < 8; i++) { // each box has keys of its own
    const box = new Box();
    const write = (data: string) => box.ask(word(7, WRITE) + fields(BASE, 8) + data);
    assertEquals(write("1111111122222222"), head(7, WRITE, 0, 0));
    // The second word's change cancels what multiplying by any odd number makes of the first's.
    assertEquals(write("91111111a2262222"), head(7, WRITE, EINVAL, 0));
  }
});

Deno.test("serve() remembers no refusals", () => {
  const box = fullBox();
  assertEquals(box.ask(word(7, MALLOC) + fields(32)), head(7, MALLOC, ENOMEM, 0));
  box.ask(fields(FREE, BASE));
  assertEquals(box.ask(word(7, MALLOC) + fields(32)), head(7, MALLOC, 0, 8) + fields(BASE));
});

Deno.test("serve() repeats no add because strangers free NULL and ask for the impossible", () => {
  const box = new Box({ replayCache: 16 });
  const add = word(7, ADD) + fields(BASE, 1);
  const reply = box.ask(add);
  box.from("127.0.0.1", 40001);
  for (let i = 0; i < 17; i++) {
    box.ask(Array.from({ length: 100 }, (_, j) => word(100 * i + j, FREE) + fields(0)).join(""));
    box.ask(word(i, FREE) + fields(BASE + 1));
    box.ask(word(i, MALLOC) + fields(ALL_ONES));
  }
  for (let i = 0; i < 100; i++) box.ask(word(i, WRITE) + fields(BASE + 8, 1) + "ff");
  box.from("127.0.0.1", 40000);
  assertEquals(box.ask(add), reply);
  assertEquals(box.ask(fields(READ, BASE, 8)), fields(1));
});

Deno.test("serve() carries out every tagged method but read and hello once", () => {
  const box = new Box({ size: 64 * 1024 });
  box.ask(fields(MALLOC, 8192)); // so that what comes has to be moved
  const once = [
    word(1, MALLOC) + fields(32),
    word(2, WRITE) + fields(BASE + 32, 1) + "01",
    word(3, CAS) + fields(BASE + 40, 0, 1),
    word(4, ADD) + fields(BASE + 48, 1),
    word(5, REALLOC) + fields(BASE, 20000),
    word(6, FREE) + fields(BASE + 8192),
  ];
  const first = once.map((request) => box.ask(request));
  const state = box.ask(fields(READ, BASE, 60000));
  const { liveBlocks, grainsInUse } = box.heap.buddy;
  assertEquals(once.map((request) => box.ask(request)), first);
  assertEquals(box.ask(once.join("")), first.join(""), "in one datagram, too");
  assertEquals(box.ask(fields(READ, BASE, 60000)), state);
  assertEquals([box.heap.buddy.liveBlocks, box.heap.buddy.grainsInUse], [liveBlocks, grainsInUse]);
  assertEquals(box.count("replays"), 12);
});

Deno.test("serve() neither remembers reads and hellos nor asks for them", () => {
  const box = new Box();
  const read = word(7, READ) + fields(BASE, 1);
  assertEquals(box.ask(read), head(7, READ, 0, 1) + "00");
  box.ask(word(7, WRITE) + fields(BASE, 1) + "ff");
  assertEquals(box.ask(read), head(7, READ, 0, 1) + "ff");
  assertEquals(box.ask(word(7, HELLO))?.slice(0, 32), head(7, HELLO, 0, 40));
  assertEquals(box.count("replays"), 0);
});

Deno.test("serve() takes the same tag of another sender, or after a minute, for a new request", () => {
  const box = new Box();
  const add = word(7, ADD) + fields(BASE, 1);
  const reply = (old: number) => head(7, ADD, 0, 8) + fields(old);
  assertEquals([box.ask(add), box.ask(add)], [reply(0), reply(0)]);
  box.from("127.0.0.1", 40001);
  assertEquals([box.ask(add), box.ask(add)], [reply(1), reply(1)]);
  box.from("::1", 40001);
  assertEquals([box.ask(add), box.ask(add)], [reply(2), reply(2)]);
  box.clock[0] = 59;
  assertEquals(box.ask(add), reply(2));
  box.clock[0] = 60;
  assertEquals([box.ask(add), box.ask(add)], [reply(3), reply(3)]);
});

Deno.test("serve() does not remember what it could not decode", () => {
  const box = new Box();
  assertEquals(box.ask(word(7, MALLOC) + "00"), head(7, MALLOC, EINVAL, 0));
  assertEquals(box.ask(word(7, 99)), head(7, 99, ENOSYS, 0));
  assertEquals(
    box.ask(word(7, MALLOC, { status: 1 }) + fields(16)),
    head(7, MALLOC, EINVAL, 0),
  );
  assertEquals(box.ask(word(7, MALLOC) + fields(16)), head(7, MALLOC, 0, 8) + fields(BASE));
});

Deno.test("serve() neither carries out nor remembers a request that it has no room to answer", () => {
  const box = new Box({ size: 128 * 1024 });
  /** Sends a request behind a read that leaves `room` bytes for its reply. */
  const askIn = (room: number, request: string) =>
    box.ask(word(1, READ) + fields(BASE, MAX_TAGGED_READ - room) + request)
      ?.slice(2 * (MAX_DATAGRAM - room));
  const add = word(7, ADD) + fields(BASE, 1);
  const tooLong = head(7, ADD, EMSGSIZE, 0);
  const done = head(7, ADD, 0, 8) + fields(0);
  assertEquals(askIn(16, add), tooLong);
  assertEquals(askIn(23, add), tooLong);
  assertEquals(askIn(24, add), done, "it was not carried out before");
  assertEquals(askIn(23, add), tooLong, "a repeat does not fit either");
  assertEquals(askIn(24, add), done);
  assertEquals(counts(box)["refused.tooLong"], 3);
});

Deno.test("serve() carries out a datagram of 4,094 frees once, though its reply is full", () => {
  const box = new Box({ size: 128 * 1024, replayCache: 5000 });
  const requests = Math.floor(MAX_DATAGRAM / 16);
  let frees = "";
  for (let i = 0; i < requests; i++) {
    box.ask(fields(MALLOC, 16));
    frees += word(i, FREE) + fields(BASE + 16 * i);
  }
  assertEquals(box.heap.buddy.liveBlocks, requests);
  const reply = box.ask(frees);
  assertEquals(reply?.length, 2 * 16 * requests);
  assertEquals(box.heap.buddy.liveBlocks, 0);
  box.ask(fields(MALLOC, 16));
  assertEquals(box.ask(frees), reply);
  assertEquals(box.heap.buddy.liveBlocks, 1, "what was given since is not freed");
});

Deno.test("serve() carries out no malloc of a datagram so full that no pointer fits in its reply", () => {
  const box = new Box({ size: 128 * 1024 });
  const requests = Math.floor(MAX_DATAGRAM / 16);
  const reply = box.ask((word(7, MALLOC) + fields(16)).repeat(requests));
  assertEquals(reply, head(7, MALLOC, EMSGSIZE, 0).repeat(requests));
  assertEquals(box.heap.buddy.liveBlocks, 0);
});

Deno.test("serve() fills a reply to the last byte, and refuses one byte more", () => {
  const box = new Box({ size: 128 * 1024 });
  const full = box.ask(word(1, READ) + fields(BASE, MAX_TAGGED_READ));
  assertEquals(full?.length, 2 * MAX_DATAGRAM);
  const more = box.ask(word(2, READ) + fields(BASE, MAX_TAGGED_READ + 1));
  assertEquals(more, head(2, READ, EMSGSIZE, 0));
  assertEquals(box.ask(fields(READ, BASE, MAX_DATAGRAM))?.length, 2 * MAX_DATAGRAM);
  assertEquals(box.ask(fields(READ, BASE, MAX_DATAGRAM + 1)), EMPTY);

  const half = Math.floor(MAX_TAGGED_READ / 2);
  const reads = (...lengths: number[]) =>
    box.ask(lengths.map((length, i) => word(i, READ) + fields(BASE, length)).join(""));
  assertEquals(reads(half, half - 15)?.length, 2 * MAX_DATAGRAM);
  assertEquals(reads(half, half - 14)?.slice(-32), head(1, READ, EMSGSIZE, 0));
  const after = reads(half, half, 8);
  assertEquals(
    after,
    head(0, READ, 0, half) + "00".repeat(half) + head(1, READ, EMSGSIZE, 0) +
      head(2, READ, 0, 8) + fields(0),
    "the requests after the one that does not fit are carried out",
  );
});

Deno.test("serve() answers as many of 5,000 hellos as a datagram has heads for", () => {
  const box = new Box();
  const reply = box.ask(word(7, HELLO).repeat(5000));
  assertEquals(reply, head(7, HELLO, EMSGSIZE, 0).repeat(4094));
});

Deno.test("serve() carries out requests with short replies behind too many hellos", () => {
  const box = new Box();
  const hellos = word(7, HELLO).repeat(4090);
  const frees = [1, 2, 3, 4, 5].map((tag) => word(tag, FREE) + fields(0)).join("");
  const reply = box.ask(hellos + frees);
  assertEquals(reply?.length, 2 * 16 * 4094);
  assert(reply?.endsWith([1, 2, 3, 4].map((tag) => head(tag, FREE, 0, 0)).join("")));
});

Deno.test("serve() itself drops and counts what comes from a sender that is not admitted", () => {
  const box = new Box({ allow: ["192.0.2.0/24"], port: 8081 });
  const drops = () => box.count("dropped");
  assertEquals([box.ask(fields(MALLOC, 16)), drops()], [NO_REPLY, 1]);
  box.from("192.0.2.1", 8081);
  assertEquals([box.ask(word(1, MALLOC) + fields(16)), drops()], [NO_REPLY, 2]);
  box.from("192.0.2.1", 40000);
  assertEquals([box.ask(fields(MALLOC, 16)), drops()], [fields(BASE), 2]);
});

Deno.test("serve() says of what it ignores that it has changed nothing, whatever came before", () => {
  const box = new Box({ allow: ["192.0.2.0/24"] });
  const add = word(1, ADD) + fields(BASE, 1);
  const effects = ["127.0.0.1", "192.0.2.1"].flatMap((sender) =>
    [add, "000000", "0".repeat(8) + "ffffffff"].map((datagram) => {
      box.from("192.0.2.1", 40000);
      box.ask(fields(MALLOC, 16));
      assertEquals(box.service.effect, Effect.changed);
      box.from(sender, 40000);
      box.ask(datagram);
      return box.service.effect;
    })
  );
  const { read, changed } = Effect;
  assertEquals(effects, [read, read, read, changed, read, read]);
});

Deno.test("hello tells an epoch that is the service's own", () => {
  const [a, b] = [new Box(), new Box({ size: MAX_HEAP })];
  const limits = fields(MAX_DATAGRAM, 1);
  const [first, second] = [a.ask(word(1, HELLO)), b.ask(word(1, HELLO))];
  assertEquals(first?.slice(0, 32), head(1, HELLO, 0, 40));
  assertEquals(first?.slice(48), fields(BASE, MIN_HEAP) + limits);
  assertEquals(second?.slice(48), fields(BASE, MAX_HEAP) + limits);
  assert(first?.slice(32, 48) !== second?.slice(32, 48));
  assertEquals(a.ask(word(2, HELLO))?.slice(32), first?.slice(32), "the same as long as it runs");
});

/** Fields that are likely to do harm. */
function evilField(random: Random): bigint {
  const near = BigInt(random.below(40) - 20);
  const base = random.pick([0, BASE, END, BASE + 2 ** 32, 2 ** 31, 2 ** 32, 2 ** 53]);
  const value = random.chance(0.2)
    ? BigInt(random.word()) << 32n | BigInt(random.word())
    : random.pick([BigInt(base), 2n ** 63n, 2n ** 64n]) + near;
  return BigInt.asUintN(64, value);
}

function evilDatagram(random: Random): Uint8Array<ArrayBuffer> {
  const bytes = random.bytes(random.below(80));
  if (random.chance(0.2)) return bytes;
  const view = new DataView(bytes.buffer);
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const isWord = at === 0 || random.chance(0.2);
    if (!isWord) view.setBigUint64(at, evilField(random));
    else {
      view.setUint32(at, random.pick([0, 0, 1, 2 ** 32 - 1, random.word()]));
      view.setUint16(at + 4, random.chance(0.1) ? random.word() : 0);
      view.setUint8(at + 6, random.chance(0.1) ? random.word() : random.below(2));
      view.setUint8(at + 7, random.chance(0.1) ? random.word() : random.below(9));
    }
  }
  return bytes;
}

for (const strict of [false, true]) {
  Deno.test(`serve() survives 100,000 hostile datagrams${strict ? ", strict" : ""}`, () => {
    const seed = 8;
    const random = new Random(seed);
    const box = new Box({ strict });
    /** By opcode: what the count of live blocks may move by when one succeeds. */
    const moves = new Map([[MALLOC, 1], [FREE, 1], [REALLOC, 1]]);
    for (let step = 0; step < 100_000; step++) {
      const request = evilDatagram(random);
      const before = box.heap.buddy.liveBlocks;
      const context = `seed ${seed}, step ${step}: ${request.toHex()}`;
      let reply: Uint8Array | undefined;
      try {
        reply = box.askBytes(request);
      } catch (cause) {
        throw new Error(context, { cause });
      }
      assert((reply?.length ?? 0) <= MAX_DATAGRAM, context);
      const moved = Math.abs(box.heap.buddy.liveBlocks - before);
      if (moved > 0) assert(moved <= movesAllowed(request, reply, moves), context);
      const { liveBlocks, grainsInUse } = box.heap.buddy;
      assertEquals(box.count("blocks"), liveBlocks, context);
      assertEquals(box.count("bytes"), grainsInUse * GRAIN, context);
    }
    assert(counts(box)["refused.unknownMethod"]! > 1000);
    assert(counts(box)["refused.outsideHeap"]! > 1000);
    assert(counts(box)["refused.truncated"]! > 1000);
    for (let grain = 0; grain < MIN_HEAP / GRAIN; grain++) {
      box.ask(fields(FREE, BASE + grain * GRAIN));
    }
    assertEquals(box.count("blocks"), 0);
    assertEquals(box.ask(fields(MALLOC, MIN_HEAP)), fields(BASE), "it all comes back");
    assertEquals(box.ask(fields(READ, BASE, MIN_HEAP)), "00".repeat(MIN_HEAP), "as zeroes");
  });
}

/** How many of the requests of a datagram can have made or freed a block, as the reply tells. */
function movesAllowed(
  request: Uint8Array,
  reply: Uint8Array | undefined,
  moves: ReadonlyMap<number, number>,
): number {
  const tagged = (request[6]! & 0x01) !== 0;
  if (!tagged) return moves.get(request[7]!) ?? 0;
  let allowed = 0;
  for (let at = 0; at < reply!.length;) {
    const view = new DataView(reply!.buffer, reply!.byteOffset + at);
    const status = view.getUint16(4);
    if (status === 0) allowed += moves.get(view.getUint8(7)) ?? 0;
    at += 16 + Number(view.getBigUint64(8));
  }
  return allowed;
}

Deno.test("serve() takes every method word for what it is", () => {
  const box = new Box();
  box.ask(fields(MALLOC, 32));
  const bytes = new Uint8Array(32);
  const view = new DataView(bytes.buffer);
  for (const tag of [0, 1, 0x80000000]) {
    for (const status of [0, 1, 0x8000]) {
      for (let low = 0; low < 0x10000; low++) {
        const flags = low >>> 8;
        const opcode = low & 0xff;
        view.setUint32(0, tag);
        view.setUint32(4, status << 16 | low);
        view.setBigUint64(8, ALL_ONES);
        view.setBigUint64(16, ALL_ONES);
        const reply = box.askBytes(bytes);
        const classic = tag === 0 && status === 0 && flags === 0 && opcode <= WRITE;
        const tagged = (flags & 0x81) === 0x01;
        const answered = tagged || classic && (opcode === MALLOC || opcode === READ);
        const context = `tag ${tag}, status ${status}, flags ${flags}, opcode ${opcode}`;
        assertEquals(reply !== undefined, answered, context);
        if (tagged) assertEquals(reply![6], flags | 0x80, context);
        assertEquals(box.count("blocks"), 1, context);
      }
    }
  }
});

Deno.test("Service answers at any length when the engine has validated who asks", () => {
  for (const [validated, length] of [[true, 16 + 1000], [false, 16]] as const) {
    const box = new Box({ validated });
    box.from("192.0.2.1", 40000);
    const reply = box.askBytes(Uint8Array.fromHex(word(1, 2) + fields(box.heap.base, 1000)));
    assertEquals(reply?.length, length);
  }
});

Deno.test("serve() clears and moves no more in a turn than it has time for, and says EAGAIN", () => {
  const KIB = 1024;
  const box = new Box({ size: 1024 * KIB, workPerTurn: 64 * KIB });
  const all = (fill: string) => {
    for (let at = 0; at < 1024; at += 32) {
      box.ask(fields(WRITE, BASE + at * KIB, 32 * KIB) + fill.repeat(32 * KIB));
    }
  };
  all("ff");
  const malloc = word(7, MALLOC) + fields(512 * KIB);
  let tries = 0;
  let reply = head(7, MALLOC, ERRNO.EAGAIN, 0);
  while (reply === head(7, MALLOC, ERRNO.EAGAIN, 0)) {
    reply = box.ask(malloc)!;
    tries++;
  }
  assertEquals(
    reply,
    head(7, MALLOC, 0, 8) + fields(BASE),
    "with the same tag: it is not remembered",
  );
  assertEquals(tries, 8, "each try clears 64 KiB");
  for (let at = 0; at < 512; at += 32) {
    assertEquals(box.ask(fields(READ, BASE + at * KIB, 32 * KIB)), "00".repeat(32 * KIB));
  }
  assertEquals(box.ask(fields(MALLOC, 256 * KIB)), fields(0), "a classic one cannot be told");
  assertEquals(box.ask(fields(MALLOC, 4 * KIB)), fields(BASE + 512 * KIB), "small ones are done");
});

Deno.test("realloc moves within a turn, waits for a better one, or says ENOMEM if none would do", () => {
  const KIB = 1024;
  const box = new Box({ size: 1024 * KIB, workPerTurn: 64 * KIB });
  const [A, B, C] = [BASE, BASE + 32 * KIB, BASE + 64 * KIB];
  for (const length of [32, 32, 64]) box.ask(fields(MALLOC, length * KIB));
  for (const pointer of [A, B, C, C + 32 * KIB]) {
    box.ask(fields(WRITE, pointer, 32 * KIB) + "61".repeat(32 * KIB));
  }
  const realloc = (tag: number, pointer: number, length: number) =>
    word(tag, REALLOC) + fields(pointer, length * KIB);
  // Three moves of 32 KiB do not go into 64 KiB of work: the third waits.
  box.ask(fields(MALLOC, 32 * KIB));
  const D = BASE + 128 * KIB;
  box.ask(fields(WRITE, D, 32 * KIB) + "61".repeat(32 * KIB));
  box.ask(fields(MALLOC, 32 * KIB)); // so that D cannot grow in place
  const replies = box.ask(realloc(2, B, 64) + realloc(3, D, 64) + realloc(4, C, 256))!;
  assertEquals(replies.slice(8, 16), "00008104");
  assertEquals(replies.slice(56, 64), "00008104");
  assertEquals(replies.slice(96), head(4, REALLOC, ERRNO.EAGAIN, 0));
  const alone = box.ask(realloc(4, C, 256))!;
  assertEquals(alone.slice(0, 32), head(4, REALLOC, 0, 8));
  const at = Number("0x" + alone.slice(32));
  assertEquals(box.ask(fields(READ, at + 32 * KIB, 32 * KIB)), "61".repeat(32 * KIB));
  for (let part = 2; part < 8; part++) {
    box.ask(fields(WRITE, at + part * 32 * KIB, 32 * KIB) + "62".repeat(32 * KIB));
  }
  box.ask(fields(MALLOC, 256 * KIB));
  assertEquals(box.ask(realloc(5, at, 512)), head(5, REALLOC, ENOMEM, 0), "256 KiB are too much");
  assertEquals(box.ask(fields(READ, at, 1)), "61");
});
