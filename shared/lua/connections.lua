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
-- changes, `!<id>` what each message changes, with times as offsets from that message. The latter ends with two more
-- times while a connection sends too many messages: until when those are remembered, and when it last got an error.

local ERROR_EVERY = 1000 -- ms between two `rate_limited` errors to one connection
local FORGIVEN = 1000    -- ms after which one message beyond the limit is forgiven
local OFFENSES = 100     -- messages beyond the limit, not yet forgiven, for which a connection is closed

local function read_connection(id, fixed, variable)
  if not variable then return nil end
  local state, at, left, idle, status, guess, cap, status_n, claim_n, custom_n, rate, offended, answered =
    string.match(variable, '^(%a+) (%d+) (%d+) (%d+) (%a+)(%??) (%d+) (%d+) (%d+) (%d+) (%d+) ?(%d*) ?(%d*)$')
  local type, connected, polling, device
  if fixed then type, connected, polling, device = string.match(fixed, '^(%a+) (%d+) (%d) (.+)$') end
  at = tonumber(at)
  return {
    id = id, state = state, beat = at, deadline = at + tonumber(left), active = at - tonumber(idle),
    status = status, guessed = guess == '?', cap = tonumber(cap),
    n = { status = tonumber(status_n), claim = tonumber(claim_n), customStatus = tonumber(custom_n) },
    arrival = at + tonumber(rate), offended = tonumber(offended), answered = tonumber(answered),
    type = type or 'web', connected = tonumber(connected or 0), polling = polling == '1', device = device or id,
  }
end

local function write_connection(u, c)
  u.touched = true
  local offense = (c.offended or 0) > now and string.format(' %d %d', c.offended, c.answered) or ''
  call('HSET', u.keys.user, '!' .. c.id, string.format('%s %d %d %d %s%s %d %d %d %d %d%s', c.state, c.beat,
    math.max(0, c.deadline - c.beat), math.max(0, c.beat - c.active), c.status, c.guessed and '?' or '', c.cap,
    c.n.status, c.n.claim, c.n.customStatus, math.max(0, c.arrival - c.beat), offense))
end

local function is_live(c) return c.state == 'live' and c.deadline > now end

-- By its TTL; at the latest when its token has ended and its leeway has passed (`cap`).
local function new_deadline(c) return math.min(now + SETTINGS.device_ttl, c.cap > 0 and c.cap or math.huge) end

-- Counts a message beyond the limit: "limited", "ignored" where an error was posted a moment ago, or "offender".
-- Nothing is posted for a polling device, and nothing remembered.
local function count_offense(u, c)
  if c.polling then return 'limited' end
  local offended = math.max(c.offended or 0, now) + FORGIVEN
  if offended - now > OFFENSES * FORGIVEN then return 'offender' end
  local result = now - (c.answered or 0) < ERROR_EVERY and 'ignored' or 'limited'
  c.offended, c.answered = offended, result == 'limited' and now or c.answered
  write_connection(u, c)
  return result
end

-- Counts a message against the rate limit of its connection, without writing: "live", or as `count_offense`. The rate
-- limit is GCRA: `arrival` is the theoretical arrival time of the next message at the steady rate. It is compared with
-- the latest time that any environment has stored: the clocks of two may differ by more than a burst takes.
local function count_rate(u, c)
  local latest = math.max(now, c.beat)
  local arrival = math.max(c.arrival, latest)
  if arrival - latest > (SETTINGS.rate_burst - 1) * SETTINGS.rate_every then return count_offense(u, c) end
  c.arrival = arrival + SETTINGS.rate_every
  return 'live'
end

-- Counts a valid message, which keeps its connection live.
local function count_message(u, c, sender)
  local result = count_rate(u, c)
  if result ~= 'live' then return result end
  c.beat = math.max(c.beat, now)
  if sender.active then c.active = math.max(c.active, now) end
  c.deadline = new_deadline(c)
  write_connection(u, c)
  return 'live'
end
