/**
 * What a Remote talks through: one call is one request and its reply. There are two, one for each
 * protocol: tagged.ts and classic.ts.
 */

import { type MethodName, METHODS } from "../protocol/wire.ts";
import { describeErrno, ERRNO } from "../protocol/errno.ts";

export interface Call {
  readonly method: MethodName;
  /** The 64-bit fields of the request, unsigned, in the order of METHODS. */
  readonly fields: readonly bigint[];
  readonly data?: Uint8Array | undefined;
  /** Bytes that the body of the reply will have, if the call succeeds. */
  readonly bodyLength: number;
  /** Where a body of that length may go, instead of into an array of its own. */
  readonly into?: Uint8Array | undefined;
  /** Whether that is a guess, and the body may be of any length. */
  readonly anyLength?: boolean | undefined;
  /** Milliseconds from the first datagram on after which the call is given up. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  /** The epoch that its pointers belong to; undefined if it does not depend on one. */
  readonly epoch?: bigint | undefined;
}

export interface Exchange {
  readonly protocol: "tagged" | "classic";
  /** Bytes of data that one call may carry, either way. */
  readonly chunk: number;
  /** Resolves with a copy of the reply's body, in `into` if there is one; rejects with a RemoteError or the signal's reason. */
  call(call: Call): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** What went wrong, and with what. */
export class RemoteError extends Error {
  /** The class's. */
  override readonly name: string = "RemoteError";
  /** `asked` is the call as C would write it: `read(0xc420000000, 5)`. */
  constructor(message: string, readonly asked: string) {
    super(message);
  }
}

/** The daemon said no. */
export class RefusedError extends RemoteError {
  /** The class's. */
  override readonly name: string = "RefusedError";
  /** `errno` is a name, as POSIX has it, and undefined in the classic protocol, which refuses without a reason. */
  constructor(asked: string, readonly errno?: string, text = "refused") {
    super(`${asked}: ${text}`, asked);
  }

  /** The refusal with the number that a tagged reply carries; `reason` is more than the number says. */
  static fromErrno(asked: string, errno: number, reason = ""): RefusedError {
    const { name, text } = describeErrno(errno);
    return new RefusedError(asked, name, reason === "" ? text : reason);
  }
}

/**
 * The daemon was restarted since it was said hello to: nothing was done, and all pointers that it gave are
 * gone. `Remote.renew()` goes on.
 */
export class StaleEpochError extends RefusedError {
  /** The class's. */
  override readonly name = "StaleEpochError";
  /** `asked` is the call as C would write it. */
  constructor(asked: string) {
    super(asked, "ESTALE", describeErrno(ERRNO.ESTALE).text);
  }
}

/** Another daemon of the cluster has the range that the pointer lies in. */
export class ElsewhereError extends RefusedError {
  /** The class's. */
  override readonly name = "ElsewhereError";
  /** `owner` is the address of that daemon, if it is known: `192.0.2.1:8081`. */
  constructor(asked: string, readonly owner: string | undefined) {
    const { text } = describeErrno(ERRNO.EREMOTE);
    super(
      asked,
      "EREMOTE",
      owner === undefined ? "nobody has that range now" : `${text}, ${owner}`,
    );
  }
}

/** The daemon said nothing. */
export class NoReplyError extends RemoteError {
  /** The class's. */
  override readonly name: string = "NoReplyError";
  /** `timeout` in milliseconds. */
  constructor(
    asked: string,
    readonly server: string,
    readonly timeout: number,
    what: string = `no reply from ${server} within ${
      timeout % 1000 === 0 ? `${timeout / 1000}s` : `${timeout}ms`
    }`,
  ) {
    super(`${what}: is mallocd running there?`, asked);
  }
}

/** The system knows that nobody listens at the daemon's address: there is nothing to wait for. */
export class NotThereError extends NoReplyError {
  /** The class's. */
  override readonly name = "NotThereError";
  /** `timeout` in milliseconds, which were not waited for. */
  constructor(asked: string, server: string, timeout: number) {
    super(asked, server, timeout, `nobody listens on ${server}`);
  }
}

/** A copy of a body, where the call wants it. */
export function takeBody(body: Uint8Array, { into }: Call): Uint8Array {
  if (into?.length !== body.length) return body.slice();
  into.set(body);
  return into;
}

/** How long an answer is waited for before it is overdue. */
export const FIRST_WAIT_MS = 50;

/** Promise.withResolvers, which Node has from 22 on. */
export function withResolvers<T>(): {
  promise: Promise<T>;
  resolve: (value: T) => void;
  reject: (reason: unknown) => void;
} {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((...functions) => [resolve, reject] = functions);
  return { promise, resolve, reject };
}

/** What becomes of a call: `giveUp` makes its promise reject, and is called if the call is aborted. */
export function untilAborted<T>(
  { signal }: Call,
  promise: Promise<T>,
  giveUp: (reason: unknown) => void,
): Promise<T> {
  if (signal === undefined) return promise;
  const abort = () => giveUp(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  return promise.finally(() => signal.removeEventListener("abort", abort));
}

/** What a promise gives, or the signal's reason as soon as it is aborted, whatever the promise gives then. */
export function unlessAborted<T>(
  signal: AbortSignal | undefined,
  promise: Promise<T>,
): Promise<T> {
  if (signal === undefined) return promise;
  const { promise: first, resolve, reject } = withResolvers<T>();
  const abort = () => reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  promise.then(resolve, reject);
  return first.finally(() => signal.removeEventListener("abort", abort));
}

/** The call will never be answered, because its Remote was closed. */
export function closedError(call: Call): DOMException {
  return new DOMException(`${describe(call)}: the remote was closed`, "AbortError");
}

/** A call as C would write it, for messages. */
export function describe(
  { method, fields, data }: Pick<Call, "method" | "fields" | "data">,
): string {
  const words = fields.map((field, i) =>
    METHODS[method].request[i] === "pointer" ? `0x${field.toString(16)}` : String(field)
  );
  if (data !== undefined) words.push("data");
  return `${method}(${words.join(", ")})`;
}
