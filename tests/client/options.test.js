/** Checks of options and user ids: an invalid one is a `TypeError` before anything is sent. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Presence } from "../../client/presence.js";
import { World } from "./world.js";

const refusal = (pattern) => (error) => {
  assert.equal(error.name, "TypeError");
  assert.match(error.message, pattern);
  return true;
};

test("an invalid user id is a TypeError, and nothing is sent", async () => {
  const { client, calls } = new World({ httpUrl: "https://host" });
  for (const wrong of [undefined, null, 7, "", ".", "..", "a/b", "a b", "bob\n", "é", "x".repeat(129)]) {
    for (const call of ["block", "unblock"]) {
      await assert.rejects(client[call](wrong), refusal(/^userId must be 1 to 128 characters of .*, not /));
    }
    await assert.rejects(client.query(["bob", wrong]), refusal(/^userIds\[1\] must be 1 to 128 characters of /));
    await assert.rejects(client.setPrivacy({ hideFrom: [wrong] }), refusal(/^hideFrom\[0\] must be 1 to 128 /));
  }
  for (const wrong of [undefined, null, "bob", { 0: "bob" }, new Set(["bob"])]) {
    await assert.rejects(client.query(wrong), refusal(/^userIds must be an array of user ids, not /));
  }
  await assert.rejects(client.setPrivacy({ hideFrom: "bob" }), refusal(/^hideFrom must be an array of user ids/));
  assert.deepEqual(calls, []);
});

test("every valid user id is accepted", async () => {
  const { client, privacy } = new World({ httpUrl: "https://host" });
  for (const userId of ["...", "a.b_c~d:e@f|g+h=i-j", "x".repeat(128), "__proto__"]) {
    await client.block(userId);
    assert.equal(privacy.blocks.at(-1), userId);
  }
});

test("an invalid option is a TypeError that names it", () => {
  assert.throws(() => new Presence(), refusal(/^options must be an object with url and token, not undefined$/));
  assert.throws(() => new Presence(null), refusal(/^options must be /));
  for (const [name, ...wrongs] of [
    ["url", undefined, "", "host/live", "https://host/live", "wss://host/live?v=2", "wss://host/live#here", "wss://", 7],
    ["httpUrl", "", "host", "/api", "wss://host", "https://host?key=1", 7],
    ["token", null, "eyJ.eyJ.signature", Promise.resolve("a.b.c")],
    ["deviceId", "", "a b", "x".repeat(65), "é", 7],
    ["deviceType", "watch", 7],
    ["platform", 7, "x".repeat(65)],
    ["tokenSource", "cookie", null],
  ]) {
    for (const wrong of wrongs) {
      const options = { url: "wss://host/live", token: async () => "a.b.c", [name]: wrong };
      assert.throws(() => new Presence(options), refusal(new RegExp(`^${name} must be .*, not `)), `${name} ${wrong}`);
    }
  }
  assert.throws(() => new Presence({ url: "wss://host/live" }), refusal(/^token must be a function that returns a JWT/));
});

test("an undefined option takes its default", async () => {
  const world = await World.online({ deviceType: undefined, platform: undefined, httpUrl: undefined });
  assert.equal(world.socket.url.searchParams.get("deviceType"), "web");
});

test("a slash at the end of httpUrl is ignored", async () => {
  const { client, calls } = new World({ httpUrl: "https://host/" });
  await client.me();
  assert.equal(calls[0].path, "/v1/me");
});

test("a runtime without WebSocket is a TypeError that says what to do", () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    const options = { url: "wss://host/live", token: async () => "a.b.c" };
    assert.throws(() => new Presence(options), refusal(/^this runtime has no WebSocket: use Node\.js 22 or newer, or/));
    assert.equal(new Presence({ ...options, WebSocket }).connection, "closed");
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});
