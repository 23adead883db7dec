-- Core: the arguments of a call, the requests in it, and the small tools that every part uses.
--
-- KEYS  [1] meta, [2] due: the bucket's; then seven for each request:
--       user contacts sees hidden settings tell pending
-- ARGV  [1] now, in ms; [2] a JSON list of requests, each {user = "alice", command = "heartbeat", ...}; [3] a random
--       integer, from which everything random in the call is made: a script's own `math.random` repeats
-- Returns a JSON list of responses, one for each request, in the same order.
--
-- All keys of one call are in one bucket, and so in one slot of a cluster. script.py puts `SETTINGS`, with durations in
-- ms, in front of this text. Time is an argument; only key expiry uses the server's clock. Redis 6.2 is enough.
--
-- Lua's JSON cannot tell an empty list from an empty map, so responses leave both out (`filled`), and commands.py
-- decodes a missing one as empty.

local META, DUE = KEYS[1], KEYS[2]
local now = tonumber(ARGV[1])
local requests = cjson.decode(ARGV[2])
local call = redis.call

local commands = {} -- by name; each part adds its own

local function ms(time) return string.format('%d', time) end

local function filled(values) return next(values) ~= nil and values or nil end

-- The user of a request:
--   keys         the names of its seven keys
-- and, once loaded (users.lua),
--   stored       the `user` hash as it was read
--   fields       the same without the connections, with what the command has changed since
--   changes      what of it must be written
--   connections  id -> connection
--   settings     the `settings` hash
--   touched      a connection was written, so `save` moves the key's expiry (not on the fast path: `due` comes first)
--   missing      nothing was stored
--   own          the real state when it was loaded, as `own_of` gives it, to notice a change
--   due, rule    while it is settled: when it is next due, and what decided its status
local function user_of(place)
  local first = 2 + (place - 1) * 7
  return {
    id = requests[place].user,
    keys = {
      user = KEYS[first + 1], contacts = KEYS[first + 2], sees = KEYS[first + 3], hidden = KEYS[first + 4],
      settings = KEYS[first + 5], tell = KEYS[first + 6], pending = KEYS[first + 7],
    },
    changes = {},
  }
end
