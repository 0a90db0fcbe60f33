/** Sessions: epochs, tokens, and what goes back to whom. */

import { assert, assertEquals } from "@std/assert";
import { HEAP_BASE, MIN_HEAP } from "../../lib/heap/heap.ts";
import { MAX_DATAGRAM } from "../../lib/protocol/wire.ts";
import { ERRNO } from "../../lib/protocol/errno.ts";
import { UNPROVEN_BYTES_PER_SECOND } from "../../lib/daemon/reply_budget.ts";
import { Box, type BoxOptions, fields, head, word } from "../testing.ts";

const [MALLOC, FREE, READ, WRITE, ADD, HELLO] = [0, 1, 2, 3, 6, 7];
const { EPERM, EINVAL, ESTALE } = ERRNO;
const BASE = HEAP_BASE;
const STRANGER = "192.0.2.1";

/** The word of a request with the session flag, epoch and token, in hex. */
function session(tag: number, opcode: number, epoch: bigint, token: bigint): string {
  return word(tag, opcode, { flags: 0x03 }) + fields(epoch, token);
}

function sessionHead(tag: number, opcode: number, status: number, bodyLength: number): string {
  return word(tag, opcode, { status, flags: 0x83 }) + fields(bodyLength);
}

/** What hello tells in a session. */
function hello(box: Box, token = 0n) {
  const reply = box.ask(session(1, HELLO, 0n, token))!;
  assertEquals(reply.slice(0, 32), sessionHead(1, HELLO, 0, 56));
  const [epoch, base, size, largest, version, given, share] = Array.from(
    { length: 7 },
    (_, i) => BigInt("0x" + reply.slice(32 + 16 * i, 48 + 16 * i)),
  );
  return { epoch: epoch!, base, size, largest, version, token: given!, share };
}

function boxFor(hostname: string, options: BoxOptions = {}): Box {
  const box = new Box({ size: 128 * 1024, ...options });
  box.from(hostname, 40000);
  return box;
}

Deno.test("hello tells seven fields in a session, and five without one, as it always did", () => {
  const box = new Box();
  const { epoch, token, ...rest } = hello(box);
  assert(epoch !== 0n && token !== 0n);
  assertEquals(rest, {
    base: BigInt(BASE),
    size: BigInt(MIN_HEAP),
    largest: BigInt(MAX_DATAGRAM),
    version: 2n,
    share: 64n,
  });
  const before = head(2, HELLO, 0, 40) + fields(epoch, BASE, MIN_HEAP, MAX_DATAGRAM, 1);
  assertEquals(box.ask(word(2, HELLO)), before);
});

Deno.test("a session's epoch holds for all requests of its datagram but hello", () => {
  const box = new Box();
  const { epoch } = hello(box);
  const requests = (epoch: bigint) =>
    session(1, ADD, epoch, 0n) + fields(BASE, 1) + word(2, HELLO) +
    word(3, WRITE) + fields(BASE + 8, 1) + "ff";
  const stale = box.ask(requests(epoch ^ 1n << 40n))!;
  assertEquals(stale.slice(0, 32), sessionHead(1, ADD, ESTALE, 0));
  assertEquals(stale.slice(32, 64), head(2, HELLO, 0, 40));
  assertEquals(stale.slice(144), head(3, WRITE, ESTALE, 0));
  assertEquals(box.ask(fields(READ, BASE, 16)), fields(0, 0), "nothing was done");
  for (const claimed of [0n, epoch]) {
    const done = box.ask(requests(claimed))!;
    assertEquals(done.slice(0, 32), sessionHead(1, ADD, 0, 8), "it was not remembered either");
    assertEquals(done.slice(-32), head(3, WRITE, 0, 0));
  }
  assertEquals(box.ask(fields(READ, BASE, 8)), fields(1), "the second was a repeat of the first");
});

Deno.test("a pointer of an earlier life frees nothing in the next", () => {
  const { epoch } = hello(new Box());
  const box = new Box();
  assertEquals(box.ask(fields(MALLOC, 16)), fields(BASE));
  const free = session(1, FREE, epoch, 0n) + fields(BASE);
  assertEquals(box.ask(free), sessionHead(1, FREE, ESTALE, 0));
  assertEquals(box.heap.buddy.liveBlocks, 1);
});

Deno.test("a repeat is known with the session flag and without", () => {
  const box = new Box();
  const add = session(7, ADD, 0n, 0n) + fields(BASE, 1);
  const later = word(7, ADD) + fields(BASE, 1);
  const expected = head(7, ADD, 0, 8) + fields(0);
  assertEquals(box.ask(add), sessionHead(7, ADD, 0, 8) + fields(0));
  assertEquals(box.ask(word(8, FREE) + fields(0) + later), head(8, FREE, 0, 0) + expected);
  assertEquals(box.ask(add), sessionHead(7, ADD, 0, 8) + fields(0));
});

