/** Calls of the HTTP API that need no connection: `me()`, privacy and blocks, their errors and their tokens. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { PresenceError } from "../../client/presence.js";
import { World, jwt } from "./world.js";

const world = (options) => new World({ httpUrl: "https://host", ...options });

test("me(), privacy and blocks need the user's token and no connection", async () => {
  const { client, calls, tokens, sockets } = world();
  await client.setPrivacy({ invisible: true, hideFrom: ["bob"] });
  await client.block("eve+1@example.org");
  const me = await client.me();
  assert.deepEqual([me.userId, me.invisible, me.hideFrom, me.blocks], ["me", true, ["bob"], ["eve+1@example.org"]]);
  await client.unblock("eve+1@example.org");
  assert.deepEqual((await client.me()).blocks, []);
  assert.deepEqual(
    calls.map(({ method, path, body }) => [method, path, body]),
    [
      ["PUT", "/v1/me/privacy", { invisible: true, hideFrom: ["bob"] }],
      ["PUT", "/v1/me/blocks/eve%2B1%40example.org", undefined],
      ["GET", "/v1/me", undefined],
      ["DELETE", "/v1/me/blocks/eve%2B1%40example.org", undefined],
      ["GET", "/v1/me", undefined],
    ],
  );
  assert.match(calls[0].authorization, /^Bearer /);
  assert.deepEqual([tokens.length, sockets.length], [1, 0]);
});

test("an invalid field is named in the error, as in the service's response", async () => {
  const errors = [
    { field: "lastSeen", message: "input should be 'everyone' or 'nobody'" },
    { field: "hidefrom", message: "extra inputs are not permitted" },
  ];
  const detail = `${errors[0].field}: ${errors[0].message}`;
  const refusing = world();
  refusing.respond = () => Response.json({ title: "Bad Request", status: 400, detail, errors }, { status: 400 });
  await assert.rejects(refusing.client.setPrivacy({ lastSeen: "friends", hidefrom: [] }), (error) => {
    assert.ok(error instanceof PresenceError);
    assert.deepEqual([error.code, error.message, error.field], ["invalid_message", detail, "lastSeen"]);
    assert.deepEqual(error.errors, errors);
    return true;
  });
});

test("each kind of failed call has its code", async () => {
  for (const [status, code, headers, message = "Title"] of [
    [403, "unauthorized"],
    [404, "not_found", {}, "Title: check that httpUrl belongs to this deployment"],
    [409, "conflict"],
    [413, "too_large"],
    [429, "rate_limited", { "Retry-After": "2" }],
    [503, "unavailable", { "Retry-After": "1" }],
  ]) {
    const around = world();
    around.respond = () => Response.json({ title: "Title" }, { status, headers });
    const retryAfter = 1_000 * Number(headers?.["Retry-After"] ?? 0);
    await assert.rejects(around.client.block("eve"), { code, message, retryAfter });
  }
  const gateway = world();
  gateway.respond = () => new Response('{"message": "Too Many Requests"}', { status: 429 });
  await assert.rejects(gateway.client.me(), { code: "rate_limited", message: "Too Many Requests" });
  const offline = world();
  offline.httpWorks = false;
  await assert.rejects(offline.client.me(), { code: "unavailable", message: "fetch failed" });
  await assert.rejects(world({ httpUrl: undefined }).client.me(), { code: "invalid_message", field: "httpUrl" });
});

test("a refused token is renewed once, and the call repeated", async () => {
  const around = world();
  const respond = around.respond.bind(around);
  around.respond = (call) =>
    around.tokens.length > 1 ? respond(call) : Response.json({ title: "Unauthorized" }, { status: 401 });
  assert.equal((await around.client.me()).userId, "me");
  assert.deepEqual(around.tokens, [{ renew: false }, { renew: true }]);
  around.respond = () => Response.json({ title: "Unauthorized" }, { status: 401 });
  await assert.rejects(around.client.me(), { code: "unauthorized" });
  assert.equal(around.calls.length, 4);
});

test("concurrent calls and a handshake request one token", async () => {
  const around = world();
  around.client.open();
  await Promise.all([around.client.me(), around.client.me(), around.client.unblock("bob")]);
  assert.deepEqual(around.tokens, [{ renew: false }]);
});

test("a call without a response times out, even after close()", async () => {
  const around = world();
  around.respond = () => new Promise(() => {});
  const outcome = around.client.me().catch(({ code }) => code);
  await around.clock.advance(5_000);
  around.client.close();
  await around.clock.advance(5_000);
  assert.equal(await outcome, "timeout");
  assert.equal(around.clock.pending, 0);
});

test("a call rejects with the token error", async () => {
  const cause = new Error("signed out");
  const { client, calls } = world({ token: () => Promise.reject(cause) });
  await assert.rejects(client.me(), (error) => {
    assert.deepEqual([error.code, error.field, error.cause], ["unauthorized", "token", cause]);
    assert.equal(error.message, "no token: token() failed: signed out");
    return true;
  });
  assert.deepEqual(calls, []);
});

test("a call uses a token until five seconds before it expires", async () => {
  const asked = [];
  const around = world({
    token: async () => asked.push(1) && jwt({ sub: "me", exp: around.clock.now() / 1_000 + 15 }),
  });
  await around.client.me();
  await around.clock.advance(9_000);
  await around.client.me();
  assert.equal(asked.length, 1);
  await around.clock.advance(2_000);
  await around.client.me();
  assert.equal(asked.length, 2);
});
