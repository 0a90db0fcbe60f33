/**
 * The client side of the classic protocol: one call at a time, because a reply does not say what it
 * answers. A malloc is never sent twice (the second block would leak), and what gets no reply (free,
 * write) is done when it is sent.
 */

import { type Call, describe, type Exchange, NoReplyError, RefusedError } from "../exchange.ts";
import { encodeRequest, FIELD, fieldAt, MAX_DATAGRAM } from "../protocol.ts";
import { ERRNO } from "../refusal.ts";
import type { Clock, Transport } from "../transport.ts";

/** Writes are not answered; after so many bytes a read of nothing makes sure that they were taken. */
const UNANSWERED_LIMIT = 64 * 1024;

/** Data of one call: what a write can carry in the largest datagram. */
const CHUNK = 60 * 1024;

export class ClassicExchange implements Exchange {
  readonly protocol = "classic";
  readonly chunk = CHUNK;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #bytes = new DataView(new ArrayBuffer(MAX_DATAGRAM));
  #turn: Promise<unknown> = Promise.resolve();
  #unanswered = 0;

  constructor(transport: Transport, clock: Clock) {
    this.#transport = transport;
    this.#clock = clock;
  }

  call(call: Call): Promise<Uint8Array> {
    const result = this.#turn.then(() => this.#exchange(call));
    this.#turn = result.catch(() => {});
    return result;
  }

  async close(): Promise<void> {
    await this.#turn;
    await this.#transport.close();
  }

  async #exchange(call: Call): Promise<Uint8Array> {
    call.signal?.throwIfAborted();
    const asked = describe(call);
    switch (call.method) {
      case "malloc": {
        const body = await this.#ask(call);
        if (body.length !== FIELD) throw new RefusedError(asked, undefined, "not a pointer");
        if (fieldAt(new DataView(body.buffer), 0) === 0) {
          throw RefusedError.fromErrno(asked, ERRNO.ENOMEM);
        }
        return body;
      }
      case "read": {
        const body = await this.#ask(call);
        if (body.length !== call.bodyLength) throw new RefusedError(asked);
        return body;
      }
      case "free":
      case "write": {
        const length = await this.#send(call);
        this.#unanswered += length;
        if (this.#unanswered > UNANSWERED_LIMIT) {
          const fields = [call.fields[0]!, 0n];
          await this.#ask({ ...call, method: "read", fields, data: undefined });
        }
        return new Uint8Array();
      }
      default:
        throw new RefusedError(asked, "ENOSYS", "needs the tagged protocol");
    }
  }

  async #send({ method, fields, data }: Call): Promise<number> {
    const length = encodeRequest(this.#bytes, 0, method, fields, data && { data });
    await this.#transport.send(new Uint8Array(this.#bytes.buffer, 0, length));
    return length;
  }

  /** Sends a request and resolves with the next datagram. If there is none, later ones are cut off. */
  async #ask(call: Call): Promise<Uint8Array<ArrayBuffer>> {
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array<ArrayBuffer>>();
    const asked = describe(call);
    const abort = () => reject(call.signal!.reason);
    call.signal?.addEventListener("abort", abort, { once: true });
    this.#transport.onDatagram = (datagram) => resolve(datagram.slice());
    const cancel = this.#clock.after(
      call.timeout,
      () => reject(new NoReplyError(asked, this.#transport.server, call.timeout)),
    );
    try {
      await this.#send(call);
      const body = await promise;
      this.#unanswered = 0;
      return body;
    } catch (error) {
      await this.#transport.renew();
      throw error;
    } finally {
      cancel();
      call.signal?.removeEventListener("abort", abort);
      this.#transport.onDatagram = () => {};
    }
  }
}
