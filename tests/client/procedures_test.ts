/** Procedures by way of Remote: those of examples/procedures/ as they are there, and what can go wrong. */

import { assertEquals, assertRejects } from "@std/assert";
import HASH_MAP from "../../examples/procedures/hash_map.wasm" with { type: "bytes" };
import LIST from "../../examples/procedures/list.wasm" with { type: "bytes" };
import RANGE from "../../examples/procedures/range.wasm" with { type: "bytes" };
import { RefusedError, type Remote, StaleEpochError } from "../../lib/client/remote.ts";
import { startDaemon } from "../daemon.ts";
import { SUITES } from "../procedures.ts";
import { socketTest } from "../sockets.ts";
import { add, get, i32, load, loop, procedure } from "../wasm.ts";
import { connect } from "../remote.ts";

const MODULES: Readonly<Record<string, Uint8Array>> = {
  list: LIST,
  hash_map: HASH_MAP,
  range: RANGE,
};

async function withRemote(use: (remote: Remote) => Promise<void>, fuel = 1_000_000): Promise<void> {
  await using daemon = await startDaemon({ fuel });
  await using remote = await connect({ server: daemon.server });
  await use(remote);
}

for (const [name, suite] of Object.entries(SUITES)) {
  socketTest(
    `examples/procedures/${name}.wasm does what it says`,
    () => withRemote(async (remote) => await suite(remote, await remote.install(MODULES[name]!))),
  );
}

socketTest(
  "Remote.call() sends bytes as they are and numbers as fields, at most a datagram of them",
  () =>
    withRemote(async (remote) => {
      const first = procedure([...get(0), 0x2d, 0, 0]);
      const handle = await remote.install(first);
      assertEquals(await remote.call(handle, new Uint8Array([7, 8])), 7n);
      assertEquals(await remote.call(handle, [0xab00000000000000n]), 0xabn);
      assertEquals(await remote.call(handle, [-1n]), 255n);
      await assertRejects(() => remote.call(handle, [2n ** 64n]), RangeError);
      await assertRejects(() => remote.call(handle, new Uint8Array(100_000)), RangeError);
      const error = await assertRejects(
        () => remote.call(handle, new Uint8Array(4097)),
        RefusedError,
      );
      assertEquals(error.errno, "EINVAL");
    }),
);

socketTest("Remote.install() rejects with the reason, and leaves nothing behind", async () => {
  await using daemon = await startDaemon({ fuel: 1000 });
  await using remote = await connect({ server: daemon.server });
  const before = daemon.count("blocks");
  const grow = procedure([...i32(0), 0x40, 0]);
  const error = await assertRejects(() => remote.install(grow), RefusedError);
  assertEquals(error.errno, "ENOEXEC");
  assertEquals(
    error.message.split(": ")[1],
    `it uses memory.grow, at byte ${grow.length - 3} of the module`,
  );
  assertEquals(daemon.count("blocks"), before);
  const controller = new AbortController();
  const write = remote.write.bind(remote);
  remote.write = (...args) => {
    controller.abort();
    return write(...args);
  };
  const aborted = remote.install(grow, { signal: controller.signal });
  await assertRejects(() => aborted, DOMException);
  remote.write = write;
  assertEquals(daemon.count("blocks"), before, "aborted");
  const sum = procedure([...get(0), ...load(), ...get(0), ...load(4), ...add]);
  const handle = await remote.install(sum);
  assertEquals(daemon.count("blocks"), before);
  await remote.uninstall(handle);
  const gone = await assertRejects(() => remote.call(handle), RefusedError);
  assertEquals(gone.errno, "ENOENT");
});

socketTest(
  "Remote.call() rejects with ETIME and ECANCELED, and with StaleEpochError after a restart",
  async () => {
    const endless = procedure([...loop(0x0c, 0), ...i32(0)]);
    const trapped = procedure([0x00]);
    const first = await startDaemon({ fuel: 1000 });
    await using remote = await connect({ server: first.server });
    for (const [module, errno] of [[endless, "ETIME"], [trapped, "ECANCELED"]] as const) {
      const handle = await remote.install(module);
      const error = await assertRejects(() => remote.call(handle), RefusedError);
      assertEquals(error.errno, errno);
    }
    const handle = await remote.install(endless);
    await first[Symbol.asyncDispose]();
    await using _second = await startDaemon({
      fuel: 1000,
      port: Number(first.server.split(":")[1]),
    });
    await assertRejects(() => remote.call(handle), StaleEpochError);
    await remote.renew();
    const error = await assertRejects(() => remote.call(handle), RefusedError);
    assertEquals(error.errno, "ENOENT");
  },
);

socketTest(
  "a daemon that has no procedures, and the classic protocol, reject with ENOSYS",
  async () => {
    await using daemon = await startDaemon();
    for (const protocol of ["tagged", "classic"] as const) {
      await using remote = await connect({ server: daemon.server, protocol });
      const error = await assertRejects(() => remote.call(1n), RefusedError);
      assertEquals(error.errno, "ENOSYS");
    }
  },
);
