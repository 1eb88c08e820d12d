/** The package as it is shipped: two builds with one face, no dependencies, fit for browsers. */

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const require = createRequire(join(root, "package.json"));
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

const FACE = [
  "AuthError",
  "BadRequestError",
  "CapacityError",
  "Client",
  "CodeContext",
  "CommandError",
  "CommandFailed",
  "ConflictError",
  "ConnectionError",
  "ExecInterrupted",
  "ExecStream",
  "ExploreError",
  "ExploreResult",
  "ForbiddenError",
  "ForkIncomplete",
  "NetworkError",
  "NotBuiltError",
  "NotFoundError",
  "PandaStack",
  "PandaStackError",
  "RateLimitError",
  "RequestTimeout",
  "Sandbox",
  "SandboxCommands",
  "SandboxFilesystem",
  "SandboxTimeout",
  "SandboxesAPI",
  "ServerError",
  "SnapshotsAPI",
  "TemplateBuildError",
  "TemplatesAPI",
  "Terminal",
  "TokensAPI",
  "TooLargeError",
  "VERSION",
  "explore",
  "walkTree",
];

test("import and require find the same face, under the package's own name", async () => {
  const name: string = manifest.name;
  const imported = await import(name);
  const required = require(name);
  assert.deepEqual(Object.keys(imported).sort(), FACE);
  assert.deepEqual(Object.keys(required).sort(), FACE);
  assert.equal(imported.Client, imported.PandaStack);
  assert.equal(imported.VERSION, manifest.version);
  for (const { PandaStack, Sandbox } of [imported, required]) {
    const fetch = async () => new Response('[{"id":"sb1"}]');
    const client = new PandaStack({ token: "x", fetch });
    assert.ok((await client.sandboxes.list())[0] instanceof Sandbox);
    assert.ok((await Sandbox.list({ token: "x", fetch }))[0] instanceof Sandbox);
  }
});

test("nothing is needed at run time", () => {
  for (const kind of ["dependencies", "peerDependencies", "optionalDependencies"]) {
    assert.equal(manifest[kind], undefined);
  }
});

test("every file that the manifest names is there", () => {
  const browser = Object.entries(manifest.browser).flat() as string[];
  for (const file of [manifest.main, manifest.module, manifest.types, ...browser, "LICENSE", "README.md"]) {
    assert.ok(existsSync(join(root, file)), file);
  }
});

test("only what browsers replace touches Node's modules", () => {
  for (const build of ["esm", "cjs"]) {
    const folder = join(root, "dist", build);
    const touching = readdirSync(folder)
      .filter((file) => file.endsWith(".js"))
      .filter((file) => /(?:from|import|require)[\s("]+node:/.test(readFileSync(join(folder, file), "utf8")));
    assert.deepEqual(touching, ["local.js"]);
    assert.ok(`./dist/${build}/local.js` in manifest.browser);
  }
});

test("the lockfile names no place to fetch from", () => {
  assert.doesNotMatch(readFileSync(join(root, "package-lock.json"), "utf8"), /"resolved"|\.tgz/);
});
