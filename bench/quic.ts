/**
 * What QUIC costs: reads of 64 bytes through Remote, so many at a time, of the quic engine beside the same
 * of the datagram engine. The certificate is made with openssl, which docs/operations.md shows.
 *
 *     deno run -P=bench bench/quic.ts [--smoke]
 */

import { Remote } from "../lib/client/remote.ts";
import { HOST, medians, rate, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const LENGTH = 64;
const AT_A_TIME = [1, 8, 32];
const OPERATIONS = new URL("../docs/operations.md", import.meta.url);

/** Runs the commands of docs/operations.md in a folder. */
async function makeSecrets(folder: string): Promise<void> {
  const [, commands] = /```sh\n(openssl [^`]*)```/.exec(await Deno.readTextFile(OPERATIONS))!;
  const { success, stderr } = await new Deno.Command("sh", {
    args: ["-ec", commands!],
    cwd: folder,
  })
    .output();
  if (!success) throw new Error(`Cannot make certificates: ${new TextDecoder().decode(stderr)}`);
}

async function main(rounds: number, ms: number): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  try {
    await makeSecrets(folder);
    const pair = ["--cert", `${folder}/mallocd.pem`, "--key", `${folder}/mallocd.key`];
    await using quic = await startMallocd("quic", ...pair, "--token-file", `${folder}/tokens`);
    await using datagram = await startMallocd("datagram");
    const ca = await Deno.readTextFile(`${folder}/ca.pem`);
    const token = (await Deno.readTextFile(`${folder}/tokens`)).trim();
    await using overQuic = await Remote.connect({
      server: `quic://${HOST}:${quic.port}`,
      ca,
      token,
      timeout: 10_000,
    });
    await using overUdp = await Remote.connect({ server: `${HOST}:${datagram.port}` });
    const reads = async (remote: Remote) => {
      const pointer = await remote.malloc(LENGTH);
      return (count: number) => async () => {
        // Each goes on by itself: calls that are made at once would share a datagram.
        const end = performance.now() + ms;
        const one = () =>
          rate(end - performance.now(), async () => {
            await remote.read(pointer, LENGTH);
          });
        const rates = await Promise.all(Array.from({ length: count }, one));
        return rates.reduce((sum, each) => sum + each);
      };
    };
    const [viaQuic, viaUdp] = [await reads(overQuic), await reads(overUdp)];
    const results = await medians(rounds, AT_A_TIME.flatMap((n) => [viaQuic(n), viaUdp(n)]));
    printTable([
      [`${LENGTH}-byte reads, at a time`, "quic, a second", "datagram, a second", "ratio"],
      ...AT_A_TIME.map((n, i) => {
        const [one, other] = [results[2 * i]!, results[2 * i + 1]!];
        return [`${n}`, grouped(Math.round(one)), grouped(Math.round(other)), ratio(one / other)];
      }),
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await (Deno.args.includes("--smoke") ? main(1, 20) : main(5, 500));
