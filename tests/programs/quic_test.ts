/** The quic engine and the client's side of it, as processes, with certificates made as the documents say. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { fields, head, newOptions, Random, word } from "../testing.ts";
import {
  done,
  failed,
  FIRST,
  MALLOCD,
  Mallocd,
  misused,
  type Outcome,
  ROOT,
  run,
} from "./programs.ts";
import { Drop } from "../../lib/daemon/admission.ts";
import { Counter } from "../../lib/daemon/counters.ts";
import { serveQuic } from "../../lib/daemon/engines/quic.ts";
import { Remote, RemoteError } from "../../lib/client/remote.ts";
import { get, i32, load, procedure } from "../wasm.ts";

const MISSING = await run("openssl", ["version"]).then(() => "", () => " (skipped: no openssl)");

/** The commands of docs/operations.md that make a CA, a certificate and a token. */
const documented = await Deno.readTextFile(new URL("docs/operations.md", ROOT));
const [, COMMANDS = ""] = /```sh\n(openssl [^`]*)```/.exec(documented) ?? [];

async function makeSecrets(edit = (commands: string) => commands): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-quic-" });
  const { code, stderr } = await run("sh", ["-ec", `cd ${folder}\n${edit(COMMANDS)}`]);
  assertEquals(code, 0, stderr);
  return `${folder}/`;
}

const secrets = MISSING === "" ? await makeSecrets() : "";
const others = MISSING === ""
  ? await makeSecrets((commands) =>
    commands.replace(/subjectAltName=[^"]+/, "subjectAltName=DNS:x")
  )
  : "";
globalThis.addEventListener("unload", () => {
  for (const folder of [secrets, others]) {
    if (folder !== "") Deno.removeSync(folder, { recursive: true });
  }
});

/** Streams that were given up are closed by the collector, in whichever test: that is no leak. */
function quicTest(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: name + MISSING, ignore: MISSING !== "", fn, sanitizeResources: false });
}

function options(folder = secrets, tokens = `${folder}tokens`): string[] {
  const pair = ["--cert", `${folder}mallocd.pem`, "--key", `${folder}mallocd.key`];
  return ["--engine", "quic", ...pair, "--token-file", tokens];
}

/** Runs the client on a daemon, with all that it must know unless told otherwise. */
function client(
  { server }: Mallocd,
  line: string,
  { input, env }: { input?: Uint8Array<ArrayBuffer>; env?: Record<string, string> } = {},
): Promise<Outcome> {
  const known = { MALLOCD_CA: `${secrets}ca.pem`, MALLOCD_TOKEN_FILE: `${secrets}tokens` };
  return run("mallocd-client", line.split(" "), {
    ...(input && { input }),
    env: { MALLOCD_SERVER: `quic://${server}`, MALLOCD_TIMEOUT: "10s", ...known, ...env },
  });
}

function readToken(): string {
  return Deno.readTextFileSync(`${secrets}tokens`).trim();
}

function connect({ server }: Mallocd, timeout = 15_000): Promise<Remote> {
  const ca = Deno.readTextFileSync(`${secrets}ca.pem`);
  return Remote.connect({ server: `quic://${server}`, ca, token: readToken(), timeout });
}

/** A connection of our own, without a session. */
async function connectRaw({ port }: { port: number }): Promise<Deno.QuicConn> {
  return await Deno.connectQuic<false>({
    hostname: "127.0.0.1",
    port,
    alpnProtocols: ["mallocd"],
    caCerts: [await Deno.readTextFile(`${secrets}ca.pem`)],
    endpoint: new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 }),
  });
}

async function ask(connection: Deno.QuicConn, bytes: Uint8Array<ArrayBuffer>) {
  const stream = await connection.createBidirectionalStream({ waitUntilAvailable: true });
  const writer = stream.writable.getWriter();
  await writer.write(bytes);
  await writer.close();
  return await new Response(stream.readable).bytes();
}

function sessionHello(identity = "0000000000000000"): Uint8Array<ArrayBuffer> {
  return new Uint8Array([
    ...Uint8Array.fromHex(identity),
    ...new TextEncoder().encode(readToken()),
  ]);
}

async function openSession(daemon: Mallocd, identity: string): Promise<Deno.QuicConn> {
  const connection = await connectRaw(daemon);
  assertEquals(await ask(connection, sessionHello(identity)), new Uint8Array(1));
  return connection;
}

