/** The package: `npm pack` holds all of the client and nothing else, it is imported by name, and it is typed. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const app = mkdtempSync(join(tmpdir(), "presence-app-"));
after(() => rmSync(app, { recursive: true }));

const run = (program, ...args) =>
  execFileSync(program, args, { cwd: app, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

test("the package installs into an application, which can import it", () => {
  const client = join(here, "../../client");
  const [{ files, filename }] = JSON.parse(run("npm", "pack", client, "--json", "--loglevel=error"));
  assert.deepEqual(files.map(({ path }) => path).sort(), [
    "LICENSE",
    "README.md",
    "connection.js",
    "connections.js",
    "diagnostics.js",
    "errors.js",
    "http.js",
    "options.js",
    "package.json",
    "page.js",
    "presence.d.ts",
    "presence.js",
    "reducer.js",
    "requests.js",
    "retry.js",
    "storage.js",
    "timers.js",
    "token.js",
    "transports.js",
  ]);
  const links = readFileSync(join(client, "README.md"), "utf8").matchAll(/\]\(([^)]+)\)/g);
  for (const [, link] of links) assert.ok(files.some(({ path }) => path === link), link);
  assert.equal(JSON.parse(readFileSync(join(client, "package.json"), "utf8")).engines.node, ">=22");
  run("npm", "install", "--offline", "--no-audit", "--no-fund", "--loglevel=error", join(app, filename));
  const names = 'import * as all from "serverless-presence-client"; console.log(Object.keys(all).join());';
  assert.equal(
    run(process.execPath, "--input-type=module", "--eval", names).trim(),
    "Presence,PresenceError,changes,initial,nextTick,receive,tick",
  );
});

test("its declarations compile in strict TypeScript", () => {
  assert.ok(existsSync(join(app, "node_modules", "serverless-presence-client")));
  for (const file of ["consumer.ts", "tsconfig.json", "package.json"]) cpSync(join(here, file), join(app, file));
  const tsc = join(here, "node_modules", "typescript", "bin", "tsc");
  try {
    run(process.execPath, tsc, "--project", app);
  } catch (error) {
    assert.fail(error.stdout);
  }
});
