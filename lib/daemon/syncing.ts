/**
 * Brings a file to the disk: every so many seconds, and when a client waits for it. The thread that serves
 * only says that somebody does; the one that keeps the signals hears it, and has the runtime's threads
 * wait for the disk. Syncs are numbered from 1. What was stored before one begins is on the disk when it
 * is done, and so who asks when `begun` have begun waits for number `begun + 1`.
 */

export const SyncFigure = {
  /** 1 if there is a file. */
  possible: 0,
  /** The highest number that anybody waits for. */
  asked: 1,
  begun: 2,
  done: 3,
} as const;
const Figure = SyncFigure;

/** Between one sync and the next, however often they are asked for. */
const REST_MS = 50;

export class Syncing {
  readonly #sync: () => Promise<boolean>;
  readonly #figures: Int32Array<SharedArrayBuffer>;
  readonly #interval: number;
  readonly #tell: (failing: boolean) => void;
  readonly #ended: Promise<void>;
  #isEnding = false;

  /** `seconds` of 0 are for ever. `tell` is called when syncs begin to fail, and when they end to. */
  constructor(
    sync: () => Promise<boolean>,
    figures: Int32Array<SharedArrayBuffer>,
    seconds: number,
    tell: (failing: boolean) => void,
  ) {
    this.#sync = sync;
    this.#figures = figures;
    this.#interval = seconds === 0 ? Infinity : seconds * 1000;
    this.#tell = tell;
    Atomics.store(figures, Figure.possible, 1);
    this.#ended = this.#run();
  }

  async #run(): Promise<void> {
    let failing = false;
    for (let number = 1; await this.#wait(); number++) {
      Atomics.store(this.#figures, Figure.begun, number);
      const failed = !await this.#sync();
      if (!failed) Atomics.store(this.#figures, Figure.done, number);
      if (failed !== failing) this.#tell(failed);
      failing = failed;
      await new Promise((resolve) => setTimeout(resolve, REST_MS));
    }
  }

  /** Resolves to true when it is time for a sync, to false when there is to be no more. */
  async #wait(): Promise<boolean> {
    const asked = Atomics.load(this.#figures, Figure.asked);
    if (!this.#isEnding && asked <= this.#figures[Figure.begun]!) {
      await Atomics.waitAsync(this.#figures, Figure.asked, asked, this.#interval).value;
    }
    return !this.#isEnding;
  }

  /** Resolves when no sync is under way. */
  async end(): Promise<void> {
    this.#isEnding = true;
    Atomics.notify(this.#figures, Figure.asked);
    await this.#ended;
  }
}

/**
 * To be called by the thread that serves: the number to wait for, of a client that waits for `number`
 * already, 0 for none.
 */
export function askForSync(figures: Int32Array, number: number): number {
  const next = figures[Figure.begun]! + 1;
  if (number > 0 && number < next) return number;
  if (figures[Figure.asked]! < next) {
    Atomics.store(figures, Figure.asked, next);
    Atomics.notify(figures, Figure.asked);
  }
  return next;
}
