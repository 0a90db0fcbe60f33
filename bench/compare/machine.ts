/** What the benchmarks ran on: enough to judge the numbers by, nothing that says whose machine it is. */

import { run } from "./programs.ts";

/** Rows of name and value. */
export async function describeMachine(): Promise<[string, string][]> {
  const processor = await run("lscpu");
  const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(processor)?.[1];
  const hypervisor = field("Hypervisor vendor");
  const [release = ""] = (await run("uname", "-r")).split("-"); // without the builder's suffix
  return [
    ["Processor", `${field("Model name") ?? Deno.build.arch}, ${field("CPU\\(s\\)")} cores`],
    ["System", `Linux ${release}${hypervisor ? `, in a virtual machine (${hypervisor})` : ""}`],
  ];
}
