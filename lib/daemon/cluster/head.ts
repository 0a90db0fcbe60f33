/**
 * What the cluster knows of a range beside its log: what replay depends on, whose it is, and its snapshot.
 */

import { ClusterError } from "./primary.ts";
import type { Argument } from "./resp.ts";
import { formatSize } from "../../cli/sizes.ts";
import { VERSION } from "../../cli/version.ts";

/**
 * Which replay it takes: to be counted up with every change that makes another daemon of the same log, or
 * of the same snapshot. A test holds the digest of one.
 */
export const LOG_FORMAT = 2;

/** What replay depends on: a range is made with them, and keeps them. */
export interface Terms {
  readonly memory: number;
  readonly strict: boolean;
  readonly replayCache: number;
  readonly quota?: number | undefined;
}

export interface Head extends Terms {
  readonly version: string;
  readonly format: number;
  /** The boot epoch, and the secrets of the cache's hash and of the quota's, as hex. */
  readonly epoch: string;
  readonly secrets: string;
  readonly owner: string;
  readonly fence: number;
  /** The number of the last batch that the snapshot holds, and its chunks; 0 if there is none. */
  readonly snapshot: number;
  readonly chunks: number;
}

/** A range's head; undefined if it is none, because there is no such range. */
export function parseHead(fields: ReadonlyMap<string, string>): Head | undefined {
  if (!fields.has("epoch")) return undefined;
  const number = (name: string) => Number(fields.get(name) ?? 0);
  return {
    version: fields.get("version") ?? "?",
    format: number("format"),
    memory: number("memory"),
    strict: number("strict") === 1,
    replayCache: number("cache"),
    quota: fields.has("quota") ? number("quota") : undefined,
    epoch: fields.get("epoch")!,
    secrets: fields.get("secrets") ?? "",
    owner: fields.get("owner") ?? "",
    fence: number("fence"),
    snapshot: number("snapshot"),
    chunks: number("chunks"),
  };
}

/** Throws ClusterError unless a daemon of these terms can have the range that there is. */
export function checkHead(number: number, head: Head, terms: Terms): void {
  const range = `range ${number}`;
  if (head.format !== LOG_FORMAT) {
    throw new ClusterError(
      `${range} has a log of format ${head.format}, made by mallocd ${head.version}; ` +
        `this is mallocd ${VERSION}, which replays format ${LOG_FORMAT}`,
    );
  }
  if (head.version !== VERSION) {
    throw new ClusterError(
      `${range} was made by mallocd ${head.version}, and this is ${VERSION}: ` +
        "all daemons of a range must be of the same version",
    );
  }
  const [theirs, ours] = [flagsOf(head), flagsOf(terms)];
  for (const [i, flag] of theirs.entries()) {
    if (flag === ours[i]) continue;
    throw new ClusterError(
      `${range} was made with ${flag}, and this is a daemon with ${ours[i]}`,
      `${flag}, or another --range`,
    );
  }
}

/** The terms as they are said on a command line. */
function flagsOf({ memory, strict, replayCache, quota }: Terms): string[] {
  return [
    `--memory ${formatSize(memory)}`,
    strict ? "--strict" : "no --strict",
    `--replay-cache ${replayCache}`,
    quota === undefined ? "no --quota" : `--quota ${formatSize(quota)}`,
  ];
}

/** The fields and values of a new range: its epoch and its secrets are anybody's guess. */
export function newHead({ memory, strict, replayCache, quota }: Terms): Argument[] {
  const random = crypto.getRandomValues(new Uint8Array(8 + 16));
  random[7]! |= 1; // an epoch is never 0
  const hex = random.toHex();
  return [
    ...["format", LOG_FORMAT, "version", VERSION, "memory", memory, "strict", strict ? 1 : 0],
    ...["cache", replayCache, "epoch", hex.slice(0, 16), "secrets", hex.slice(16)],
    ...(quota === undefined ? [] : ["quota", quota]),
  ];
}
