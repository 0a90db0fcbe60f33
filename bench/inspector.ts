/**
 * How much of V8's heap a thread of a daemon uses, while it serves: asked of the inspector, which interrupts
 * whatever runs there. An answer takes some 64 bytes of that heap.
 *
 *     us --Runtime.getHeapUsage--> main thread
 *     us --NodeWorker.sendMessageToWorker(Runtime.getHeapUsage)--> main thread --> worker
 */

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly sessionId: string; readonly message: string };
  readonly result?: { readonly usedSize?: number };
}

export class Inspector implements Disposable {
  readonly #socket: WebSocket;
  readonly #answers = new Map<number, PromiseWithResolvers<Message>>();
  /** The session of the only worker. */
  readonly #worker = Promise.withResolvers<string>();
  #id = 0;

  /** `address` is what a program prints that was started with --inspect. */
  static async connect(address: string): Promise<Inspector> {
    const socket = new WebSocket(address);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error(`Cannot connect to ${address}`));
    });
    return new Inspector(socket);
  }

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
  }

  /** Bytes of the main thread's heap, or of the worker's. */
  async used(inWorker: boolean): Promise<number> {
    const ask = { method: "Runtime.getHeapUsage" };
    const { result } = await (inWorker ? this.#askWorker(ask) : this.#ask(ask));
    if (result?.usedSize === undefined) throw new Error("The inspector does not tell what is used");
    return result.usedSize;
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }

  #ask(message: Record<string, unknown>): Promise<Message> {
    const { id, answer } = this.#expect();
    this.#socket.send(JSON.stringify({ ...message, id }));
    return answer;
  }

  async #askWorker(message: Record<string, unknown>): Promise<Message> {
    const enable = { method: "NodeWorker.enable", params: { waitForDebuggerOnStart: false } };
    await this.#ask(enable); // it names the worker the first time
    const sessionId = await this.#worker.promise;
    const { id, answer } = this.#expect();
    const params = { sessionId, message: JSON.stringify({ ...message, id }) };
    await this.#ask({ method: "NodeWorker.sendMessageToWorker", params });
    return await answer;
  }

  #expect(): { id: number; answer: Promise<Message> } {
    const id = ++this.#id;
    const answer = Promise.withResolvers<Message>();
    this.#answers.set(id, answer);
    return { id, answer: answer.promise };
  }

  #take(message: Message): void {
    const { id, method, params } = message;
    if (method === "NodeWorker.attachedToWorker") this.#worker.resolve(params!.sessionId);
    else if (method === "NodeWorker.receivedMessageFromWorker") {
      this.#take(JSON.parse(params!.message));
    } else if (id !== undefined) {
      this.#answers.get(id)?.resolve(message);
      this.#answers.delete(id);
    }
  }
}
