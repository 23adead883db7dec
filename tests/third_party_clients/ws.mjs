// One WebSocket of npm's `ws`. Lines of JSON on stdin say what to do, lines of JSON on stdout what has happened.
//
//   node client.mjs URL [SUBPROTOCOL...]
//   stdin    {"send": "text"}   {"close": 1000}
//   stdout   {"open": "subprotocol"}   {"refused": 401}   {"frame": "text"}   {"closed": 1000}
//
// It knows nothing of presence. When stdin ends, so does the process.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, ...subprotocols] = process.argv.slice(2);
const socket = new WebSocket(url, subprotocols);
const orders = createInterface({ input: process.stdin });

function tell(event) {
  process.stdout.write(JSON.stringify(event) + "\n");
}

socket.on("open", () => tell({ open: socket.protocol }));
socket.on("message", (data) => tell({ frame: data.toString() }));
socket.on("unexpected-response", (request, response) => {
  tell({ refused: response.statusCode });
  request.destroy();
  orders.close();
});
socket.on("close", (code) => {
  tell({ closed: code });
  orders.close();
});
socket.on("error", () => {}); // "close" follows

orders.on("line", (line) => {
  const order = JSON.parse(line);
  if ("send" in order) socket.send(order.send);
  else socket.close(order.close);
});
orders.on("close", () => {
  socket.terminate();
  process.stdin.destroy();
});
