import { assertEquals } from "@std/assert";
import { askFor, Chore, ChoreFigure, failureOf, secondsLeft } from "../../lib/daemon/chore.ts";

const { begun, done, ended } = ChoreFigure;

function newFigures() {
  return new Int32Array(new SharedArrayBuffer(4 * Object.keys(ChoreFigure).length));
}

Deno.test("Chore is done when somebody asks, and what came before the asking is then done", async () => {
  const figures = newFigures();
  const times: PromiseWithResolvers<number>[] = [];
  let began = Promise.withResolvers<void>();
  const task = () => {
    began.resolve();
    times.push(Promise.withResolvers<number>());
    return times.at(-1)!.promise;
  };
  const told: boolean[] = [];
  const chore = new Chore(task, figures, 0, (failing) => told.push(failing));
  assertEquals(askFor(figures, 0), 1);
  await began.promise;
  assertEquals([figures[begun], figures[done]], [1, 0]);
  assertEquals(askFor(figures, 1), 1);
  assertEquals(askFor(figures, 0), 2, "what was stored since may not be part of the first");
  assertEquals(askFor(figures, 7), 2, "of another life");
  began = Promise.withResolvers();
  assertEquals(failureOf(figures, 1), 0, "not yet");
  times[0]!.resolve(28);
  await began.promise;
  assertEquals([figures[begun], figures[ended], figures[done]], [2, 1, 0]);
  assertEquals([failureOf(figures, 1), failureOf(figures, 2)], [28, 0]);
  times[1]!.resolve(0);
  await chore.end();
  assertEquals([figures[begun], figures[done]], [2, 2]);
  assertEquals(failureOf(figures, 1), 0, "what came before the first is part of the second, too");
  assertEquals(told, [true, false]);
});

Deno.test("Chore that nobody asks ends at once", async () => {
  const chore = new Chore(() => Promise.resolve(0), newFigures(), 3600, () => {});
  await chore.end();
});

Deno.test("secondsLeft() goes by what was done so far, and says nothing before anything was", () => {
  assertEquals(secondsLeft(4000, 3000, 1000), 3);
  assertEquals(secondsLeft(4000, 1, 1000), 1);
  assertEquals(secondsLeft(4000, 0, 1000), 1);
  assertEquals(secondsLeft(1000, 999, 2500), 2498);
  assertEquals(secondsLeft(4000, 4000, 1000), undefined);
  assertEquals(secondsLeft(4000, 5000, 1000), undefined);
});
