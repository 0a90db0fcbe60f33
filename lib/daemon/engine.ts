/**
 * What an engine is: one way to move datagrams between a socket and the service. Every engine makes the
 * service itself (engine_service.ts), in the thread that serves, and passes the same suite,
 * tests/daemon/engine_test.ts.
 */

import type { HeapPlace } from "./heap_file.ts";
import type { SecretFiles } from "./engines/quic_secrets.ts";
import type { ServiceOptions } from "./service.ts";

/** Room in the kernel for datagrams that wait to be served: bursts of some ten thousand small ones. */
export const DEFAULT_RECEIVE_BUFFER = 4 * 1024 * 1024;

/**
 * How often the syscall engine looks for a datagram before it sleeps until one comes; twice as often where
 * the last one came late in that time: else every other one of 20,000 a second would have to wake it. So
 * many tries take 15 to 60 microseconds, about what a client takes to ask again, or the kernel to wake a
 * thread.
 */
export const DEFAULT_SPIN = 100;

/** All that an engine needs. It is plain data, which can be sent to another thread. */
export interface EngineOptions extends ServiceOptions {
  /** The address to bind, as text: `127.0.0.1`, `::1`, `0.0.0.0`. */
  hostname: string;
  /** 0 for any free port. */
  port: number;
  /** Size of the heap in bytes. */
  memory: number;
  /** Where the heap lies, if it is in a file; the state is then mapped already. */
  heapPlace?: HeapPlace | undefined;
  /** Admit only bytes inside one live allocation. */
  strict: boolean;
  /** Bytes of the kernel's receive buffer, where the engine can set it: DEFAULT_RECEIVE_BUFFER. */
  receiveBuffer?: number | undefined;
  /** Of the quic engine, where its certificate, key and tokens are. */
  secrets?: SecretFiles | undefined;
  /** Of the syscall engine, whether the heap is to lie in pages of 2 MiB. */
  hugePages?: boolean | undefined;
  /** Of the syscall engine, tries before it sleeps, 0 for none: DEFAULT_SPIN. */
  spin?: number | undefined;
}

export interface Engine {
  readonly name: string;
  /** Where it listens, with the port that it was given. */
  readonly address: { readonly hostname: string; readonly port: number };
  /** What the kernel granted of `receiveBuffer`; undefined where the engine cannot set it. */
  readonly receiveBuffer?: number;
  /** What the ready line tells of it beside that. */
  readonly details?: Readonly<Record<string, string | number | undefined>>;
  /** Whether it advances the clock itself. */
  readonly keepsTime?: boolean;
  /** Rejects when it can serve no more. */
  readonly failed?: Promise<never>;
  /** Reads its files again; rejects, and goes on with what it has, if they are no good. */
  reload?(): Promise<void>;
  /** Stops receiving; resolves when the last reply has been sent and the socket is closed. */
  close(): Promise<void>;
}
