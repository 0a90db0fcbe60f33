import { assertEquals } from "@std/assert";
import { askForSync, SyncFigure, Syncing } from "../../lib/daemon/syncing.ts";

const { begun, done } = SyncFigure;

function newFigures() {
  return new Int32Array(new SharedArrayBuffer(4 * Object.keys(SyncFigure).length));
}

Deno.test("Syncing syncs when somebody asks, and what came before the asking is then done", async () => {
  const figures = newFigures();
  const syncs: PromiseWithResolvers<boolean>[] = [];
  let began = Promise.withResolvers<void>();
  const sync = () => {
    began.resolve();
    syncs.push(Promise.withResolvers<boolean>());
    return syncs.at(-1)!.promise;
  };
  const told: boolean[] = [];
  const syncing = new Syncing(sync, figures, 0, (failing) => told.push(failing));
  assertEquals(askForSync(figures, 0), 1);
  await began.promise;
  assertEquals([figures[begun], figures[done]], [1, 0]);
  assertEquals(askForSync(figures, 1), 1);
  assertEquals(askForSync(figures, 0), 2, "what was stored since may not be part of the first");
  assertEquals(askForSync(figures, 7), 2, "of another life");
  began = Promise.withResolvers();
  syncs[0]!.resolve(false);
  await began.promise;
  assertEquals([figures[begun], figures[done]], [2, 0]);
  syncs[1]!.resolve(true);
  await syncing.end();
  assertEquals([figures[begun], figures[done]], [2, 2]);
  assertEquals(told, [true, false]);
});

Deno.test("Syncing that nobody asks ends at once", async () => {
  const syncing = new Syncing(() => Promise.resolve(true), newFigures(), 3600, () => {});
  await syncing.end();
});