async function exchange(connection: Deno.QuicConn, hex: string): Promise<string> {
  await connection.sendDatagram(Uint8Array.fromHex(hex));
  return (await connection.readDatagram()).toHex();
}

async function end(connection: Deno.QuicConn): Promise<void> {
  connection.close({ closeCode: 0, reason: "" });
  await connection.closed;
  connection.endpoint.close();
}

quicTest("mallocd --engine quic serves mallocd-client --server quic://", async () => {
  await using daemon = await Mallocd.start(options());
  const { engine, garbage } = daemon.ready;
  assertEquals([engine, garbage], ["quic", "some for each request"]);
  const data = new Random(7).bytes(60_000);
  await using remote = await connect(daemon);
  const block = await remote.malloc(data.length);
  await remote.write(block, data);
  assertEquals(await remote.read(block, data.length), data);
  await remote.free(block);
  // Before any client leaves: a repeat may then be on its way, to which the reply is an error.
  const served = await remote.stats();
  for (const name of ["receiveErrors", "sendErrors"]) assertEquals(served.get(name)!.value, 0n);
  assertEquals(await client(daemon, "malloc 60000"), {
    code: 0,
    stdout: `${FIRST}\n`,
    stderr: "",
  });
  assertEquals((await client(daemon, `write ${FIRST} -`, { input: data })).stderr, "");
  assertEquals(await remote.read(BigInt(FIRST), data.length), data);
  assertEquals(await client(daemon, `free ${FIRST}`), { code: 0, stdout: "", stderr: "" });
  assertEquals(
    await client(daemon, `free ${FIRST}`),
    failed(`free(0xc420000000): invalid argument`),
  );
  const stats = await remote.stats(); // longer than a datagram of QUIC
  assertEquals([stats.get("engine.quic")!.value, stats.get("requests.free")!.value], [1n, 3n]);
  await remote.close();
  const { code, totals } = await daemon.stop();
  assertEquals([code, totals["requests.malloc"], totals["requests.free"]], [0, "2", "3"]);
});

quicTest(
  "who is connected has proven itself: it installs, calls and uninstalls procedures",
  async () => {
    await using daemon = await Mallocd.start([...options(), "--procedures"]);
    const file = await Deno.makeTempFile({ suffix: ".wasm" });
    try {
      await Deno.writeFile(file, procedure([...get(0), ...load(4), ...i32(24), 0x76])); // its last byte
      const { code, stdout, stderr } = await client(daemon, `install ${file}`);
      assertEquals([code, stderr], [0, ""]);
      const handle = stdout.trim();
      assertEquals(await client(daemon, `call ${handle} 7`), done("7\n"));
      await using remote = await connect(daemon);
      assertEquals(await remote.call(BigInt(handle), [5n]), 5n);
      await Deno.truncate(file, 9);
      const { stderr: refused } = await client(daemon, `install ${file}`);
      assertMatch(refused, /: it is cut short, at byte 9 of the module\n$/);
      assertEquals(await client(daemon, `uninstall ${handle}`), done());
      await assertRejects(() => remote.call(BigInt(handle), [5n]), RemoteError);
    } finally {
      await Deno.remove(file);
    }
  },
);

