/**
 * What is done now and then, and when a client waits for it: to bring a file to the disk, or to make a
 * snapshot of it. The thread that serves only says that somebody does; the one that keeps the signals
 * hears it, and has the runtime's threads wait for the disk. Each time has a number, from 1. What was
 * stored before one begins is part of it, and so who asks when `begun` have begun waits for `begun + 1`.
 */

export const ChoreFigure = {
  /** 1 if there is a file. */
  possible: 0,
  /** The highest number that anybody waits for. */
  asked: 1,
  begun: 2,
  /** The last that came to its end, and the last that was done by then. */
  ended: 3,
  done: 4,
  /** Why the one that ended last was not done, as Linux numbers it; 0 if it was. */
  errno: 5,
} as const;
const Figure = ChoreFigure;

/**
 * How often it is looked whether somebody asks, and so what lies between one time and the next at the
 * least. Deno does not notice the end of Atomics.waitAsync until something else wakes its loop.
 */
const LOOK_MS = 50;

/** What is to be done: resolves to 0 if it is, else to why not. It is to hurry when the signal says so. */
export type Task = (signal: AbortSignal) => Promise<number>;

export class Chore {
  readonly #task: Task;
  readonly #figures: Int32Array<SharedArrayBuffer>;
  readonly #interval: number;
  readonly #tell: (failing: boolean) => void;
  readonly #ended: Promise<void>;
  readonly #ending = new AbortController();

  /** `seconds` of 0 are for ever. `tell` is called when it begins to fail, and when it ends to. */
  constructor(
    task: Task,
    figures: Int32Array<SharedArrayBuffer>,
    seconds: number,
    tell: (failing: boolean) => void = () => {},
  ) {
    this.#task = task;
    this.#figures = figures;
    this.#interval = seconds === 0 ? Infinity : seconds * 1000;
    this.#tell = tell;
    Atomics.store(figures, Figure.possible, 1);
    this.#ended = this.#run();
  }

  async #run(): Promise<void> {
    const figures = this.#figures;
    let failing = false;
    for (let number = 1; await this.#wait(); number++) {
      Atomics.store(figures, Figure.begun, number);
      const errno = await this.#task(this.#ending.signal);
      Atomics.store(figures, Figure.errno, errno);
      if (errno === 0) Atomics.store(figures, Figure.done, number);
      Atomics.store(figures, Figure.ended, number);
      if ((errno !== 0) !== failing) this.#tell(errno !== 0);
      failing = errno !== 0;
    }
  }

  /** Resolves to true when it is time for it, to false when it is to be done no more. */
  async #wait(): Promise<boolean> {
    const { signal } = this.#ending;
    const due = performance.now() + this.#interval;
    do {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    } while (!signal.aborted && !this.#isAsked && performance.now() < due);
    return !signal.aborted;
  }

  get #isAsked(): boolean {
    return Atomics.load(this.#figures, Figure.asked) > this.#figures[Figure.begun]!;
  }

  /** Resolves when it is not under way any more. */
  async end(): Promise<void> {
    this.#ending.abort();
    await this.#ended;
  }
}

/**
 * To be called by the thread that serves: the number to wait for, of a client that waits for `number`
 * already, 0 for none.
 */
export function askFor(figures: Int32Array, number: number): number {
  const next = figures[Figure.begun]! + 1;
  if (number > 0 && number < next) return number;
  if (figures[Figure.asked]! < next) Atomics.store(figures, Figure.asked, next);
  return next;
}

/** Why the time with this number, and all after it that have ended, failed; 0 if one did not, or none has ended. */
export function failureOf(figures: Int32Array, number: number): number {
  const isOver = figures[Figure.ended]! >= number && figures[Figure.done]! < number;
  return isOver ? figures[Figure.errno]! : 0;
}

/**
 * How many seconds what is left takes if it goes on as it did: it was `before` when this began, `ms` ago,
 * and is `now`. At least 1; undefined if there is no less of it than before.
 */
export function secondsLeft(before: number, now: number, ms: number): number | undefined {
  return now < before ? Math.max(1, Math.ceil(now / (before - now) * ms / 1000)) : undefined;
}
