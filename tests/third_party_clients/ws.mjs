// One WebSocket of npm's `ws` package, controlled by lines of JSON on stdin. It reports events as lines of JSON on stdout.
//
//   node ws.mjs URL [SUBPROTOCOL...]
//   stdin    {"send": "text"}   {"close": 1000}
//   stdout   {"open": "subprotocol"}   {"refused": 401}   {"frame": "text"}   {"closed": 1000}
//
// Nothing here depends on presence. The process ends when stdin ends.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, ...subprotocols] = process.argv.slice(2);
const socket = new WebSocket(url, subprotocols);
const commands = createInterface({ input: process.stdin });

function report(event) {
  process.stdout.write(JSON.stringify(event) + "\n");
}

socket.on("open", () => report({ open: socket.protocol }));
socket.on("message", (data) => report({ frame: data.toString() }));
socket.on("unexpected-response", (request, response) => {
  report({ refused: response.statusCode });
  request.destroy();
  commands.close();
});
socket.on("close", (code) => {
  report({ closed: code });
  commands.close();
});
socket.on("error", () => {}); // "close" follows

commands.on("line", (line) => {
  const command = JSON.parse(line);
  if ("send" in command) socket.send(command.send);
  else socket.close(command.close);
});
commands.on("close", () => {
  socket.terminate();
  process.stdin.destroy();
});
