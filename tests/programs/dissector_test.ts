/** contrib/mallocd.lua against real traffic: tshark captures a session with a daemon, and dissects it. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { serveDatagram } from "../../lib/daemon/engines/datagram.ts";
import { figures } from "../../lib/daemon/counters.ts";
import { concat } from "@std/bytes";
import { Membership } from "../../lib/daemon/cluster/membership.ts";
import { Box, fields, head, newOptions, word } from "../testing.ts";

const DISSECTOR = "contrib/mallocd.lua";
const ROOT = new URL("../..", import.meta.url);

/** A datagram, what is to be found in it, and what in the reply, if there is one. */
type Step = [request: string, found: string, foundInReply?: string];

const P = 0xc420010000; // after what is reserved for procedures
const POINTER = "pointer=0x000000c420010000";
/** What a read may give, although it is no reply. */
const LIKE_A_REPLY = head(99, 1, 0, 0);

/** Its run returns the length of its arguments. */
const MODULE = "0061736d01000000" + "01070160027f7f017f" + "03020100" + "07070103" + "72756e0000" +
  "0a0601040020010b";
const HANDLE = "0001a2540202ee00";

/** What `stats` names, the epoch first. */
const namesBytes = new Box().ask(word(1, 11) + fields(1))!.length / 2 - 16;

