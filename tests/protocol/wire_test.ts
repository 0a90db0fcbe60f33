/**
 * The worked examples of docs/protocol.md are the golden bytes of this file: the codec must make and
 * read them, and the service must answer them as they say. Section 1 there tells how to read them.
 */

import protocol from "../../docs/protocol.md" with { type: "text" };
import { assert, assertEquals } from "@std/assert";
import {
  Decoded,
  decodeReply,
  decodeRequest,
  encodeRequest,
  FIELD,
  Flag,
  MAX_DATAGRAM,
  type MethodName,
  METHODS,
  Reply,
  REPLY_HEAD,
  Request,
  SESSION,
  type Session,
} from "../../lib/protocol/wire.ts";
import { ERRNO, type ErrnoName } from "../../lib/protocol/errno.ts";
import { MAX_GRAINS } from "../../lib/heap/buddy.ts";
import { GRAIN } from "../../lib/heap/heap.ts";
import { newState } from "../../lib/daemon/state.ts";
import { ChoreFigure } from "../../lib/daemon/chore.ts";
import { Membership } from "../../lib/daemon/cluster/membership.ts";
import { Box } from "../testing.ts";

/** What a request of an example asks, and what the example says comes of it. */
interface Call {
  line: string;
  tag: number | undefined;
  method: MethodName;
  fields: bigint[];
  data: Uint8Array | undefined;
  result: string | undefined;
}

interface Example {
  /** The words above the bytes. */
  title: string;
  strict: boolean;
  /** Whether the daemon is part of a cluster. */
  cluster: boolean;
  /** Whether the daemon has procedures. */
  procedures: boolean;
  /** Whether its heap is in a file, of which two syncs are done and a third has begun. */
  file: boolean;
  /** Whether it comes from another host, which has not proven its address. */
  unproven: boolean;
  /** The requests that the codec can make: all but the malformed ones. */
  calls: Call[];
  malformed: boolean;
  request: Uint8Array;
  /** Hex; ".." is any byte, "(..)*" any number of them; undefined if there is no reply. */
  reply: string | undefined;
}

const EXAMPLES = parseExamples(protocol);
const WELL_FORMED = EXAMPLES.filter(({ malformed }) => !malformed);
/** Those whose replies are known to the byte, or as many as they are. */
const TAGGED = EXAMPLES.filter(({ request, reply }) =>
  (request[6]! & Flag.tagged) !== 0 && reply && !reply.endsWith("*")
);

function parseExamples(markdown: string): Example[] {
  return [
    ...markdown.matchAll(/^```hex(?: (strict|unproven|cluster|procedures|file))?\n([^]*?)^```/gm),
  ]
    .map(
      ([, mark, text]) => {
        const lines = text!.trimEnd().split("\n");
        const words = lines.filter((line) => !/^[<>]/.test(line));
        const calls = words.filter((line) => !line.startsWith("malformed: "));
        const bytes = (mark: string) =>
          lines.filter((line) => line.startsWith(mark))
            .map((line) => line.slice(2).split("  ")[0]!.replaceAll(" ", ""))
            .map((part) => part === "..." ? "(..)*" : part)
            .join("");
        return {
          title: words.join("; "),
          strict: mark === "strict",
          cluster: mark === "cluster",
          procedures: mark === "procedures",
          file: mark === "file",
          unproven: mark === "unproven",
          calls: calls.map(parseCall),
          malformed: calls.length < words.length,
          request: Uint8Array.fromHex(bytes(">")),
          reply: lines.includes("< (no reply)")
            ? undefined
            : lines.includes("< (an empty datagram)")
            ? ""
            : bytes("<"),
        };
      },
    );
}

/** The module that the examples of procedures use. */
const MODULE = Uint8Array.fromHex(
  /^```wasm\n([^]*?)^```/m.exec(protocol)![1]!.split("\n")
    .map((line) => line.split("  ")[0]!.replaceAll(" ", "")).join(""),
);

function lengthOf(data: Uint8Array): string {
  return data.length.toString(16).padStart(2 * FIELD, "0");
}

