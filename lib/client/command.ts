/** What a command of mallocd-client is: how it is called, and what it does in a world of its own. */

import { type Command, type Flags, UsageError, type Values } from "../cli/flags.ts";
import { parseSize } from "../cli/sizes.ts";
import { RefusedError, type Remote } from "./remote.ts";

/** Standard output takes no more; the message is the system's. */
export class OutputError extends Error {
  override readonly name = "OutputError";
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/** The world as a command sees it. */
export interface Terminal {
  /** Data, and nothing else. */
  write(data: Uint8Array | string): void;
  /** Throws OutputError if nobody would get what is written, as far as that can be known before. */
  mustBeOpen(): void;
  /** Messages. */
  say(line: string): void;
  /** Shows progress on one line, if somebody is watching; "" clears it. */
  progress(line: string): void;
  readonly isTerminal: boolean;
  /** Reads standard input, no further than `bytes` reaches; null at its end. */
  read(bytes: Uint8Array): Promise<number | null>;
  /** How long standard input is; undefined if that shows only at its end. */
  inputLength(): Promise<number | undefined>;
  readonly signal: AbortSignal;
}

/** The terminal with some things changed; what is not changed is not touched until it is used. */
export function within(terminal: Terminal, changes: Partial<Terminal>): Terminal {
  return Object.create(terminal, Object.getOwnPropertyDescriptors(changes));
}

/** Where data goes, and in which form. */
export interface Output {
  readonly terminal: Terminal;
  readonly hex: boolean;
  /** Whether it is objects, one a line. */
  readonly json: boolean;
}

export interface Context extends Output {
  readonly remote: Remote;
  /** Milliseconds that a call may take. */
  readonly timeout: number;
  /** Is told of new blocks by commands whose output is printed later, and so may be lost later. */
  readonly onBlock?: (pointer: bigint) => void;
}

/** Does what was asked for, with the values of the command's own flags; true if all went well. */
export type Run<F extends Flags = Flags> = (
  context: Context,
  values: Values<F>,
) => Promise<boolean>;

export interface ClientCommand extends Command {
  /**
   * Takes its words, of which there are as many as the help shows, and throws UsageError if they make no
   * sense, before anything is sent; what it returns does the rest. Undefined for a command that takes
   * time to load: heavy.ts has it.
   */
  readonly prepare?: (words: readonly string[]) => Run;
  /** Whether it knows by itself what to do with --repeat and --every. */
  readonly repeats?: boolean;
  /** Whether it prints nothing, unless with --json: then it gives no value. */
  readonly silent?: boolean;
}

/** What a command that repeats by itself is told by the flags that all have. */
export interface Repeating {
  /** How many times; undefined if that was not said. */
  readonly repeat?: number | undefined;
  /** Milliseconds from one time to the next; likewise. */
  readonly every?: number | undefined;
}

/** A command whose flags are known to what it does, and to nobody else. */
export function define<F extends Flags>(
  command: Command & {
    flags?: F;
    prepare: (words: readonly string[]) => Run<F>;
    repeats?: boolean;
    silent?: boolean;
  },
): ClientCommand {
  return command as ClientCommand;
}

/** A command that takes time to load, and so is only described here. */
export function describe(command: Command & { repeats?: boolean }): ClientCommand {
  return command;
}

export const NUMBERS = "Pointers, lengths and values are decimal or 0x hexadecimal, up to 64 bits.";

const MAX_U64 = 2n ** 64n - 1n;

/** A 64-bit number, decimal or 0x hexadecimal; down to -2^63 if it may be negative. Throws UsageError. */
export function parseNumber(name: string, text: string, { negative = false } = {}): bigint {
  const valid = /^(0x[0-9a-f]+|\d+)$/i.test(text) || (negative && /^-\d+$/.test(text));
  const number = valid ? BigInt(text) : undefined;
  if (number === undefined || number > MAX_U64 || number < -(2n ** 63n)) {
    throw new UsageError(
      `${name} cannot be ${JSON.stringify(text)}`,
      "use a 64-bit number, decimal or 0x hexadecimal",
    );
  }
  return number;
}

export function parsePointer(text: string): bigint {
  return parseNumber("PTR", text);
}

/** A number of bytes, up to 64 bits: as parseNumber has it, or with KiB, MiB, GiB. Throws UsageError. */
export function parseSizeOf(name: string, text: string): bigint {
  const size = parseSize(text);
  if (size !== undefined) return BigInt(size);
  try {
    return parseNumber(name, text);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(error.message, "use a number of bytes as 64, 0x40 or 1MiB, up to 64 bits");
  }
}

const LARGEST_HEAP = 2n ** 34n;

/** A length that a heap can have. Throws UsageError. */
export function parseLength(text: string): number {
  const length = parseSizeOf("LEN", text);
  if (length > LARGEST_HEAP) {
    throw new UsageError(
      `LEN cannot be ${text}`,
      `use ${LARGEST_HEAP} at most, the size of the largest heap`,
    );
  }
  return Number(length);
}

/** What long reads and writes hold at a time: whole rows of a dump, and many datagrams. */
export const WINDOW = 2 ** 20;

/**
 * Reads a window after the other, each into the memory of the one before. Nothing has been used when
 * RefusedError says that it cannot be.
 */
export async function readAll(
  { remote, terminal }: Context,
  pointer: bigint,
  length: number,
  use: (data: Uint8Array, at: bigint) => void,
): Promise<void> {
  mustFit(remote, "read", pointer, length);
  const window = new Uint8Array(Math.min(WINDOW, length));
  let done = 0;
  do {
    const at = pointer + BigInt(done);
    const data = window.subarray(0, length - done);
    await asTyped("read", pointer, length, () => remote.readInto(at, data));
    use(data, at);
    done += data.length;
    if (length > WINDOW && !terminal.isTerminal) {
      terminal.progress(
        `${formatCall("read", pointer, length)}: ${Math.floor(100 * done / length)}%`,
      );
    }
  } while (done < length);
  if (length > WINDOW) terminal.progress("");
}

type Moving = "read" | "write";

export function formatCall(method: Moving, pointer: bigint, length?: number): string {
  const words = [`0x${pointer.toString(16)}`, ...length === undefined ? [] : [length]];
  return `${method}(${words.join(", ")}${method === "write" ? ", data" : ""})`;
}

/** Throws RefusedError, as the daemon would, if these bytes are not all inside the heap. */
export function mustFit(remote: Remote, method: Moving, pointer: bigint, length: number): void {
  if (remote.hello === undefined || length === 0) return;
  const { base, size, cluster } = remote.hello;
  if (cluster !== undefined) return; // it may lie in another range: that range's daemon knows
  if (pointer >= base && pointer + BigInt(length) <= base + size) return;
  throw new RefusedError(formatCall(method, pointer, length), "EFAULT", "bad address");
}

/** Makes a refusal of a piece one of the whole: it names the address that was typed. */
export async function asTyped<T>(
  method: Moving,
  pointer: bigint,
  length: number,
  call: () => Promise<T>,
): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof RefusedError)) throw error;
    const text = error.message.slice(`${error.asked}: `.length);
    throw new RefusedError(formatCall(method, pointer, length), error.errno, text);
  }
}

