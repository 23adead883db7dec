-- Connections: how one is stored, and what its state means.
-- Uses: core.
--
-- A connection is one of
--   live          until its deadline
--   disconnected  its socket closed; until its deadline, the end of the grace, it counts when none is live; it may not
--                 send again
--   lost          a post found its socket gone; as above, but it may send again, and it never counts for longer than it
--                 would have lived
--   closed        it left, or was replaced or signed out; it may not send again
--
-- Each takes two small fields of the user's hash, so that the hash keeps its compact encoding: `@<id>` holds what never
-- changes, `!<id>` what each message changes, with times as offsets from that message.

local function read_connection(id, fixed, variable)
  if not variable then return nil end
  local state, at, left, idle, status, guess, cap, status_n, claim_n, custom_n, rate = string.match(variable,
    '^(%a+) (%d+) (%d+) (%d+) (%a+)(%??) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local type, connected, polling, device
  if fixed then type, connected, polling, device = string.match(fixed, '^(%a+) (%d+) (%d) (.+)$') end
  at = tonumber(at)
  return {
    id = id, state = state, beat = at, deadline = at + tonumber(left), active = at - tonumber(idle),
    status = status, guessed = guess == '?', cap = tonumber(cap),
    n = { status = tonumber(status_n), claim = tonumber(claim_n), customStatus = tonumber(custom_n) },
    arrival = at + tonumber(rate),
    type = type or 'web', connected = tonumber(connected or 0), polling = polling == '1', device = device or id,
  }
end

local function write_connection(u, c)
  u.touched = true
  call('HSET', u.keys.user, '!' .. c.id, string.format('%s %d %d %d %s%s %d %d %d %d %d', c.state, c.beat,
    math.max(0, c.deadline - c.beat), math.max(0, c.beat - c.active), c.status, c.guessed and '?' or '', c.cap,
    c.n.status, c.n.claim, c.n.customStatus, math.max(0, c.arrival - c.beat)))
end

local function is_live(c) return c.state == 'live' and c.deadline > now end

-- By its TTL; at the latest when its token has ended and its leeway has passed (`cap`).
local function new_deadline(c) return math.min(now + SETTINGS.device_ttl, c.cap > 0 and c.cap or math.huge) end

-- Counts a message of a connection: "live", or "limited" when it sends too many. The rate limit is GCRA: `arrival` is
-- the theoretical arrival time of the next message at the steady rate.
local function count_message(u, c, sender)
  local arrival = math.max(c.arrival, now)
  if arrival - now > (SETTINGS.rate_burst - 1) * SETTINGS.rate_every then return 'limited' end
  c.beat, c.arrival = now, arrival + SETTINGS.rate_every
  if sender.active then c.active = math.max(c.active, now) end
  c.deadline = new_deadline(c)
  write_connection(u, c)
  return 'live'
end