quicTest(
  "mallocd-client says what is wrong with a quic:// server, or with how it was asked",
  async () => {
    await using daemon = await Mallocd.start(options());
    await using elsewhere = await Mallocd.start(options(others));
    const cannot = ({ server }: Mallocd, why: string) =>
      failed(`cannot connect to quic://${server}: ${why}`);
    assertEquals(
      await client(daemon, "malloc 1", { env: { MALLOCD_CA: `${others}ca.pem` } }),
      cannot(daemon, "its certificate is not signed by the CA that is trusted"),
    );
    assertEquals(
      await client(daemon, "malloc 1", { env: { MALLOCD_TOKEN_FILE: `${others}tokens` } }),
      cannot(daemon, "the token was refused"),
    );
    assertEquals(
      await client(daemon, "malloc 1", { env: { MALLOCD_CA: `${secrets}tokens` } }),
      cannot(daemon, "what is given as the CA is no certificate in PEM"),
    );
    const named = await client(elsewhere, "malloc 1", { env: { MALLOCD_CA: `${others}ca.pem` } });
    assertEquals([named.code, named.stdout], [1, ""]);
    assertMatch(named.stderr, /its certificate is not for 127\.0\.0\.1, or cannot be used/);
    const missing = await client(daemon, "malloc 1", { env: { MALLOCD_CA: `${secrets}none` } });
    assertMatch(missing.stderr, /^mallocd-client: cannot read .*none: .*\n$/);
    assertEquals(missing.code, 1);

    const silent = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const { port } = silent.addr as Deno.NetAddr;
    const nobody = `quic://127.0.0.1:${port}`;
    assertEquals(
      await client(daemon, `--server ${nobody} --timeout 300ms malloc 1`),
      failed(`no reply from ${nobody} within 300ms: is mallocd running there?`),
    );
    silent.close();
    assertEquals(
      await client(daemon, "--classic malloc 1"),
      misused(`quic://${daemon.server} speaks no classic protocol`, "leave --classic out"),
    );
    assertEquals(
      await client(daemon, "bench --seconds 1s"),
      misused(
        `bench: quic://${daemon.server} cannot be loaded, for bench sends over UDP only`,
        "mallocd-client stress, which works over QUIC, too",
      ),
    );
    assertEquals(
      await client(daemon, `--server 127.0.0.1:1 --ca ${secrets}ca.pem malloc 1`),
      misused("--ca means nothing to 127.0.0.1:1", "--server quic://127.0.0.1:1"),
    );
    assertEquals(await client(daemon, "malloc 1"), { code: 0, stdout: `${FIRST}\n`, stderr: "" });
  },
);

