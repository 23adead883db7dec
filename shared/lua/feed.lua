-- The feed: what a user, as a viewer, receives about others: frame numbers, and changes that wait for one frame.
-- Uses: users.

-- A leaky bucket: each change adds SPACING ms, and time drains it. Up to BURST nothing waits; WIDEST is the longest
-- wait.
local SPACING = 100
local BURST = 300
local WIDEST = 1000

-- Draws the number of a frame for this viewer: a client that misses the frame sees the hole in the numbers.
local function next_seq(u, changes)
  local seq, gap = (number(u, 'feed') or now - 1) + 1, math.max(0, now - (number(u, 'feedAt') or 0))
  local ahead = math.max(0, (number(u, 'feedAhead') or 0) + (changes or 0) * SPACING - gap)
  put(u, { feed = seq, feedAt = now, feedAhead = ahead > 0 and math.min(ahead, BURST + WIDEST) or '' })
  return seq
end

-- Until when further changes wait, to be posted in one frame.
local function window_end(u)
  return (number(u, 'feedAt') or 0) + math.max(0, (number(u, 'feedAhead') or 0) - BURST)
end

-- Everything that waited, when the window is over.
local function take_pending(u, open)
  local users = hash(u.keys.pending)
  local count = 0
  for _ in pairs(users) do count = count + 1 end
  call('DEL', u.keys.pending)
  return { seq = next_seq(u, count), connections = filled(open), users = filled(users) }
end

-- find_targets: adds changes for this viewer. Returns a `flush` if they are to be posted now; otherwise they wait, or
-- are dropped because no socket is open.
--   request   changes: user -> the status that the viewer knows
--   response  flush
function commands.find_targets(u, request)
  load_record(u)
  if not u.fields.feed then return {} end
  local open = sockets_of(u)
  if #open == 0 then
    call('DEL', u.keys.pending)
    next_seq(u) -- a client that returns with an older number gets a snapshot
    return {}
  end
  for user, was in pairs(request.changes) do call('HSETNX', u.keys.pending, user, was) end
  if window_end(u) <= now then return { flush = take_pending(u, open) } end
  call('PEXPIRE', u.keys.pending, ms(SETTINGS.device_ttl + SETTINGS.grace))
  local due = number(u, 'due')
  if not due or due > window_end(u) then set_due(u, window_end(u)) end
  return {}
end

-- draw_numbers: numbers for further frames to this viewer.
--   request   count
--   response  last: the highest of them
function commands.draw_numbers(u, request)
  load_record(u)
  local last
  for _ = 1, request.count do last = next_seq(u) end
  return { last = last }
end
