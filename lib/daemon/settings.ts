/** What the flags mean together: those that contradict each other, and those that mean nothing alone. */

import { DAEMON_FLAGS, KNOWN_BY, NEEDS } from "./flags.ts";
import type { SecretFiles } from "./engines/quic_secrets.ts";
import { RESERVED } from "./procedures/limits.ts";
import { defaults, type Flag, UsageError, type Values } from "../cli/flags.ts";
import { formatSize } from "../cli/sizes.ts";
import { MAX_MEMORY32 } from "../heap/heap.ts";
import { isLoopback } from "../system/address.ts";

export type DaemonValues = Values<typeof DAEMON_FLAGS>;

/** What follows from several flags. */
export interface Settings {
  /** The address to listen on, as text. */
  readonly host: string;
  /** Where the quic engine's secrets are; undefined for the other engines, which have none. */
  readonly secrets: SecretFiles | undefined;
  /** What a call of a procedure may use up; undefined if there are to be none. */
  readonly fuel: number | undefined;
  /** Whether everybody is answered who can reach it, unencrypted. */
  readonly isOpen: boolean;
}

/** `given` names the flags that are on the command line. Throws UsageError. */
export function settingsOf(values: DaemonValues, given: readonly string[]): Settings {
  checkNeeds(values, given);
  const { allow, anyone } = values;
  const host = hostnameOf(values.host);
  if (allow !== undefined && anyone) {
    throw new UsageError("--allow and --anyone contradict each other", "leave one of them out");
  }
  const secrets = secretsOf(values);
  const isLocal = isLoopback(host);
  if (!isLocal && allow === undefined && !anyone && secrets?.tokens === undefined) {
    throw new UsageError(
      `--host ${host} can be reached from other hosts, and there is no authentication`,
      "add --allow CIDR[,CIDR] to answer only those networks, or --anyone to answer everybody" +
        (secrets === undefined ? "" : ", or --token-file FILE"),
    );
  }
  if (values["huge-pages"] && values["heap-file"] !== undefined) {
    throw new UsageError("--huge-pages means nothing with --heap-file", "leave one of them out");
  }
  return {
    host,
    secrets,
    fuel: fuelOf(values),
    isOpen: anyone && !isLocal && secrets === undefined,
  };
}

/** What is said, be it by a variable, and would be ignored is told. Throws UsageError. */
function checkNeeds(values: DaemonValues, given: readonly string[]): void {
  const standard = defaults(DAEMON_FLAGS);
  const isSaid = (name: string) =>
    given.includes(name) ||
    values[name as keyof typeof values] !== standard[name as keyof typeof values];
  for (const [name, needed] of Object.entries(NEEDS)) {
    if (!isSaid(name) || values[needed]) continue;
    const { placeholder }: Flag<unknown> = DAEMON_FLAGS[needed];
    const example = placeholder === undefined ? `--${needed}` : `--${needed} ${placeholder}`;
    throw new UsageError(
      `--${name} means nothing without --${needed}`,
      `add ${example}, or leave it out`,
    );
  }
  const engine = values.cluster === undefined ? values.engine : "cluster";
  for (const [name, engines] of Object.entries(KNOWN_BY)) {
    if (!isSaid(name) || (engines as readonly string[]).includes(engine)) continue;
    throw engine === "cluster"
      ? new UsageError(`--${name} cannot be had with --cluster`, "leave one of them out")
      : new UsageError(
        `--${name} cannot be had with --engine ${engine}`,
        `--engine ${engines[0]}, or leave it out`,
      );
  }
}

function fuelOf(
  { procedures, fuel, strict, cluster, memory, "heap-file": file }: DaemonValues,
): number | undefined {
  if (!procedures) return undefined;
  const foreign = [
    [strict, "--strict", "a procedure reaches the whole heap"],
    [cluster !== undefined, "--cluster", "a procedure need not do the same elsewhere"],
    [file !== undefined, "--heap-file", "what a killed procedure has half done cannot be undone"],
  ] as const;
  for (const [isGiven, flag, reason] of foreign) {
    if (!isGiven) continue;
    throw new UsageError(
      `${flag} and --procedures contradict each other: ${reason}`,
      "leave one of them out",
    );
  }
  if (memory % RESERVED !== 0 || memory < 2 * RESERVED || memory > MAX_MEMORY32) {
    throw new UsageError(
      `--procedures cannot be had with --memory ${formatSize(memory)}`,
      `use a multiple of ${formatSize(RESERVED)}, from twice that to ${formatSize(MAX_MEMORY32)}`,
    );
  }
  return fuel;
}

function secretsOf(
  { engine, cert, key, "token-file": tokens }: DaemonValues,
): SecretFiles | undefined {
  if (engine !== "quic") return undefined;
  if (cert !== undefined && key !== undefined) return { cert, key, tokens };
  throw new UsageError(
    "--engine quic needs a certificate and its key",
    "add --cert FILE and --key FILE; docs/operations.md shows how to make them with openssl",
  );
}

/** Without the brackets that an IPv6 address has before a port; localhost is an address for all engines. */
function hostnameOf(host: string): string {
  return host === "localhost" ? "127.0.0.1" : host.replace(/^\[(.+)\]$/, "$1");
}
