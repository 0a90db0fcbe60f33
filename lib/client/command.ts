/** What a command of mallocd-client is: how it is called, and what it does in a world of its own. */

import { type Command, type Flags, UsageError, type Values } from "../cli/flags.ts";
import type { Remote } from "./remote.ts";

/** The world as a command sees it. */
export interface Terminal {
  /** Data, and nothing else. */
  write(data: Uint8Array | string): void;
  /** Messages. */
  say(line: string): void;
  /** Shows progress on one line, if somebody is watching; "" clears it. */
  progress(line: string): void;
  readonly isTerminal: boolean;
  readonly input: ReadableStream<Uint8Array>;
  readonly signal: AbortSignal;
}

export interface Context {
  readonly remote: Remote;
  readonly terminal: Terminal;
  readonly hex: boolean;
  /** Milliseconds that a call may take. */
  readonly timeout: number;
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
}

/** A command whose flags are known to what it does, and to nobody else. */
export function define<F extends Flags>(
  command: Command & { flags?: F; prepare: (words: readonly string[]) => Run<F> },
): ClientCommand {
  return command as ClientCommand;
}

/** A command that takes time to load, and so is only described here. */
export function describe(command: Command): ClientCommand {
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

/** A length that this program can hold. */
export function parseLength(text: string): number {
  const length = parseNumber("LEN", text);
  if (length > 2n ** 32n) {
    throw new UsageError(
      `LEN cannot be ${text}`,
      "use 4294967296 at most, the size of the largest heap",
    );
  }
  return Number(length);
}

export function formatPointer(pointer: bigint, hex: boolean): string {
  return hex ? `0x${pointer.toString(16)}` : `${pointer}`;
}

export function printPointer({ terminal, hex }: Context, pointer: bigint): boolean {
  terminal.write(`${formatPointer(pointer, hex)}\n`);
  return true;
}
