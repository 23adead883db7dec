// Presence as one would build it with Socket.IO and its Redis adapter: a room of each user's contacts, states in Redis.
//
// node socketio.mjs REDIS_URL, with SECRET in the environment: says its port on stdout. Contacts are read from the sets
// contacts:{user}; the benchmark writes them. It says what our service says, in the same shapes, and no more is made of
// it than the comparison needs: no grace, no missed heartbeats, no privacy.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const TTL = 75; // seconds for which a state is kept without a heartbeat, as our device_ttl
const redis = await createClient({ url: process.argv[2] }).connect();
const subscriber = await redis.duplicate().connect();
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  adapter: createAdapter(redis, subscriber),
  pingInterval: 30_000,
  serveClient: false,
});

function userOf(token) {
  const [head, body, signature] = token.split(".");
  const right = createHmac("sha256", process.env.SECRET).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== right.length || !timingSafeEqual(given, right)) throw new Error("bad token");
  const claims = JSON.parse(Buffer.from(body, "base64url"));
  if (claims.exp * 1000 < Date.now()) throw new Error("expired");
  return claims.sub;
}

function record(userId, state) {
  const text = state.customStatus;
  return {
    userId,
    status: state.status ?? "offline",
    customStatus: text ? { text, emoji: null, until: null } : null,
    deviceType: state.status ? "desktop" : null,
    lastSeen: state.lastSeen ? Number(state.lastSeen) : null,
    rev: Number(state.rev ?? 0),
  };
}

async function save(userId, change) {
  const key = `state:${userId}`;
  const state = { ...change, rev: Date.now() };
  const [, , stored] = await redis.multi().hSet(key, state).expire(key, TTL).hGetAll(key).exec();
  return record(userId, stored);
}

io.use((socket, next) => {
  try {
    socket.data.user = userOf(socket.handshake.query.token);
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  const user = socket.data.user;
  socket.on("presence_update", async ({ status, customStatus }) => {
    const changed = await save(user, { status, customStatus: customStatus.text });
    io.to(`contacts of ${user}`).emit("presence_status", changed);
    io.to(`user ${user}`).emit("presence_self", changed);
  });
  socket.on("heartbeat", () => redis.expire(`state:${user}`, TTL));
  socket.on("disconnect", async () => {
    const key = `state:${user}`;
    await redis.multi().hDel(key, "status").hSet(key, { lastSeen: Date.now(), rev: Date.now() }).exec();
    io.to(`contacts of ${user}`).emit("user_offline", record(user, await redis.hGetAll(key)));
  });
  socket.on("sync", async () => {
    const contacts = await redis.sMembers(`contacts:${user}`);
    await socket.join([`user ${user}`, ...contacts.map((contact) => `contacts of ${contact}`)]);
    const online = await save(user, { status: "online" });
    io.to(`contacts of ${user}`).emit("user_online", online);
    const states = await Promise.all(contacts.map((contact) => redis.hGetAll(`state:${contact}`)));
    socket.emit("presence_snapshot", {
      self: online,
      users: contacts.map((contact, place) => record(contact, states[place])),
    });
  });
});

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
process.stdin.on("end", () => process.exit()).resume();
