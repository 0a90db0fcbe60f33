/**
 * What callers of the library hand over, checked: each value that makes no sense is an error that says what it
 * is and what it ought to be, and none is rounded or wrapped.
 */

import { FIELD, type MethodName } from "../protocol/wire.ts";

/** Below the lifetime of the daemon's duplicate request cache: a later repeat might execute again. */
export const MAX_TIMEOUT_MS = 50_000;

/** A value as its writer would know it: "5", a string, is told from the number 5. */
export function shown(value: unknown): string {
  if (typeof value === "bigint") return `${value}n`;
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}

/** Numbers beyond 2^53 may have been rounded, so that they are not taken. */
export function asLength(method: MethodName | "calloc", length: number | bigint): bigint {
  const whole = typeof length === "bigint" || Number.isSafeInteger(length);
  if (whole && length >= 0 && length < 2n ** 64n) return BigInt(length);
  throw new RangeError(
    `Cannot ${method} ${
      shown(length)
    }: a length is a whole number, at least 0, from 2^53 to 2^64 - 1 a bigint`,
  );
}

/** Checks 64 bits, of which the highest may be meant as a sign. */
export function asField(what: string, value: bigint): bigint {
  if (typeof value !== "bigint") {
    throw new TypeError(`Cannot take ${shown(value)}: ${what} is a bigint`);
  }
  if (value >= -(2n ** 63n) && value < 2n ** 64n) return value;
  throw new RangeError(`Cannot take ${value}: ${what} is from -2^63 to 2^64 - 1`);
}

/** Whether it is a Uint8Array, also one of another realm, as test runners and node:vm have them. */
export function isBytes(value: unknown): value is Uint8Array {
  return ArrayBuffer.isView(value) && Object.prototype.toString.call(value) === UINT8_ARRAY;
}

const UINT8_ARRAY = "[object Uint8Array]";

/** What a value is that ought to be something else: `a string`, `null`, `an ArrayBuffer`. */
export function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  const kind = typeof value === "object"
    ? Object.prototype.toString.call(value).slice("[object ".length, -1)
    : typeof value;
  return `${/^[AEIOaeio]/.test(kind) ? "an" : "a"} ${kind}`;
}

/** Checks 64 bits that have no sign: -1n would be somebody else's address. */
export function asAddress(what: string, value: bigint): bigint {
  if (asField(what, value) >= 0n) return value;
  throw new RangeError(`Cannot take ${value}: ${what} is from 0 to 2^64 - 1`);
}

/** The bytes of fields: 64 bits each, big-endian. */
export function asFields(values: readonly bigint[]): Uint8Array {
  if (!Array.isArray(values)) {
    throw new TypeError(
      `Cannot call with ${kindOf(values)}: use a Uint8Array or an array of bigints`,
    );
  }
  const view = new DataView(new ArrayBuffer(FIELD * values.length));
  values.forEach((value, i) => view.setBigUint64(FIELD * i, asField("an argument", value)));
  return new Uint8Array(view.buffer);
}

export function checkTimeout(timeout: number): void {
  if (typeof timeout === "number" && timeout > 0 && timeout <= MAX_TIMEOUT_MS) return;
  throw new RangeError(
    `Cannot wait ${timeout}ms: a timeout is more than 0 and ${MAX_TIMEOUT_MS}ms at most`,
  );
}

export const CALL_OPTIONS = "{ timeout: 1000 } or { signal }";

/** Checks that options are an object of some, and not what one of them ought to be. */
export function checkOptions(options: object, example: string): void {
  if (typeof options === "object" && options !== null && !isSignal(options)) return;
  const what = isSignal(options) ? "a signal" : String(options);
  throw new TypeError(`Cannot take ${what}: options are an object, such as ${example}`);
}

export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal === undefined || isSignal(signal)) return;
  throw new TypeError(`Cannot take ${shown(signal)}: a signal is an AbortSignal`);
}

/** Whether it is an AbortSignal, also one of another realm. */
function isSignal(value: unknown): value is AbortSignal {
  return Object.prototype.toString.call(value) === "[object AbortSignal]";
}
