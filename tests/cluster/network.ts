/**
 * The network between one daemon and a cluster, which can fall silent: connections stay open, and carry
 * nothing until it is whole again; new ones are taken, and carry nothing either.
 */

import type { Node } from "../../lib/daemon/cluster/node.ts";
import { sleep } from "./load.ts";

export class Network implements Disposable {
  /** For --cluster of the daemon behind it. */
  readonly nodes: string;
  /** Milliseconds that everything takes, each way. */
  readonly #delay: number;
  readonly #listeners: Deno.Listener[] = [];
  readonly #sockets = new Set<Deno.Conn>();
  /** By a server's port, where it is found here: what servers tell of each other is put right. */
  readonly #ports = new Map<number, number>();
  #whole: PromiseWithResolvers<void> | undefined;

  constructor(nodes: readonly Node[], delay = 0) {
    this.#delay = delay;
    for (const { port } of nodes) {
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      this.#listeners.push(listener);
      this.#ports.set(port, (listener.addr as Deno.NetAddr).port);
      this.#accept(listener, port);
    }
    this.nodes = [...this.#ports.values()].map((port) => `127.0.0.1:${port}`).join();
  }

  /** From now on nothing comes through, either way. */
  cut(): void {
    this.#whole ??= Promise.withResolvers();
  }

  /** What was on its way comes through now, late. */
  mend(): void {
    this.#whole?.resolve();
    this.#whole = undefined;
  }

  async #accept(listener: Deno.Listener, port: number): Promise<void> {
    for await (const near of listener) {
      this.#sockets.add(near);
      this.#serve(near, port).catch(() => {}).finally(() => this.#end(near));
    }
  }

  async #serve(near: Deno.Conn, port: number): Promise<void> {
    await this.#whole?.promise;
    const far = await Deno.connect({ hostname: "127.0.0.1", port });
    this.#sockets.add(far);
    const both = [this.#carry(near, far, false), this.#carry(far, near, true)];
    try {
      await Promise.race(both);
    } finally {
      this.#end(far);
      this.#end(near);
      await Promise.allSettled(both);
    }
  }

  /** Until one end closes. */
  async #carry(from: Deno.Conn, to: Deno.Conn, isReply: boolean): Promise<void> {
    const buffer = new Uint8Array(64 * 1024);
    for (;;) {
      const count = await from.read(buffer);
      if (this.#delay > 0) await sleep(this.#delay);
      while (this.#whole !== undefined) await this.#whole.promise;
      if (count === null) return;
      const bytes = buffer.subarray(0, count);
      const sent = isReply ? this.#translate(bytes) : bytes;
      for (let at = 0; at < sent.length;) at += await to.write(sent.subarray(at));
    }
  }

  /** Ports stand in lists as `:7000` in a line of its own, and in MOVED at the end of one; all have 5 digits. */
  #translate(bytes: Uint8Array): Uint8Array {
    const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    const translated = text.replace(/:(\d{5})\r\n/g, (all, port) => {
      const here = this.#ports.get(Number(port));
      return here === undefined ? all : `:${here}\r\n`;
    });
    return Uint8Array.from(translated, (letter) => letter.charCodeAt(0));
  }

  #end(socket: Deno.Conn): void {
    if (!this.#sockets.delete(socket)) return;
    try {
      socket.close();
    } catch {
      // the other end was faster
    }
  }

  [Symbol.dispose](): void {
    this.mend();
    for (const listener of this.#listeners) listener.close();
    for (const socket of this.#sockets) this.#end(socket);
  }
}
