/**
 * One connection to a Redis or Valkey, which speaks RESP2 (the Redis serialization protocol): commands go
 * out as arrays of strings, and replies come back in their order. A library would do, and two were tried:
 * docs/cluster.md says what they cost.
 */

import type { Node } from "./node.ts";
import { joinHostPort } from "../../system/address.ts";

/** An argument of a command. */
export type Argument = string | number | Uint8Array;
/** Strings come as bytes, since most that we store is no text. */
export type Reply = null | number | string | Uint8Array | readonly Reply[];

/** The server said no; its `code` is the first word of what it said. */
export class RedisError extends Error {
  readonly code: string;
  constructor(message: string) {
    super(message);
    this.code = message.split(" ", 1)[0]!;
  }
}

/** The connection ended, or no reply came in time: whether the command was carried out is unknown. */
export class ConnectionError extends Error {}

/** How to get into a server. */
export interface Access {
  /** In PEM, who vouches for the servers, if they speak TLS. */
  ca?: string | undefined;
  /** For AUTH. */
  user?: { name: string; password: string } | undefined;
}

const FIRST_BUFFER = 64 * 1024;
/** No string of Redis is longer. */
const LONGEST = 512 * 1024 ** 2;
const CRLF = "\r\n";
const [CR, STAR, DOLLAR, COLON, PLUS, MINUS] = [13, 42, 36, 58, 43, 45];
const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class Connection {
  readonly #socket: Deno.Conn;
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];
  #writing: Promise<unknown> = Promise.resolve();
  #closed: Error | undefined;
  /** What came and is not parsed yet lies from #start to #end; until there is #wanted of it, it is no reply. */
  #buffer = new Uint8Array(FIRST_BUFFER);
  #start = 0;
  #end = 0;
  #wanted = 0;
  #at = 0;

  private constructor(socket: Deno.Conn) {
    this.#socket = socket;
    this.#receive();
  }

  /** Connects within `timeout` milliseconds and authenticates. Rejects with a ConnectionError or a RedisError. */
  static async open(node: Node, { ca, user }: Access, timeout: number): Promise<Connection> {
    const opening: Promise<Deno.Conn> = ca === undefined
      ? Deno.connect({ ...node, transport: "tcp" })
      : Deno.connectTls({ ...node, caCerts: [ca] });
    const socket = await withTimeout(
      opening,
      timeout,
      `${joinHostPort(node)} cannot be connected to`,
    )
      .catch((error) => {
        opening.then((late) => late.close(), () => {});
        if (error instanceof ConnectionError) throw error;
        throw new ConnectionError(`${joinHostPort(node)}: ${error.message}`);
      });
    if (ca === undefined) (socket as Deno.TcpConn).setNoDelay(true);
    const connection = new Connection(socket);
    try {
      if (user !== undefined) {
        await connection.call(["AUTH", user.name, user.password], timeout);
      }
    } catch (error) {
      connection.close();
      throw error;
    }
    return connection;
  }

  get isClosed(): boolean {
    return this.#closed !== undefined;
  }

  /** Sends a command and resolves with its reply; after `timeout` milliseconds the connection is given up. */
  async call(command: readonly Argument[], timeout: number): Promise<Reply> {
    const [reply] = await this.pipeline([command], timeout);
    return reply!;
  }

  /** Sends commands in one go, and resolves with their replies. The first that is refused makes it reject. */
  async pipeline(commands: readonly (readonly Argument[])[], timeout: number): Promise<Reply[]> {
    if (this.#closed !== undefined) throw this.#closed;
    const replies = commands.map(() => {
      const { promise, resolve, reject } = Promise.withResolvers<Reply>();
      promise.catch(() => {}); // that of a later one, if an earlier one was refused
      this.#waiting.push({ resolve, reject });
      return promise;
    });
    const bytes = encode(commands);
    this.#writing = this.#writing.then(() => this.#write(bytes));
    try {
      return await withTimeout(Promise.all(replies), timeout, "no reply in time");
    } catch (error) {
      if (error instanceof ConnectionError) this.#fail(error);
      throw error;
    }
  }

  close(): void {
    this.#fail(new ConnectionError("the connection was closed"));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length;) at += await this.#socket.write(bytes.subarray(at));
    } catch (error) {
      this.#fail(new ConnectionError((error as Error).message));
    }
  }

  async #receive(): Promise<void> {
    try {
      for (;;) {
        if (this.#end === this.#buffer.length) this.#makeRoom();
        const count = await this.#socket.read(this.#buffer.subarray(this.#end));
        if (count === null) throw new Error("the server closed the connection");
        this.#end += count;
        while (this.#end - this.#start >= this.#wanted && this.#end > this.#start) {
          this.#at = this.#start;
          this.#wanted = 0;
          const reply = this.#parse();
          if (reply === undefined) break;
          this.#start = this.#at;
          const waiting = this.#waiting.shift();
          if (reply instanceof RedisError) waiting?.reject(reply);
          else waiting?.resolve(reply);
        }
      }
    } catch (error) {
      this.#fail(new ConnectionError((error as Error).message));
    }
  }

  #makeRoom(): void {
    const kept = this.#end - this.#start;
    const size = Math.max(FIRST_BUFFER, 2 * kept, this.#wanted);
    const larger = size > this.#buffer.length ? new Uint8Array(size) : this.#buffer;
    larger.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = larger;
    this.#start = 0;
    this.#end = kept;
  }

  /** The reply at #at, which is then behind it; undefined, and perhaps #wanted, if it is not all there. */
  #parse(): Reply | RedisError | undefined {
    const type = this.#buffer[this.#at];
    const line = this.#line();
    if (line === undefined) return undefined;
    switch (type) {
      case PLUS:
        return line;
      case MINUS:
        return new RedisError(line);
      case COLON:
        return Number(line);
      case DOLLAR: {
        const length = lengthOf(line);
        if (length < 0) return null;
        const from = this.#at;
        if (from + length + CRLF.length > this.#end) {
          this.#wanted = from + length + CRLF.length - this.#start;
          return undefined;
        }
        this.#at = from + length + CRLF.length;
        return this.#buffer.slice(from, from + length);
      }
      case STAR: {
        const length = lengthOf(line);
        if (length < 0) return null;
        const replies: Reply[] = [];
        for (let i = 0; i < length; i++) {
          const reply = this.#parse();
          if (reply === undefined) return undefined;
          replies.push(reply instanceof RedisError ? reply.message : reply);
        }
        return replies;
      }
      default:
        throw new Error(`the server sent a byte that begins no reply: ${type}`);
    }
  }

  #line(): string | undefined {
    const end = this.#buffer.indexOf(CR, this.#at);
    if (end === -1 || end + 1 >= this.#end) return undefined;
    const line = decoder.decode(this.#buffer.subarray(this.#at + 1, end));
    this.#at = end + CRLF.length;
    return line;
  }

  #fail(error: ConnectionError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    try {
      this.#socket.close();
    } catch {
      // it was closed by what ended it
    }
  }
}

