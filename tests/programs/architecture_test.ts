/** The import rule of docs/architecture.md, asked of Deno itself: which file imports which. */

import { assertEquals } from "@std/assert";
import { ROOT, run } from "./programs.ts";

/** What each room of lib/ may import, besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  std: [],
  protocol: [],
  system: [],
  cli: ["std"],
  heap: [],
  daemon: ["protocol", "system", "cli", "heap"],
  client: ["protocol", "system", "cli", "std"],
};

type Graph = ReadonlyMap<string, readonly string[]>;

interface Info {
  modules: {
    local?: string;
    dependencies?: { code?: { specifier: string }; type?: { specifier: string } }[];
  }[];
}

/** For each file that `roots` lead to, the files that it imports, all below `folder` and named from there. */
async function graphOf(folder: URL, roots: readonly string[]): Promise<Graph> {
  const graph = new Map<string, string[]>();
  for (const root of roots) {
    const path = new URL(root, folder).pathname;
    const { code, stdout, stderr } = await run(Deno.execPath(), ["info", "--json", path]);
    assertEquals(code, 0, stderr);
    const { modules }: Info = JSON.parse(stdout);
    for (const { local, dependencies = [] } of modules) {
      if (local === undefined || !local.startsWith(folder.pathname)) continue;
      const imports = dependencies.flatMap(({ code, type }) => [code, type])
        .map((found) => found?.specifier)
        .filter((specifier) => specifier?.startsWith(folder.href))
        .map((specifier) => specifier!.slice(folder.href.length));
      graph.set(local.slice(folder.pathname.length), imports);
    }
  }
  return graph;
}

/** The rooms that a file and what it imports lie in; undefined for a file outside lib/. */
function roomOf(file: string): string | undefined {
  return /^lib\/(\w+)\//.exec(file)?.[1];
}

/** Imports that the rule forbids, as `a.ts imports b.ts`. */
function violations(graph: Graph): string[] {
  const found: string[] = [];
  for (const [file, imports] of graph) {
    const room = roomOf(file);
    if (room === undefined) continue;
    for (const target of imports) {
      const other = roomOf(target);
      if (other === room || (other && MAY_IMPORT[room]?.includes(other))) continue;
      found.push(`${file} imports ${target}`);
    }
  }
  return found;
}

/** A circle of imports, if there is one, as the files on it. */
function circle(graph: Graph): string[] {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    for (const target of graph.get(file) ?? []) {
      const found = visit(target, [...path, file]);
      if (found.length > 0) return found;
    }
    done.add(file);
    return [];
  };
  for (const file of graph.keys()) {
    const found = visit(file, []);
    if (found.length > 0) return found;
  }
  return [];
}

/** Each starts a program, or a thread of one, or is what others import. */
const ROOTS = [
  "main.ts",
  "client.ts",
  "lib/daemon/engines/syscall_worker.ts",
  "lib/client/heavy.ts",
  "lib/protocol/mod.ts",
];

const graph = await graphOf(ROOT, ROOTS);

Deno.test("lib/ imports only what docs/architecture.md permits", () => {
  assertEquals(violations(graph), []);
});

Deno.test("lib/ has no circle of imports", () => {
  assertEquals(circle(graph), []);
});

Deno.test("every file of lib/ is part of a program", () => {
  const files: string[] = [];
  const list = (folder: string) => {
    for (const { name, isDirectory } of Deno.readDirSync(new URL(folder, ROOT))) {
      if (isDirectory) list(`${folder}${name}/`);
      else if (name.endsWith(".ts")) files.push(`${folder}${name}`);
    }
  };
  list("lib/");
  const ofTests = ["lib/std/assert.ts", "lib/std/bytes.ts"];
  const unused = files.filter((file) => !graph.has(file) && !ofTests.includes(file));
  assertEquals(unused, []);
});

Deno.test("the rooms of lib/ are those of docs/architecture.md", () => {
  const text = Deno.readTextFileSync(new URL("docs/architecture.md", ROOT));
  const listed = [...text.matchAll(/^ {6}(\w+)\/ {3,}\w/gm)].map((match) => match[1]!);
  const rooms = [...Deno.readDirSync(new URL("lib/", ROOT))].map(({ name }) => name);
  assertEquals(listed.toSorted(), rooms.toSorted());
  assertEquals(Object.keys(MAY_IMPORT).toSorted(), rooms.toSorted());
});

Deno.test("a violation of the rule, and a circle, are found when they are planted", async () => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
  try {
    const write = async (file: string, text: string) => {
      const path = `${folder}/${file}`;
      await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(path, text);
    };
    await write("lib/client/a.ts", 'import "../daemon/b.ts";');
    await write("lib/daemon/b.ts", 'import "../heap/c.ts";');
    await write("lib/heap/c.ts", 'import type { D } from "./d.ts";\nexport type C = D;');
    await write("lib/heap/d.ts", 'import type { C } from "./c.ts";\nexport type D = C;');
    const planted = await graphOf(new URL(`file://${await Deno.realPath(folder)}/`), [
      "lib/client/a.ts",
    ]);
    assertEquals(violations(planted), ["lib/client/a.ts imports lib/daemon/b.ts"]);
    assertEquals(circle(planted), ["lib/heap/c.ts", "lib/heap/d.ts", "lib/heap/c.ts"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
