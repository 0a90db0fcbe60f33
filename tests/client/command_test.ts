/** What commands are made of, and a command whose input the executables are hardly ever given. */

import { assert, assertEquals } from "@std/assert";
import { sleep, type Terminal, WINDOW } from "../../lib/client/command.ts";
import { write } from "../../lib/client/commands/write.ts";
import { startDaemon } from "../daemon.ts";
import { socketTest } from "../sockets.ts";
import { connect } from "../remote.ts";

Deno.test("sleep() ends when its signal is aborted, or was before, and leaves no listener behind", async () => {
  const controller = new AbortController();
  const { signal } = controller;
  let listeners = 0;
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listeners++;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners--;
    remove(...args);
  };
  for (let i = 0; i < 3; i++) await sleep(1, signal);
  assertEquals(listeners, 0);
  const hour = 3_600_000;
  const sleeping = sleep(hour, signal);
  controller.abort();
  await sleeping;
  assert(listeners <= 0);
  await sleep(hour, signal);
});

socketTest(
  "write fills a block of a strict daemon with input that ends where the block does",
  async () => {
    await using daemon = await startDaemon({ strict: true });
    await using remote = await connect({ server: daemon.server });
    const pointer = await remote.malloc(2 * WINDOW);
    for (const length of [0, 5, WINDOW, 2 * WINDOW]) {
      const input = new Uint8Array(length).fill(7);
      let read = 0;
      const terminal: Partial<Terminal> = {
        inputLength: () => Promise.resolve(undefined),
        read(bytes) {
          if (read === length) return Promise.resolve(null);
          bytes.set(input.subarray(read, read + bytes.length));
          const count = Math.min(bytes.length, length - read);
          read += count;
          return Promise.resolve(count);
        },
        progress: () => {},
      };
      const context = {
        remote,
        terminal: terminal as Terminal,
        hex: false,
        json: false,
        timeout: 0,
      };
      assertEquals(await write.prepare!([`${pointer}`, "-"])(context, {}), true, `${length} bytes`);
      assertEquals(await remote.read(pointer, length), input);
    }
  },
);
