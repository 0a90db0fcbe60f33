import { assert, assertEquals } from "@std/assert";

const ROOT = new URL("../", import.meta.url);
const LIB = new URL("lib/", ROOT);

/** The names below lib/ in the folder listing of docs/architecture.md, in its order. */
function listed(): string[] {
  const text = Deno.readTextFileSync(new URL("docs/architecture.md", ROOT));
  return [...text.matchAll(/^ {6}(\w+(?:\.ts|\/)) /gm)].map((match) => match[1]!);
}

/** For each name below lib/, the others that it imports. */
function imported(): Map<string, Set<string>> {
  const imports = new Map<string, Set<string>>();
  const read = (file: URL, name: string) => {
    const others = imports.get(name) ?? new Set();
    imports.set(name, others);
    for (
      const [, path] of Deno.readTextFileSync(file).matchAll(/(?:from|import\() ?"(\.[^"]+)"/g)
    ) {
      const other = new URL(path!, file).href;
      if (!other.startsWith(LIB.href)) continue;
      const [folder = "", rest] = other.slice(LIB.href.length).split("/");
      const target = rest === undefined ? folder : `${folder}/`;
      if (target !== name) others.add(target);
    }
  };
  for (const { name, isDirectory } of Deno.readDirSync(LIB)) {
    if (!isDirectory) read(new URL(name, LIB), name);
    else {
      const folder = new URL(`${name}/`, LIB);
      for (const entry of Deno.readDirSync(folder)) read(new URL(entry.name, folder), `${name}/`);
    }
  }
  return imports;
}

Deno.test("docs/architecture.md lists what lib/ holds", () => {
  assertEquals(listed().toSorted(), [...imported().keys()].toSorted());
});

Deno.test("lib/ imports only what docs/architecture.md lists above", () => {
  const order = listed();
  for (const [name, others] of imported()) {
    for (const other of others) {
      assert(order.indexOf(other) < order.indexOf(name), `${name} imports ${other}`);
    }
  }
});