const SESSION: Step[] = [
  [fields(0, 5), "opcode=0 method=malloc length=5", `method=malloc ${POINTER}`],
  [fields(3, P, 2) + "6869", `opcode=3 method=write ${POINTER} length=2 data=6869`],
  [fields(2, P, 2), `opcode=2 method=read ${POINTER} length=2`, "method=read data=6869"],
  [
    fields(2, 0, 2),
    "opcode=2 method=read pointer=0x0000000000000000 length=2",
    "method=read expert=Refused",
  ],
  [
    fields(0, 1e9),
    "opcode=0 method=malloc length=1000000000",
    "method=malloc pointer=0x0000000000000000 expert=Refused",
  ],
  [
    fields(3, P, 16) + LIKE_A_REPLY,
    `opcode=3 method=write ${POINTER} length=16 data=${LIKE_A_REPLY}`,
  ],
  [
    fields(2, P, 16),
    `opcode=2 method=read ${POINTER} length=16`,
    `method=read data=${LIKE_A_REPLY}`,
  ],
  [fields(1, P), `opcode=1 method=free ${POINTER}`],
  [fields(4, P), "expert=Not a request"],
  [
    word(1, 0) + fields(24),
    "tag=1 status=0 flags=0x01 opcode=0 method=malloc length=24",
    `tag=1 status=0 flags=0x81 opcode=0 method=malloc body_length=8 ${POINTER}`,
  ],
  [
    word(1, 0) + fields(24),
    "tag=1 status=0 flags=0x01 opcode=0 method=malloc length=24 repeat_of=15 expert=Sent before",
    `tag=1 status=0 flags=0x81 opcode=0 method=malloc body_length=8 ${POINTER}`,
  ],
  [
    word(2, 3) + fields(P, 8) + fields(9) + word(3, 6) + fields(P, -1) + word(4, 1) + fields(P + 1),
    `tag=2,3,4 status=0,0,0 flags=0x01,0x01,0x01 opcode=3,6,1 method=write,add,free \
pointer=0x000000c420010000,0x000000c420010000,0x000000c420010001 length=8 \
data=0000000000000009 delta=-1`,
    "tag=2,3,4 status=0,0,22 flags=0x81,0x81,0x81 opcode=3,6,1 method=write,add,free \
body_length=0,8,0 old=9 expert=EINVAL",
  ],
  [
    word(5, 5) + fields(P, 8, 7),
    `tag=5 status=0 flags=0x01 opcode=5 method=cas ${POINTER} expected=8 desired=7`,
    "tag=5 status=0 flags=0x81 opcode=5 method=cas body_length=8 old=8",
  ],
  [
    word(6, 4) + fields(P, 100) + word(7, 2) + fields(P, 8),
    "tag=6,7 status=0,0 flags=0x01,0x01 opcode=4,2 method=realloc,read \
pointer=0x000000c420010000,0x000000c420010000 length=100,8",
    `tag=6,7 status=0,0 flags=0x81,0x81 opcode=4,2 method=realloc,read body_length=8,8 ${POINTER} \
data=0000000000000007`,
  ],
  [
    word(8, 2) + fields(P),
    `tag=8 status=0 flags=0x01 opcode=2 method=read ${POINTER} expert=Cut short`,
    "tag=8 status=22 flags=0x81 opcode=2 method=read body_length=0 expert=EINVAL",
  ],
  [
    word(9, 99),
    "tag=9 status=0 flags=0x01 opcode=99 expert=Unknown opcode",
    "tag=9 status=38 flags=0x81 opcode=99 body_length=0 expert=ENOSYS",
  ],
  [
    word(10, 7),
    "tag=10 status=0 flags=0x01 opcode=7 method=hello",
    "tag=10 status=0 flags=0x81 opcode=7 method=hello body_length=40 epoch=? \
base=0x000000c420000000 size=1048576 largest=65507 version=1",
  ],
  [
    word(11, 7, { flags: 0x03 }) + fields(0, 0) + word(12, 1) + fields(0),
    "tag=11,12 status=0,0 flags=0x03,0x01 opcode=7,1 method=hello,free \
pointer=0x0000000000000000 epoch=? token=?",
    "tag=11,12 status=0,0 flags=0x83,0x81 opcode=7,1 method=hello,free body_length=56,0 epoch=? \
base=0x000000c420000000 size=1048576 largest=65507 version=2 token=? share=1024",
  ],
  [
    word(13, 3) + fields(P, 38) + MODULE + word(14, 8) + fields(P, 38),
    `tag=13,14 status=0,0 flags=0x01,0x01 opcode=3,8 method=write,install \
pointer=0x000000c420010000,0x000000c420010000 length=38,38 data=${MODULE}`,
    `tag=13,14 status=0,0 flags=0x81,0x81 opcode=3,8 method=write,install body_length=0,8 \
handle=0x${HANDLE}`,
  ],
  [
    word(15, 8) + fields(P, 8),
    `tag=15 status=0 flags=0x01 opcode=8 method=install ${POINTER} length=8`,
    "tag=15 status=8 flags=0x81 opcode=8 method=install body_length=39 \
reason=it has no code, at byte 8 of the module \
expert=ENOEXEC it has no code, at byte 8 of the module",
  ],
  [
    word(16, 9) + `${HANDLE}${fields(2)}0102` + word(17, 10) + HANDLE + word(18, 9) + fields(1, 0),
    `tag=16,17,18 status=0,0,0 flags=0x01,0x01,0x01 opcode=9,10,9 method=call,uninstall,call \
length=2,0 data=0102 handle=0x${HANDLE},0x${HANDLE},0x0000000000000001`,
    "tag=16,17,18 status=0,0,2 flags=0x81,0x81,0x81 opcode=9,10,9 method=call,uninstall,call \
body_length=8,0,0 result=2 expert=ENOENT",
  ],
  [
    word(19, 11) + fields(2),
    "tag=19 status=0 flags=0x01 opcode=11 method=stats what=2",
    "tag=19 status=22 flags=0x81 opcode=11 method=stats body_length=0 expert=EINVAL",
  ],
  [
    word(20, 11) + fields(1) + word(21, 11) + fields(0),
    "tag=20,21 status=0,0 flags=0x01,0x01 opcode=11,11 method=stats,stats what=1,0",
    `tag=20,21 status=0,0 flags=0x81,0x81 opcode=11,11 method=stats,stats \
body_length=${namesBytes},${
      8 * (1 + figures().length)
    } epoch=? names=epoch gauge... value=${figures().length} of them`,
  ],
  [
    word(22, 12) + fields(0) + word(23, 13) + fields(0),
    "tag=22,23 status=0,0 flags=0x01,0x01 opcode=12,13 method=sync,snapshot number=0,0",
    "tag=22,23 status=38,38 flags=0x81,0x81 opcode=12,13 method=sync,snapshot body_length=0,0 \
expert=ENOSYS,ENOSYS",
  ],
];

const DATAGRAMS = SESSION.flat().length - SESSION.length;

const NAMES = [
  ...["tag", "status", "flags", "opcode", "method", "body_length", "pointer", "length", "data"],
  ...["expected", "desired", "delta", "old", "epoch", "base", "size", "largest", "version"],
  ...["token", "share", "what", "names", "value", "number", "done", "handle", "result", "reason"],
  ...["range", "fence", "ranges", "owner", "owner_port"],
  ...["repeat_of", "expert", "reply_in", "request_in", "time"],
];

/** Empty if tshark is there and may capture. */
function whyNoCapture(): string {
  try {
    const args = ["-i", "lo", "--list-data-link-types"];
    const { success } = new Deno.Command("tshark", { args, stderr: "null" }).outputSync();
    return success ? "" : " (skipped: tshark may not capture on lo)";
  } catch (error) {
    return ` (skipped: no tshark, ${(error as Error).name}; tools/packages.sh tshark)`;
  }
}

