// The client of client/presence.js in a process of its own, for tests/end_to_end/test_client.py. It is controlled by lines
// of JSON on stdin, and reports events as lines of JSON on stdout.
//
//   node driver.mjs OPTIONS       the options of Presence, as JSON
//   stdin    {"do": "setStatus", "with": ["busy"]}   {"do": "cut"}   {"token": "…"}
//   stdout   {"wants": "token", "renew": false}   {"event": "change", "detail": {…}}   {"frame": {…}}   {"gave": …}   {"code": …}
//
// "cut" closes the socket without calling the client, as a network failure does. The process ends when stdin ends.

import { createInterface } from "node:readline";

import { Presence } from "../../client/presence.js";

const sockets = [];
const tokens = [];

function report(event) {
  process.stdout.write(JSON.stringify(event) + "\n");
}

class Watched extends WebSocket {
  constructor(...handshake) {
    super(...handshake);
    sockets.push(this);
    this.addEventListener("message", ({ data }) => report({ frame: JSON.parse(data) }));
  }
}

function token({ renew }) {
  report({ wants: "token", renew });
  return new Promise((resolve) => tokens.push(resolve));
}

const presence = new Presence({ ...JSON.parse(process.argv[2]), WebSocket: Watched, token });
for (const event of ["change", "connection", "self", "error"]) {
  presence.addEventListener(event, ({ detail }) =>
    report({ event, detail: detail instanceof Error ? { ...detail } : detail }),
  );
}

const outcome = (result) =>
  Promise.resolve(result).then(
    (gave = null) => ({ gave }),
    ({ code, field }) => ({ code, field }),
  );

const commands = createInterface({ input: process.stdin });
commands.on("line", async (line) => {
  const command = JSON.parse(line);
  if (command.token) tokens.shift()(command.token);
  else if (command.do === "cut") sockets.at(-1).close(4000);
  else report(await outcome(presence[command.do](...command.with)));
});
commands.on("close", () => process.exit());
presence.open();