Deno.test("the session flag is EINVAL on any request but the first, and the next is found", () => {
  const box = new Box();
  const reply = box.ask(
    word(1, FREE) + fields(0) + session(2, ADD, 0n, 0n) + fields(BASE, 1) + word(3, FREE) +
      fields(0),
  );
  assertEquals(reply, head(1, FREE, 0, 0) + sessionHead(2, ADD, EINVAL, 0) + head(3, FREE, 0, 0));
});

Deno.test("a session that is cut short is EINVAL", () => {
  const box = new Box();
  for (let length = 8; length < 24; length++) {
    const request = session(1, HELLO, 0n, 0n).slice(0, 2 * length);
    assertEquals(box.ask(request), sessionHead(1, HELLO, EINVAL, 0));
  }
});

Deno.test("who has proven nothing gets three times what it sent, and no more", () => {
  const box = boxFor(STRANGER);
  const read = (length: number) => box.ask(word(1, READ) + fields(BASE, length));
  assertEquals(read(56), head(1, READ, 0, 56) + "00".repeat(56));
  assertEquals(read(57), head(1, READ, EPERM, 0));
  assertEquals(box.ask(fields(READ, BASE, 72)), "00".repeat(72));
  assertEquals(box.ask(fields(READ, BASE, 73)), "");
  assertEquals(box.ask(word(1, HELLO)), head(1, HELLO, EPERM, 0));
  assertEquals(box.ask(word(2, MALLOC) + fields(16)), head(2, MALLOC, 0, 8) + fields(BASE));
  assertEquals(box.service.proven, 0);
  for (let requests = 1; requests < 4200; requests += 399) {
    const request = word(1, HELLO).repeat(requests);
    const reply = box.ask(request)!;
    assert(reply.length <= 3 * request.length, `${requests} hellos`);
  }
});

Deno.test("who brings back its token gets all that it asks for", () => {
  for (const hostname of [STRANGER, "2001:db8::1"]) {
    const box = boxFor(hostname);
    const { token } = hello(box);
    const read = session(1, READ, 0n, token) + fields(BASE, 60000);
    assertEquals(box.ask(read)?.length, 2 * 60016);
    assertEquals(box.service.proven, 1);
    box.from(hostname, 40001);
    assertEquals(box.ask(read), sessionHead(1, READ, EPERM, 0), "the token is another port's");
    assertEquals(box.service.proven, 0);
  }
});

Deno.test("this host has nothing to prove", () => {
  for (const hostname of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"]) {
    const box = boxFor(hostname);
    assertEquals(box.ask(fields(READ, BASE, 60000))?.length, 2 * 60000, hostname);
    assertEquals(box.service.proven, 1);
  }
  const box = boxFor("::ffff:126.0.0.1");
  assertEquals(box.ask(fields(READ, BASE, 60000)), "");
});

Deno.test("admitted networks have a budget for each address, each second", () => {
  const box = boxFor(STRANGER, { allow: ["192.0.2.0/24"] });
  const read = fields(READ, BASE, 65000);
  let bytes = 0;
  for (;;) {
    const reply = box.ask(read)!;
    if (reply === "") break;
    bytes += reply.length / 2 - 72;
  }
  assert(bytes <= UNPROVEN_BYTES_PER_SECOND && bytes > UNPROVEN_BYTES_PER_SECOND - 65000);
  box.from(STRANGER, 40001);
  assertEquals(box.ask(read), "", "another port is the same address");
  const { token } = hello(box);
  const proven = session(1, READ, 0n, token) + fields(BASE, 60000);
  assertEquals(box.ask(proven)?.length, 2 * 60016, "its token needs no budget");
  box.clock[0]!++;
  assertEquals(box.ask(read)?.length, 2 * 65000);
});

Deno.test("unvalidated, everybody gets all that it asks for", () => {
  const box = boxFor(STRANGER, { unvalidated: true });
  assertEquals(box.ask(fields(READ, BASE, 60000))?.length, 2 * 60000);
  assertEquals(box.service.proven, 0);
});

Deno.test("serve() drops and counts senders with a port below 1024, unless they are allowed", () => {
  for (const lowPorts of [false, true]) {
    const box = new Box({ lowPorts });
    for (const port of [1, 514, 1023]) {
      box.from("127.0.0.1", port);
      assertEquals(box.ask(fields(READ, BASE, 1)), lowPorts ? "00" : undefined);
    }
    assertEquals(box.count("dropped"), lowPorts ? 0 : 3);
    box.from("127.0.0.1", 1024);
    assertEquals(box.ask(fields(READ, BASE, 1)), "00");
  }
});
