/** What of Deno the client's suite uses, on Node: for tests/programs/node_test.ts, which bundles the two. */

import { createSocket } from "node:dgram";
import { isIPv6 } from "node:net";
import process from "node:process";
import { test } from "node:test";

/** Node gets these in later versions. */
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((...functions) => [resolve, reject] = functions);
  return { promise, resolve, reject };
};
Uint8Array.fromHex ??= (text) =>
  Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));
Uint8Array.prototype.toHex ??= function () {
  return Array.from(this, (byte) => byte.toString(16).padStart(2, "0")).join("");
};

/** Node 20 knows one memory in a module; lib/heap/bulk.ts copies between two: here JavaScript does it. */
const { Instance, Module } = WebAssembly;
const BULK = {};
WebAssembly.Module = function (bytes) {
  try {
    return new Module(bytes);
  } catch {
    return BULK;
  }
};
WebAssembly.Instance = function (module, imports) {
  if (module !== BULK) return new Instance(module, imports);
  const [heap, io] = ["heap", "io"].map((name) => new Uint8Array(imports[""][name].buffer));
  const at = (low) => low >>> 0; // as an i32 it may be negative; the high half is for larger heaps
  return {
    exports: {
      load: (to, low, _high, length) => io.set(heap.subarray(at(low), at(low) + length), to),
      store: (low, _high, from, length) => heap.set(io.subarray(from, from + length), at(low)),
      move: (to, _toHigh, from, _fromHigh, length) =>
        heap.copyWithin(at(to), at(from), at(from) + length),
      zero: (low, _high, length) => heap.fill(0, at(low), at(low) + length),
    },
  };
};

class Datagrams {
  #socket;
  #waiting = []; // datagrams that nobody has asked for, or who has asked in vain so far
  #receivers = [];
  #closed = false;

  constructor({ hostname, port }) {
    // Without a lookup that takes its time the socket is bound at once, as Deno's are.
    const lookup = (host, _options, found) => found(null, host);
    this.#socket = createSocket({ type: isIPv6(hostname) ? "udp6" : "udp4", lookup });
    let failure;
    this.#socket.on("error", (error) => failure = error);
    this.#socket.on("message", (message, { address, port }) => {
      this.#waiting.push([message, { transport: "udp", hostname: address, port }]);
      this.#serve();
    });
    this.#socket.bind(port, hostname);
    if (failure !== undefined) throw failure;
    const { address } = this.#socket.address();
    this.addr = { transport: "udp", hostname: address, port: this.#socket.address().port };
  }

  #serve() {
    while (this.#receivers.length > 0 && this.#waiting.length > 0) {
      const { bytes, resolve } = this.#receivers.shift();
      const [message, from] = this.#waiting.shift();
      const room = bytes ?? new Uint8Array(message.length);
      const datagram = room.subarray(0, Math.min(room.length, message.length));
      datagram.set(message.subarray(0, datagram.length));
      resolve([datagram, from]);
    }
  }

  receive(bytes) {
    if (this.#closed) return Promise.reject(new Error("Bad resource ID"));
    return new Promise((resolve, reject) => {
      this.#receivers.push({ bytes, resolve, reject });
      this.#serve();
    });
  }

  send(bytes, { hostname, port }) {
    return new Promise((resolve, reject) => {
      this.#socket.send(
        bytes,
        port,
        hostname,
        (error, length) => error ? reject(error) : resolve(length),
      );
    });
  }

  close() {
    this.#closed = true;
    this.#socket.close();
    for (const { reject } of this.#receivers.splice(0)) reject(new Error("Interrupted"));
  }

  async *[Symbol.asyncIterator]() {
    while (!this.#closed) {
      try {
        yield await this.receive();
      } catch (error) {
        if (!this.#closed) throw error;
      }
    }
  }
}

const steps = (context) => ({ step: (name, fn) => context.test(name, fn) });

export const Shim = {
  build: { os: process.platform, arch: { x64: "x86_64", arm64: "aarch64" }[process.arch] },
  errors: {},
  permissions: { querySync: () => ({ state: "granted" }) },
  listenDatagram: (options) => new Datagrams(options),
  test(definition, fn) {
    const { name, ignore, ...rest } = typeof definition === "string"
      ? { name: definition }
      : definition;
    const run = fn ?? rest.fn;
    test(name, { skip: ignore === true }, (context) => run(steps(context)));
  },
};
