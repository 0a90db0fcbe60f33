/** What commands are made of. */

import { assert, assertEquals } from "@std/assert";
import { sleep } from "../../lib/client/command.ts";

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
