/**
 * The client side of the classic protocol: one call at a time, because a reply does not say what it
 * answers. A malloc is never sent twice (the second block would leak), and what gets no reply (free,
 * write) is done when it is sent. What this cannot mend: on a network that duplicates datagrams, the
 * second copy of a reply may be taken for the answer to the next call.
 */

import {
  type Call,
  closedError,
  describe,
  type Exchange,
  FIRST_WAIT_MS,
  NoReplyError,
  NotThereError,
  RefusedError,
  takeBody,
  untilAborted,
  withResolvers,
} from "../exchange.ts";
import { asBigInt } from "../hello.ts";
import { encodeRequest, FIELD, MAX_DATAGRAM } from "../../protocol/wire.ts";
import { ERRNO } from "../../protocol/errno.ts";
import type { Clock, Transport } from "../transport.ts";

/**
 * Frees and writes are not answered; when they may have taken so much of the daemon's receive buffer, a
 * read of nothing makes sure that they were served. Linux has 208 KiB for all clients, unless told
 * otherwise, and charges a datagram for its bookkeeping, too: 768 bytes and more.
 */
const UNANSWERED_LIMIT = 64 * 1024;
const BOOKKEEPING = 768;

/** Data of one call: about what a write can carry in the largest datagram. */
const CHUNK = 60 * 1024;

type Question = Pick<Call, "method" | "fields" | "data">;

interface Pending {
  readonly call: Call;
  /** Pending while the call is under way; rejects as soon as it is given up. */
  readonly promise: Promise<Uint8Array>;
  readonly resolve: (body: Uint8Array) => void;
  readonly giveUp: (reason: unknown) => void;
}

export class ClassicExchange implements Exchange {
  readonly protocol = "classic";
  readonly chunk = CHUNK;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #bytes = new DataView(new ArrayBuffer(MAX_DATAGRAM));
  /** In the order in which they came. The first is under way, unless it was given up just now. */
  readonly #queue = new Set<Pending>();
  #running: Promise<void> | undefined;
  #closed = false;
  #unanswered = 0;
  /** Whether the daemon has answered before, and so is not just absent when it is slow. */
  #heard = false;

  constructor(transport: Transport, clock: Clock) {
    this.#transport = transport;
    this.#clock = clock;
  }

  call(call: Call): Promise<Uint8Array> {
    if (this.#closed) return Promise.reject(closedError(call));
    if (call.signal?.aborted) return Promise.reject(call.signal.reason);
    const { promise, resolve, reject } = withResolvers<Uint8Array>();
    const giveUp = (reason: unknown) => {
      this.#queue.delete(pending);
      reject(reason);
    };
    const pending: Pending = { call, promise, resolve, giveUp };
    this.#queue.add(pending);
    this.#running ??= this.#run();
    return untilAborted(call, promise, giveUp);
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const { call, giveUp } of this.#queue) giveUp(closedError(call));
    await this.#running;
    await this.#transport.close();
  }

  /** Works the queue off. Calls that come meanwhile are seen, too: a Set is iterated in that way. */
  async #run(): Promise<void> {
    for (const pending of this.#queue) {
      try {
        pending.resolve(await this.#exchange(pending));
      } catch (error) {
        pending.giveUp(error);
      }
      this.#queue.delete(pending);
    }
    this.#running = undefined;
  }

  async #exchange(pending: Pending): Promise<Uint8Array> {
    const { call } = pending;
    const asked = describe(call);
    switch (call.method) {
      case "malloc": {
        const body = await this.#ask(pending);
        if (body.length !== FIELD) throw new RefusedError(asked, undefined, "not a pointer");
        if (asBigInt(body) === 0n) {
          throw RefusedError.fromErrno(asked, ERRNO.ENOMEM);
        }
        return body;
      }
      case "read": {
        const body = await this.#ask(pending);
        if (body.length !== call.bodyLength) throw new RefusedError(asked);
        return body;
      }
      case "free":
      case "write": {
        const length = await this.#send(call);
        this.#unanswered += length + BOOKKEEPING;
        if (this.#unanswered > UNANSWERED_LIMIT) {
          await this.#ask(pending, { method: "read", fields: [call.fields[0]!, 0n] });
        }
        return new Uint8Array();
      }
      default:
        throw new RefusedError(asked, "ENOSYS", "needs the tagged protocol");
    }
  }

  async #send({ method, fields, data }: Question): Promise<number> {
    const length = encodeRequest(this.#bytes, 0, method, fields, data && { data });
    await this.#transport.send(new Uint8Array(this.#bytes.buffer, 0, length));
    return length;
  }

  /**
   * Sends a request, the call's own or one on its behalf, and resolves with the next datagram. If none
   * comes in time, or the call is given up, later ones are cut off: none must be taken for the answer to
   * another request.
   */
  async #ask(
    { call, promise: givenUp }: Pending,
    question: Question = call,
  ): Promise<Uint8Array> {
    const { promise, resolve, reject } = withResolvers<Uint8Array>();
    this.#transport.onDatagram = (datagram) => resolve(takeBody(datagram, call));
    const { server } = this.#transport;
    const { timeout } = call;
    let cancel = () => {};
    const wait = (from: number, until: number) => {
      cancel = this.#clock.after(until - from, () => {
        if (this.#transport.isAbsent()) reject(new NotThereError(describe(call), server, timeout));
        else if (until < timeout) wait(until, timeout);
        else reject(new NoReplyError(describe(call), server, timeout));
      });
    };
    try {
      await this.#send(question);
      wait(0, this.#heard ? timeout : Math.min(FIRST_WAIT_MS, timeout));
      const body = await Promise.race([promise, givenUp]);
      this.#unanswered = 0;
      this.#heard = true;
      return body;
    } catch (error) {
      await this.#transport.renew();
      throw error;
    } finally {
      cancel();
      this.#transport.onDatagram = () => {};
    }
  }
}
