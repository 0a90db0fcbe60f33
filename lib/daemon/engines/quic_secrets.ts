/** What the quic engine reads from files, at start and again at each HUP: certificate, key, tokens. */

import { StartError } from "../start_error.ts";

/** Bytes of the longest token. */
export const MAX_TOKEN = 1024;

/** Paths. Without `tokens`, whoever trusts the certificate is served. */
export interface SecretFiles {
  cert: string;
  key: string;
  tokens?: string | undefined;
}

export interface Secrets {
  /** PEM. */
  readonly cert: string;
  readonly key: string;
  /** Their SHA-256 digests. Undefined if none is asked for. */
  readonly tokens: readonly Uint8Array[] | undefined;
}

const PEM = "PEM files that belong together; docs/operations.md shows how to make them";
const TOKENS = "a file that `openssl rand -hex 32` has made; docs/operations.md says more";

/** Rejects with an Error that names the file, if one cannot be read or the token file has no token. */
export async function readSecrets({ cert, key, tokens }: SecretFiles): Promise<Secrets> {
  return {
    cert: await read(cert, PEM),
    key: await read(key, PEM),
    tokens: tokens === undefined
      ? undefined
      : await parseTokens(tokens, await read(tokens, TOKENS)),
  };
}

async function read(path: string, hint: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw new SecretError(`Cannot read ${path}: ${(error as Error).message}`, hint);
  }
}

export class SecretError extends StartError {
  constructor(message: string, hint = PEM) {
    super(message, hint);
  }
}

/** An empty file would admit nobody, or, read carelessly, everybody: it is a mistake. */
async function parseTokens(path: string, text: string): Promise<Uint8Array[]> {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  if (lines.length === 0) {
    throw new SecretError(`Cannot find a token in ${path}: one a line`, TOKENS);
  }
  const tokens = lines.map((line) => new TextEncoder().encode(line));
  if (tokens.some(({ length }) => length > MAX_TOKEN)) {
    throw new SecretError(`Cannot use ${path}: a token has ${MAX_TOKEN} bytes at most`, TOKENS);
  }
  return await Promise.all(tokens.map(digest));
}

async function digest(token: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array(token)));
}

/**
 * Whether a token is among those that are asked for. What is compared are digests, all of one length,
 * every byte of every one: how long it takes tells nothing of the tokens.
 */
export async function isToken({ tokens }: Secrets, token: Uint8Array): Promise<boolean> {
  if (tokens === undefined) return true;
  const asked = await digest(token);
  let found = 0;
  for (const known of tokens) {
    let differs = 0;
    for (let i = 0; i < asked.length; i++) differs |= known[i]! ^ asked[i]!;
    found |= Number(differs === 0);
  }
  return found === 1;
}
