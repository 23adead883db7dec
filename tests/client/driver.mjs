// The client of client/presence.js, in a process of its own. Lines of JSON on stdin say what to do, lines of JSON on
// stdout what has happened.
//
//   node driver.mjs OPTIONS       the options of Presence, as JSON
//   stdin    {"do": "setStatus", "with": ["busy"]}   {"do": "cut"}   {"token": "…"}
//   stdout   {"wants": "token", "renew": false}   {"event": "change", "detail": {…}}   {"frame": {…}}   {"gave": …}   {"code": …}
//
// "cut" ends the socket without a word to the client, as a network does. When stdin ends, so does the process.

import { createInterface } from "node:readline";

import { Presence } from "../../client/presence.js";

const sockets = [];
const tokens = [];

function tell(what) {
  process.stdout.write(JSON.stringify(what) + "\n");
}

class Watched extends WebSocket {
  constructor(...handshake) {
    super(...handshake);
    sockets.push(this);
    this.addEventListener("message", ({ data }) => tell({ frame: JSON.parse(data) }));
  }
}

function token({ renew }) {
  tell({ wants: "token", renew });
  return new Promise((resolve) => tokens.push(resolve));
}

const presence = new Presence({ ...JSON.parse(process.argv[2]), WebSocket: Watched, token });
for (const event of ["change", "connection", "self", "error"]) {
  presence.addEventListener(event, ({ detail }) =>
    tell({ event, detail: detail instanceof Error ? { ...detail } : detail }),
  );
}

const orders = createInterface({ input: process.stdin });
orders.on("line", async (line) => {
  const order = JSON.parse(line);
  if (order.token) tokens.shift()(order.token);
  else if (order.do === "cut") sockets.at(-1).close(4000);
  else
    tell(
      await Promise.resolve(presence[order.do](...order.with)).then(
        (gave = null) => ({ gave }),
        ({ code, field }) => ({ code, field }),
      ),
    );
});
orders.on("close", () => process.exit());
presence.open();