function encode(commands: readonly (readonly Argument[])[]): Uint8Array {
  const parts: Uint8Array[] = [];
  let text = "";
  for (const command of commands) {
    text += `*${command.length}${CRLF}`;
    for (const argument of command) {
      if (argument instanceof Uint8Array) {
        parts.push(encoder.encode(`${text}$${argument.length}${CRLF}`), argument);
        text = CRLF;
      } else {
        const word = String(argument);
        // What is no ASCII takes more bytes than it has letters.
        const length = encoder.encode(word).length;
        text += `$${length}${CRLF}${word}${CRLF}`;
      }
    }
  }
  parts.push(encoder.encode(text));
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

async function withTimeout<T>(promise: Promise<T>, ms: number, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ConnectionError(`${what} within ${ms}ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The length of a string or an array; -1 stands for nothing. */
function lengthOf(line: string): number {
  const length = Number(line);
  if (Number.isInteger(length) && length >= -1 && length <= LONGEST) return length;
  throw new Error(`the server sent a length that is none: ${line}`);
}

/** A reply that must be text, as text. */
export function textOf(reply: Reply | undefined): string {
  if (reply instanceof Uint8Array) return decoder.decode(reply);
  return String(reply ?? "");
}

/** A hash: its fields and their values, which are text. */
export function mapOf(reply: Reply | undefined): Map<string, string> {
  const map = new Map<string, string>();
  const list = reply as Reply[];
  for (let i = 0; i + 1 < list.length; i += 2) map.set(textOf(list[i]), textOf(list[i + 1]));
  return map;
}