/** `#7 write(0xc420000000, 5, "hello") = ok`: tag, method, fields, data, result. */
function parseCall(line: string): Call {
  const match = /^(?:#(\d+) )?(\w+)\((.*)\)(?: = (.+))?$/.exec(line);
  assert(match !== null && match[2]! in METHODS, `Cannot parse the example's line: ${line}`);
  const words = match[3] === "" ? [] : match[3]!.split(", ");
  return {
    line,
    tag: match[1] === undefined ? undefined : Number(match[1]),
    method: match[2] as MethodName,
    fields: words.filter((word) => !word.startsWith('"')).map(parseField),
    data: words.filter((word) => word.startsWith('"')).map(parseText)[0],
    result: match[4],
  };
}

function parseField(word: string): bigint {
  return word === "NULL" ? 0n : BigInt.asUintN(64, BigInt(word));
}

function parseText(word: string): Uint8Array {
  return new TextEncoder().encode(JSON.parse(word));
}

/** The bytes of a result on the wire, in hex. */
function resultHex(result: string): string {
  if (result === "ok" || result === "refused" || result in ERRNO) return "";
  if (result.startsWith('"')) return parseText(result).toHex();
  return parseField(result).toString(16).padStart(2 * FIELD, "0");
}

/** What the first request of an example says for all of it; undefined if it has no such flag. */
function sessionOf({ request }: Example): Session | undefined {
  if (request.length < FIELD || (request[6]! & Flag.session) === 0) return undefined;
  const view = viewOf(request);
  return { epoch: view.getBigUint64(FIELD), token: view.getBigUint64(2 * FIELD) };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** A reply as bytes, with zeros for those that cannot be foretold. */
function replyBytes({ reply = "" }: Example): Uint8Array {
  return Uint8Array.fromHex(reply.replaceAll(".", "0"));
}

Deno.test("docs/protocol.md shows every method and every errno, done and refused", () => {
  const calls = EXAMPLES.flatMap(({ calls }) => calls);
  for (const method of Object.keys(METHODS) as MethodName[]) {
    const ofMethod = calls.filter((call) => call.method === method);
    const tagged = ofMethod.filter(({ tag }) => tag !== undefined);
    const refused = tagged.filter(({ result = "" }) => result in ERRNO);
    assert(tagged.length > refused.length, `no example of a tagged ${method}`);
    assert(refused.length > 0 || method === "hello", `no example of a refused ${method}`);
    const classic = METHODS[method].opcode <= METHODS.write.opcode;
    assertEquals(ofMethod.length - tagged.length >= 2, classic, `classic examples of ${method}`);
  }
  const titles = EXAMPLES.map(({ title }) => title).join("\n");
  for (const name of Object.keys(ERRNO)) {
    // EAGAIN depends on how much work others have made: no example could foretell it.
    assert(titles.includes(`= ${name}`) || name === "EAGAIN", `no ${name}`);
  }
});

Deno.test("encodeRequest() makes the bytes of every example that is not malformed", () => {
  for (const example of WELL_FORMED) {
    const { title, calls, request } = example;
    const bytes = new Uint8Array(MAX_DATAGRAM);
    let at = 0;
    for (const { method, fields, tag, data } of calls) {
      const session = at === 0 ? sessionOf(example) : undefined;
      const options = {
        ...(tag !== undefined && { tag }),
        ...(data && { data }),
        ...(session && { session }),
      };
      at += encodeRequest(viewOf(bytes), at, method, fields, options);
    }
    assertEquals(bytes.subarray(0, at).toHex(), request.toHex(), title);
  }
});

Deno.test("decodeRequest() finds what every example asks", () => {
  for (const example of EXAMPLES) {
    const { malformed, calls, request } = example;
    const view = viewOf(request);
    const found = new Request();
    let at = 0;
    for (const { line, tag, method, fields, data = new Uint8Array() } of calls) {
      const inSession = at === 0 && sessionOf(example) !== undefined;
      const flags = tag === undefined ? 0 : Flag.tagged | (inSession ? Flag.session : 0);
      const head = FIELD + (inSession ? SESSION : 0);
      assertEquals(decodeRequest(view, at, request.length - at, found), Decoded.whole, line);
      assertEquals(found.opcode, METHODS[method].opcode, line);
      assertEquals([found.flags, found.tag], [flags, tag ?? 0], line);
      assertEquals(found.fields, at + head, line);
      const values = fields.map((_, i) => {
        const part = METHODS[method].request[i]!;
        if (part === "handle") return found.pointer;
        // The only values are those of cas and add, after the pointer.
        return part === "pointer" || part === "length"
          ? found[part]
          : Number(view.getBigUint64(found.fields + FIELD * i));
      });
      assertEquals(values, fields.map(Number), line);
      assertEquals(found.size, head + FIELD * fields.length + data.length, line);
      const dataAt = at + found.size - data.length;
      assertEquals(request.subarray(dataAt, at + found.size).toHex(), data.toHex(), line);
      if (data.length > 0) assertEquals(found.rest, dataAt, line);
      at += found.size;
    }
    assert(malformed || at === request.length);
  }
});

Deno.test("decodeRequest() says truncated when an example lacks any of its last bytes", () => {
  for (const { title, calls, request } of WELL_FORMED) {
    if (calls.length > 1) continue;
    for (let length = FIELD; length < request.length; length++) {
      const result = decodeRequest(viewOf(request), 0, length, new Request());
      assertEquals(result, Decoded.truncated, `${title}: ${length} bytes`);
    }
  }
});

Deno.test("decodeReply() finds what every tagged reply says", () => {
  for (const example of TAGGED) {
    const bytes = replyBytes(example);
    const reply = new Reply();
    let at = 0;
    for (const { line, tag, method, result } of example.calls) {
      assert(decodeReply(viewOf(bytes), at, bytes.length, reply), line);
      assertEquals([reply.tag, reply.opcode], [tag!, METHODS[method].opcode], line);
      assertEquals(reply.status, ERRNO[result as ErrnoName] ?? 0, line);
      assertEquals(reply.size, REPLY_HEAD + reply.bodyLength, line);
      const body = bytes.subarray(reply.body, reply.body + reply.bodyLength).toHex();
      // Who is told of another daemon is told its address.
      const told = result === "EREMOTE"
        ? "00".repeat(10) + "ffffc0000207" + "0".repeat(12) + "1f91"
        : "";
      // And of a module that is refused, why.
      const isText = result === "ENOEXEC";
      if (isText) {
        assert(Uint8Array.fromHex(body).every((byte) => byte >= 0x20 && byte < 0x7f), line);
      } else if (result !== undefined) assertEquals(body, resultHex(result) + told, line);
      at += reply.size;
    }
    if (example.malformed) { // the last request was, whatever came before
      assert(decodeReply(viewOf(bytes), at, bytes.length, reply), example.title);
      assertEquals(reply.status, ERRNO[example.title.split(" = ").at(-1) as ErrnoName]);
      at += reply.size;
    }
    assertEquals(at, bytes.length, example.title);
  }
});

Deno.test("decodeReply() says no when a tagged reply lacks any of its last bytes", () => {
  for (const example of TAGGED) {
    if (example.calls.length > 1 || example.malformed) continue;
    const bytes = replyBytes(example);
    for (let end = 0; end < bytes.length; end++) {
      const whole = decodeReply(viewOf(bytes), 0, end, new Reply());
      assert(!whole, `${example.title}: ${end} bytes`);
    }
  }
});

Deno.test("serve() answers the examples of docs/protocol.md, in order, as they say", () => {
  const size = 64 * 1024;
  const membership = new Membership(1);
  membership.fence = 3;
  membership.setOwner(0, "192.0.2.7", 8081);
  const inFile = newState({ memory: size, replayCache: 64 });
  const { possible, begun, ended, done, errno } = ChoreFigure;
  const set = (figures: Int32Array, values: readonly (readonly [number, number])[]) => {
    for (const [at, value] of values) figures[at] = value;
  };
  set(inFile.service.sync, [[possible, 1], [begun, 3], [ended, 3], [done, 2], [errno, ERRNO.EIO]]);
  set(inFile.service.snapshot, [[possible, 1], [begun, 1], [ended, 1], [errno, ERRNO.ENOSPC]]);
  const daemons = {
    plain: new Box({ size }),
    strict: new Box({ size, strict: true }),
    cluster: new Box({ size, membership }),
    procedures: new Box({ size: 1024 * 1024, fuel: 1000 }),
    file: new Box({ size, state: inFile }),
  };
  const pointer = daemons.procedures.ask("00".repeat(FIELD) + lengthOf(MODULE))!;
  assertEquals(pointer, "000000c420010000");
  daemons.procedures.ask(`${"00".repeat(7)}03${pointer}${lengthOf(MODULE)}${MODULE.toHex()}`);
  for (
    const { title, strict, cluster, procedures, file, unproven, calls, request, reply } of EXAMPLES
  ) {
    const daemon = daemons[
      strict ? "strict" : cluster ? "cluster" : procedures ? "procedures" : file ? "file" : "plain"
    ];
    daemon.from(unproven ? "192.0.2.1" : "127.0.0.1", 40000);
    const answer = daemon.ask(request.toHex());
    const matches = answer !== undefined && reply !== undefined &&
      new RegExp(`^${reply}$`).test(answer);
    if (!matches) assertEquals(answer, reply, title);
    const [{ tag, result } = {}] = calls;
    if (tag === undefined && result !== undefined) assertEquals(reply, resultHex(result), title);
  }
});

Deno.test("docs/protocol.md names the largest heap that there can be", () => {
  const [, largest] = /^\| heap +\| 4,096 to ([\d,]+) bytes/m.exec(protocol)!;
  assertEquals(Number(largest!.replaceAll(",", "")), MAX_GRAINS * GRAIN);
});
