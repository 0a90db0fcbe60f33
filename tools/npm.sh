#!/bin/sh
# npm.sh TOOLS FOLDER: packs what deno.json exports for Node and Bun, as FOLDER/mallocd-VERSION-npm.tgz: each
# file as JavaScript, beside its types. TypeScript comes from npm into TOOLS, once.
set -eu

tools=$1
folder=$(cd "$2" && pwd)
typescript=5.9.3
tsc=$tools/typescript-$typescript/node_modules/.bin/tsc

if [ ! -x "$tsc" ]; then
  npm install --loglevel=error --no-audit --no-fund --ignore-scripts --fetch-retries=1 \
    --prefix "$tools/typescript-$typescript" "typescript@$typescript" >/dev/null ||
    { echo "Cannot install TypeScript from npm" >&2; exit 1; }
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Deno has checked the types; these know nothing of it.
exports=$(node -p 'Object.values(require("./deno.json").exports).join(" ")')
"$tsc" --noCheck --declaration --rewriteRelativeImportExtensions --rootDir . --outDir "$work" \
  --target es2022 --module esnext --moduleResolution bundler --lib es2023,dom,esnext.disposable $exports
find "$work" -name '*.d.ts' -exec sed -i.ts 's|\(from "\.[^"]*\)\.ts";|\1.js";|' {} +
find "$work" -name '*.d.ts.ts' -delete

cp README.md CHANGELOG.md LICENSE "$work"
node - "$work/package.json" <<'END'
const { name, version, license, exports } = JSON.parse(require("fs").readFileSync("deno.json", "utf8"));
const files = (path) => ({
  types: path.replace(/\.ts$/, ".d.ts"),
  default: path.replace(/\.ts$/, ".js"),
});
const text = JSON.stringify({
  name,
  version,
  description: "malloc(3) on another computer's heap, over UDP",
  license,
  type: "module",
  engines: { node: ">=20" },
  exports: Object.fromEntries(Object.entries(exports).map(([key, path]) => [key, files(path)])),
}, null, 2);
require("fs").writeFileSync(process.argv[2], `${text}\n`);
END
packed=$(cd "$work" && npm pack --silent)
mv "$work/$packed" "$folder/mallocd-$(node -p 'require("./deno.json").version')-npm.tgz"
