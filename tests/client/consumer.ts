/** An application for the type checker: it has no errors except the expected ones. */

import { Presence, PresenceError, changes, initial, nextTick, receive, tick } from "serverless-presence-client";
import type { ConnectionState, Me, OwnState, PresenceRecord, State, Status } from "serverless-presence-client";

const presence = new Presence({
  url: "wss://host/live",
  httpUrl: "https://host",
  token: async ({ renew }) => (renew ? "new" : "old"),
});

presence.addEventListener("change", ({ detail: { userId, user, previous } }) => {
  const status: Status | undefined = user?.status;
  const record: PresenceRecord | null = previous;
  console.log(userId, status, record?.customStatus?.text, record?.lastSeen);
});
presence.addEventListener("self", ({ detail }) => {
  const self: OwnState = detail;
  console.log(self.claim?.until, self.devices.length);
});
presence.addEventListener("connection", ({ detail: { state, reason } }) => {
  const known: ConnectionState = state;
  console.log(known === "stale", reason.length);
});
presence.addEventListener("error", ({ detail }) => {
  if (detail instanceof PresenceError && detail.code === "rate_limited") console.log(detail.retryAfter);
});

presence.open();
await presence.setStatus("busy");
await presence.setClaim("away", Date.now() + 60_000);
await presence.setClaim(null);
await presence.setCustomStatus({ text: "Lunch", emoji: "🍜" });
const [bob] = await presence.query(["bob"]);
console.log(bob?.status, presence.users.get("bob")?.lastSeen, presence.self?.status, presence.connection, presence.stale);
await presence.setPrivacy({ invisible: true, lastSeen: "nobody", hideFrom: ["bob"] });
await presence.block("eve");
await presence.unblock("eve");
const me: Me = await presence.me();
console.log(me.rule, me.why, me.visibleStatus, me.blocks.includes("eve"), me.devices[0]?.deviceType);
try {
  await presence.setPrivacy({ hideFrom: [] });
} catch (error) {
  if (error instanceof PresenceError) for (const { field, message } of error.errors) console.log(field, message);
}
presence.reconnect();
presence.touch();
presence.leave();
presence.close();

const known: State = presence.state;
console.log(known.seq, known.users.size);
const next = receive(initial, { type: "presence", users: [] }, Date.now());
for (const { userId } of changes(initial, next.state)) console.log(userId);
if (next.sync || nextTick(next.state) !== null) console.log(tick(next.state, Date.now()).state.seq);

// @ts-expect-error: token is required
new Presence({ url: "wss://host/live" });
new Presence({ url: "wss://host/live", token: () => "a string" });
// @ts-expect-error: a claim is ended by null
presence.setClaim("online");
// @ts-expect-error: offline cannot be chosen
presence.setStatus("offline");
// @ts-expect-error: a misspelled setting would hide nothing
presence.setPrivacy({ hidefrom: ["bob"] });
// @ts-expect-error: unknown event
presence.addEventListener("changes", () => {});
// @ts-expect-error: users is read-only
presence.users.set("bob", bob!);