export function formatPointer(pointer: bigint, hex: boolean): string {
  return hex ? `0x${pointer.toString(16)}` : `${pointer}`;
}

/** Writes text, or with --json an object, in which bigints are pointers, as --hex has them. */
export function print(
  context: Output,
  text: string | Uint8Array,
  object: Readonly<Record<string, unknown>>,
): void {
  if (context.json) context.terminal.write(`${asJson(context, object)}\n`);
  else if (text.length > 0) context.terminal.write(text);
}

function asJson({ hex }: Output, object: Readonly<Record<string, unknown>>): string {
  const replace = (_: string, value: unknown) =>
    typeof value === "bigint" ? formatPointer(value, hex) : value;
  return JSON.stringify(object, replace);
}

/** Bytes that become text at a time: whole groups of base64. */
const TEXT_PIECE = 48 * 1024;

/**
 * Writes an object of bytes that were read, with --json, whose last member is these as text. It is put
 * together in pieces: of strings as long as a window the collector lets 100 MiB be.
 */
export function printBytes(
  context: Output,
  at: bigint,
  data: Uint8Array,
  form: "base64" | "hex",
): void {
  const { terminal } = context;
  const head = asJson(context, { pointer: at, length: data.length, [form]: "" });
  terminal.write(head.slice(0, -'"}'.length));
  for (let i = 0; i < data.length; i += TEXT_PIECE) {
    const piece = data.subarray(i, i + TEXT_PIECE);
    terminal.write(form === "hex" ? piece.toHex() : piece.toBase64());
  }
  terminal.write('"}\n');
}

/**
 * Allocates a block and prints its pointer, `old` before it was resized. A block that is new is freed if
 * that fails, since nobody would know of it; of another is said where it is.
 */
export async function printBlock(
  context: Context,
  allocate: () => Promise<bigint>,
  old = 0n,
): Promise<boolean> {
  context.terminal.mustBeOpen();
  const pointer = await allocate();
  if (old === 0n) context.onBlock?.(pointer);
  try {
    print(context, `${formatPointer(pointer, context.hex)}\n`, { pointer });
  } catch (error) {
    if (old === 0n) await context.remote.free(pointer);
    else {context.terminal.say(
        `mallocd-client: the block is at ${formatPointer(pointer, true)} now`,
      );}
    throw error;
  }
  return true;
}

/** To three decimals: more digits of what was measured are noise. */
export function rounded(measured: number): number {
  return Math.round(measured * 1000) / 1000;
}

/** Throws UsageError if it is to be waited for repeats and there are none. */
export function checkEvery(
  name: string,
  { repeats = false }: Pick<ClientCommand, "repeats">,
  { repeat }: Repeating,
  given: readonly string[],
): void {
  if (repeats || repeat !== undefined || !given.includes("every")) return;
  throw new UsageError(`${name} is done once: --every waits before a repeat`, "-r N, too");
}

/** Runs a command again and again, until Ctrl-C; true if all went well each time. */
export async function repeatedly(
  { repeat: times = 1, every }: Repeating,
  terminal: Terminal,
  run: () => Promise<boolean>,
): Promise<boolean> {
  let isWell = await run();
  for (let i = 1; i < times; i++) {
    if (every !== undefined) await sleep(every, terminal.signal);
    if (terminal.signal.aborted) break;
    isWell = await run() && isWell;
  }
  return isWell;
}

/** Resolves after so many milliseconds, or when the signal is aborted. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  const end = () => resolve();
  signal.addEventListener("abort", end, { once: true });
  return promise.finally(() => {
    clearTimeout(timer);
    signal.removeEventListener("abort", end); // of one that is slept by again and again
  });
}