quicTest(
  "mallocd --engine quic says what is wrong with its certificate, key and tokens",
  async () => {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-quic-" });
    try {
      const start = (...args: string[]) => run(MALLOCD, ["--port", "0", ...args]);
      const need = await start("--engine", "quic", "--cert", `${secrets}mallocd.pem`);
      assertEquals(need.code, 2);
      assertMatch(
        need.stderr,
        /needs a certificate and its key\nTry: add --cert FILE and --key FILE/,
      );
      const plain = await start("--token-file", `${secrets}tokens`);
      assertEquals([plain.code, plain.stderr.split("\n")[0]], [
        2,
        "mallocd: --token-file cannot be had with --engine auto",
      ]);
      await Deno.writeTextFile(`${folder}/empty`, "\n");
      await Deno.writeTextFile(`${folder}/long`, "x".repeat(1025));
      const faults: [args: string[], message: RegExp][] = [
        [options(secrets, `${folder}/none`), /Cannot read \S+none: /],
        [
          options(secrets, `${folder}/empty`),
          /Cannot find a token in \S+empty: one a line" try="a file that/,
        ],
        [options(secrets, `${folder}/long`), /a token has 1024 bytes at most/],
        [
          [...options(), "--key", `${others}mallocd.key`].toSpliced(4, 2),
          /Cannot use \S+mallocd\.pem with /,
        ],
        [[...options(), "--cert", `${folder}/empty`].toSpliced(2, 2), /Cannot use \S+empty with /],
      ];
      for (const [args, message] of faults) {
        const { code, stderr } = await start(...args);
        assertEquals(code, 1, stderr);
        assertMatch(stderr, message);
        assertMatch(stderr, /^level=error msg=failed reason=.* try=".*docs\/operations\.md/);
      }
      await using daemon = await Mallocd.start(options());
      const taken = await run(MALLOCD, ["--port", String(daemon.port), ...options()]);
      assertMatch(taken.stderr, / is already in use" try=/);
      assertEquals((await start("--check", ...options())).code, 0);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
);

quicTest(
  "a request that is repeated under the same identity on another connection executes once",
  async () => {
    await using daemon = await Mallocd.start(options());
    const first = await openSession(daemon, "0102030405060708");
    await exchange(first, word(1, 0) + fields(8));
    const add = word(2, 6) + fields(FIRST, 1);
    const reply = head(2, 6, 0, 8) + fields(0);
    assertEquals(await exchange(first, add), reply);
    await end(first);
    const again = await openSession(daemon, "0102030405060708");
    assertEquals(await exchange(again, add), reply);
    assertEquals(await ask(again, Uint8Array.fromHex(add)), Uint8Array.fromHex(reply));
    const other = await openSession(daemon, "0102030405060709");
    assertEquals(await exchange(other, add), head(2, 6, 0, 8) + fields(1));
    await end(again);
    await end(other);
  },
);

quicTest(
  "Remote goes on, and each add counts once, when its connection timed out under way",
  async () => {
    await using daemon = await Mallocd.start(options());
    await using remote = await connect(daemon, 19_000);
    const pointer = await remote.malloc(8);
    Deno.kill(daemon.pid, "SIGSTOP");
    const adds = Array.from({ length: 20 }, () => remote.fetchAndAdd(pointer, 1n));
    await new Promise((resolve) => setTimeout(resolve, 7000)); // QUIC gives up after 5 s
    Deno.kill(daemon.pid, "SIGCONT");
    const olds = (await Promise.all(adds)).toSorted((a, b) => Number(a - b));
    assertEquals(olds, Array.from({ length: 20 }, (_, i) => BigInt(i)));
    assertEquals(await remote.fetchAndAdd(pointer, 0n), 20n);
  },
);

quicTest(
  "mallocd reads its files again at HUP, and goes on with what it has if they are no good",
  async () => {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-quic-" });
    try {
      const tokens = `${folder}/tokens`;
      const env = { MALLOCD_TOKEN_FILE: `${folder}/mine` };
      await Deno.writeTextFile(tokens, `${readToken()}\nanother\n`);
      await Deno.writeTextFile(`${folder}/mine`, "a new one\n");
      await using daemon = await Mallocd.start(options(secrets, tokens));
      const old = await openSession(daemon, "0000000000000001");
      const isServed = async () => (await client(daemon, "malloc 1", { env })).code === 0;
      assertEquals(await isServed(), false);
      await Deno.writeTextFile(tokens, "a new one\n");
      Deno.kill(daemon.pid, "SIGHUP");
      while (!await isServed());
      assertMatch((await client(daemon, "malloc 1")).stderr, /the token was refused/);
      assertEquals(await exchange(old, word(1, 0) + fields(8)) !== "", true);
      await Deno.writeTextFile(tokens, "");
      Deno.kill(daemon.pid, "SIGHUP");
      for (let i = 0; i < 5; i++) assert(await isServed());
      await end(old);
      const { code, stderr } = await daemon.stop();
      assertEquals(code, 0);
      assertMatch(
        stderr,
        /\nlevel=info msg=reloaded\nlevel=error msg="not reloaded" reason="Cannot find a token in /,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
);

quicTest("garbage, half of a stream, too much of one, and silence harm nobody else", async () => {
  await using daemon = await Mallocd.start(options());
  await using remote = await connect(daemon);
  const pointer = await remote.malloc(8);
  const random = new Random(11);

  // Without a session: a hello too long, one too short, requests, half a hello, nothing at all.
  // The collector would end a stream that nobody knows any more.
  const open: Deno.QuicBidirectionalStream[] = [];
  const closings: [code: number, connection: Deno.QuicConn][] = [];
  const begin = async (code: number, act: (connection: Deno.QuicConn) => Promise<unknown>) => {
    const connection = await connectRaw(daemon);
    closings.push([code, connection]);
    act(connection).catch(() => {});
  };
  await begin(2, (connection) => ask(connection, random.bytes(2000)));
  await begin(2, (connection) => ask(connection, random.bytes(7)));
  await begin(1, (connection) => ask(connection, random.bytes(8)));
  await begin(1, (connection) => ask(connection, random.bytes(1032)));
  const malloc = Uint8Array.fromHex(word(1, 0) + fields(8));
  await begin(2, (connection) => connection.sendDatagram(malloc));
  await begin(2, async (connection) => {
    const stream = await connection.createBidirectionalStream();
    open.push(stream);
    await stream.writable.getWriter().write(random.bytes(9));
  });
  await begin(2, () => Promise.resolve());

  // With one: more than a datagram on a stream, streams that never end, noise.
  const session = await openSession(daemon, "00000000000000ff");
  for (let i = 0; i < 6; i++) {
    const stream = await session.createBidirectionalStream({ waitUntilAvailable: true });
    open.push(stream);
    await stream.writable.getWriter().write(random.bytes(100));
  }
  for (let i = 0; i < 500; i++) await session.sendDatagram(random.bytes(random.below(1100)));
  await ask(session, random.bytes(80_000)).then(
    (reply) => assertEquals(reply.length, 0),
    () => {}, // or the stream was reset
  );

  // What is no QUIC at all.
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const peer: Deno.NetAddr = { transport: "udp", hostname: "127.0.0.1", port: daemon.port };
  for (let i = 0; i < 500; i++) await socket.send(random.bytes(random.below(1500)), peer);
  socket.close();

  for (const [code, connection] of closings) {
    assertEquals((await connection.closed).closeCode, code);
    connection.endpoint.close();
  }
  assertEquals(await exchange(session, word(9, 7)).then((reply) => reply.length > 0), true);
  await end(session);
  assertEquals(await remote.fetchAndAdd(pointer, 1n), 0n);
});

quicTest(
  "a session goes on, and new ones are had again, when hundreds of others connect",
  async () => {
    await using daemon = await Mallocd.start(options());
    await using remote = await connect(daemon);
    const work = async (own: Remote) => {
      const pointer = await own.malloc(64);
      assertEquals(await own.fetchAndAdd(pointer, 1n), 0n);
      await own.free(pointer);
    };
    const many = await Promise.all(Array.from({ length: 100 }, () => connect(daemon)));
    await Promise.all(many.map(work));
    await Promise.all(many.map((own) => own.close()));

    // More than there are places for those who have no session. They do not say that they are gone.
    const silent: Deno.QuicConn[] = [];
    let refused = 0;
    for (let i = 0; i < 520; i++) {
      await connectRaw(daemon).then((connection) => silent.push(connection), () => refused++);
    }
    await work(remote);
    await Promise.all(silent.map(async (connection) => {
      assertEquals((await connection.closed).closeCode, 2);
      connection.endpoint.close();
    }));
    await using another = await connect(daemon);
    await work(another);
    await remote.close();
    await another.close();
    const { totals } = await daemon.stop();
    assertEquals([totals["requests.malloc"], totals["requests.free"], totals["blocks"]], [
      "102",
      "102",
      undefined,
    ]);
  },
);

quicTest(
  "no more sessions are opened than there are places, however many ask at once",
  async () => {
    const files = { cert: `${secrets}mallocd.pem`, key: `${secrets}mallocd.key` };
    const options = newOptions({ secrets: { ...files, tokens: `${secrets}tokens` } });
    const engine = await serveQuic(options, { sessions: 3, unproven: 100 });
    const connections = await Promise.all(
      Array.from({ length: 32 }, () => connectRaw(engine.address)),
    );
    try {
      const closings = connections.map((connection) =>
        connection.closed.then(({ closeCode }) => closeCode)
      );
      // All hellos are on their way before the first reply to one is.
      const open = (connection: Deno.QuicConn) =>
        ask(connection, sessionHello()).then(({ length }) => length === 1, () => false);
      const opened = await Promise.all(connections.map(open));
      assertEquals(opened.filter((isOpen) => isOpen).length, 3);
      const refused = closings.filter((_, i) => !opened[i]);
      assertEquals(await Promise.all(refused), refused.map(() => 3));
      assertEquals(options.state.service.counters[Counter.dropped + Drop.session], 29);

      const first = connections[opened.indexOf(true)]!;
      first.close({ closeCode: 0, reason: "" });
      // The place is free as soon as the engine knows.
      for (let isOpen = false; !isOpen;) {
        const connection = await connectRaw(engine.address);
        connections.push(connection);
        isOpen = await open(connection);
      }
    } finally {
      await engine.close();
      for (const { endpoint } of connections) endpoint.close();
    }
  },
);

quicTest(
  "mallocd closes a connection whose client does not want to know that it has a session",
  async () => {
    await using daemon = await Mallocd.start(options());
    const connection = await connectRaw(daemon);
    const stream = await connection.createBidirectionalStream();
    await stream.readable.cancel();
    const writer = stream.writable.getWriter();
    await writer.write(sessionHello());
    await writer.close();
    assertEquals((await connection.closed).closeCode, 2);
    connection.endpoint.close();
  },
);

quicTest("Remote.connect() rejects with a RemoteError when the token is missing", async () => {
  await using daemon = await Mallocd.start(options());
  const ca = await Deno.readTextFile(`${secrets}ca.pem`);
  const server = `quic://${daemon.server}`;
  await assertRejects(() => Remote.connect({ server, ca, timeout: 15_000 }), RemoteError, "token");
  await assertRejects(() => Remote.connect({ server, ca, protocol: "auto" }), TypeError, "QUIC");
});