/** Captures what is sent to and from the daemon's port while `talk` talks to it from a port of its own. */
async function capture(file: string, port: number, client: number, talk: () => Promise<void>) {
  // With -P, it prints a line for each datagram when that has been captured.
  const args = ["-n", "-i", "lo", "-f", `udp port ${port}`, "-w", file, "-P", "-l"];
  await using tshark = new Deno.Command("tshark", { args, stdout: "piped", stderr: "null" })
    .spawn();
  const probe = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const address = { transport: "udp", hostname: "127.0.0.1", port } as const;
  const timer = setInterval(() => probe.send(new Uint8Array(1), address), 50);
  let talked = false;
  let said = "";
  try {
    for await (const text of tshark.stdout.pipeThrough(new TextDecoderStream())) {
      said += text; // anything at all: it has begun to capture
      clearInterval(timer);
      if (!talked) await talk();
      talked = true;
      if (said.split(` ${client} `).length > DATAGRAMS) break;
    }
  } finally {
    clearInterval(timer);
    probe.close();
  }
}

/** What tshark says of a file, with the dissector. */
async function tshark(file: string, port: number, args: readonly string[]): Promise<string> {
  const script = `lua_script:${DISSECTOR}`;
  const { stdout, stderr } = await new Deno.Command("tshark", {
    args: ["-n", "-r", file, "-X", script, "-o", `mallocd.port:${port}`, ...args],
    cwd: ROOT,
  }).output();
  const [output, errors] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assert(!errors!.includes("Lua"), errors);
  return output!.trimEnd();
}

/** What the dissector finds in the datagrams of a client: name and value, by frame. */
async function dissect(file: string, port: number, client: number): Promise<Map<string, string>[]> {
  const columns = NAMES.map((name) => name === "expert" ? "_ws.expert.message" : `mallocd.${name}`);
  const output = await tshark(file, port, [
    ...["-2", "-Y", `udp.port == ${client}`, "-T", "fields", "-e", "frame.number"],
    ...columns.flatMap((column) => ["-e", column]),
  ]);
  const rows = output.split("\n").map((row) => row.split("\t"));
  const frames = rows.map(([frame]) => frame);
  return rows.map(([, ...values]) =>
    new Map(
      NAMES.map((name, i): [string, string] => {
        const isFrame = name === "repeat_of" || name.endsWith("_in");
        const number = (frame: string) => `${frames.indexOf(frame) + 1}`;
        const value = values[i] ?? "";
        return [name, isFrame ? value.replace(/\d+/g, number) : value];
      }).filter(([, value]) => value !== ""),
    )
  );
}

/** What the statistics should say of the session: by method, requests, replies, refused and repeats. */
const COUNTS = [
  "add 1 1 0 0",
  "call 2 2 1 0",
  "cas 1 1 0 0",
  "free 3 2 1 0",
  "hello 2 2 0 0",
  "install 2 2 1 0",
  "malloc 4 4 1 1",
  "read 5 5 2 0",
  "realloc 1 1 0 0",
  "snapshot 1 1 1 0",
  "stats 3 3 1 0",
  "sync 1 1 1 0",
  "uninstall 1 1 0 0",
  "write 4 2 0 0",
];

/** The rows of the statistics tap, without the times, of which there must be one for each reply. */
async function statistics(file: string, port: number): Promise<string[]> {
  const output = await tshark(file, port, ["-q", "-o", "mallocd.statistics:TRUE"]);
  const [title, ...rows] = output.split("\n").map((row) => row.trim().split(/\s+/));
  assertEquals(title!.slice(0, 5), ["mallocd", "requests", "replies", "refused", "repeats"]);
  for (const row of rows) for (const time of row.slice(5)) assertMatch(time, /^\d+\.\d{3}$/);
  return rows.map((row) => row.slice(0, 5).join(" "));
}

/** What the session should look like: what each step says, and the links between its frames. */
function expected(): string[] {
  const lines: string[] = [];
  for (const [, request, reply] of SESSION) {
    const messages = /opcode=([\d,]+)/.exec(request)?.[1]?.split(",") ?? [];
    const link = (frame: number) => messages.map(() => frame).join(",");
    const frame = lines.length + 1;
    if (reply === undefined) lines.push(request);
    else {
      lines.push(`${request} reply_in=${link(frame + 1)}`);
      lines.push(`${reply} request_in=${link(frame)} time=${messages.map(() => "?").join(",")}`);
    }
  }
  return lines;
}

const missing = whyNoCapture();

Deno.test({
  name: `contrib/mallocd.lua finds in real traffic what was sent${missing}`,
  ignore: missing !== "",
  async fn() {
    const file = await Deno.makeTempFile({ suffix: ".pcapng" });
    const engine = await serveDatagram(newOptions({ memory: 1024 * 1024, fuel: 1000 }));
    const { hostname, port } = engine.address;
    const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
    const client = (socket.addr as Deno.NetAddr).port;
    try {
      await capture(file, port, client, async () => {
        for (const [request, , reply] of SESSION) {
          await socket.send(Uint8Array.fromHex(request), { transport: "udp", hostname, port });
          if (reply !== undefined) await socket.receive();
        }
      });
      const found = await dissect(file, port, client);
      for (const frame of found) { // what cannot be foretold
        for (const name of ["epoch", "token"]) if (frame.has(name)) frame.set(name, "?");
        // Here are the figures of a daemon: enough that each has its name.
        const value = frame.get("value")?.split(",");
        if (value) frame.set("value", `${value.length} of them`);
        const names = frame.get("names");
        if (names) frame.set("names", `${names.split("\\n")[0]}...`);
        if (frame.has("time")) frame.set("time", frame.get("time")!.replace(/\d+\.\d{9}/g, "?"));
      }
      const lines = found.map((frame) => [...frame].map(([name, value]) => `${name}=${value}`));
      assertEquals(lines.map((line) => line.join(" ")), expected());
      assertEquals(await statistics(file, port), COUNTS);
      assertStringIncludes(await tshark(file, port, ["-V"]), "\n        heap, Value: 1048576\n");
    } finally {
      socket.close();
      await engine.close();
      await Deno.remove(file);
    }
  },
});

/** A capture of one client's datagrams and the replies, in turns: pcap, whose packets begin with IPv4. */
function pcap(datagrams: readonly string[], client: number, server: number): Uint8Array {
  const RAW_IP = 101;
  const header = new DataView(new ArrayBuffer(24));
  header.setUint32(0, 0xa1b2c3d4);
  header.setUint16(4, 2); // version 2.4
  header.setUint16(6, 4);
  header.setUint32(16, 65535);
  header.setUint32(20, RAW_IP);
  const packets = datagrams.flatMap((hex, i) => {
    const payload = Uint8Array.fromHex(hex);
    const size = 28 + payload.length;
    const packet = new DataView(new ArrayBuffer(16 + size));
    packet.setUint32(4, i); // microseconds
    packet.setUint32(8, size);
    packet.setUint32(12, size);
    packet.setUint16(16, 0x4500);
    packet.setUint16(18, size);
    packet.setUint16(24, 0x4011); // time to live 64, UDP
    for (const at of [28, 32]) packet.setUint32(at, 0x7f000001);
    packet.setUint16(36 + i % 2 * 2, client);
    packet.setUint16(38 - i % 2 * 2, server);
    packet.setUint16(40, 8 + payload.length);
    return [new Uint8Array(packet.buffer, 0, 44), payload];
  });
  return concat([new Uint8Array(header.buffer), ...packets]);
}

Deno.test({
  name: `contrib/mallocd.lua knows what daemons of a cluster say${missing}`,
  ignore: missing !== "",
  async fn() {
    const membership = new Membership(1);
    membership.fence = 3;
    membership.setOwner(0, "192.0.2.7", 8081);
    const box = new Box({ membership });
    const hello = word(1, 7, { flags: 0x03 }) + fields(0, 0);
    const read = word(2, 2) + fields(P, 4);
    const file = await Deno.makeTempFile({ suffix: ".pcap" });
    try {
      const datagrams = [hello, read].flatMap((request) => [request, box.ask(request)!]);
      await Deno.writeFile(file, pcap(datagrams, 40000, 8081));
      const [, told, , elsewhere] = await dissect(file, 8081, 40000);
      const pick = (frame: Map<string, string>, names: readonly string[]) =>
        names.map((name) => `${name}=${frame.get(name)}`).join(" ");
      assertEquals(
        pick(told!, ["status", "base", "range", "fence", "ranges"]),
        "status=0 base=0x000000d420000000 range=1 fence=3 ranges=2",
      );
      assertEquals(
        pick(elsewhere!, ["status", "owner", "owner_port", "expert"]),
        "status=66 owner=::ffff:192.0.2.7 owner_port=8081 expert=EREMOTE ::ffff:192.0.2.7, 8081",
      );
    } finally {
      await Deno.remove(file);
    }
  },
});
