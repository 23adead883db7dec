-- The feed: what a user, as a viewer, receives about others and about itself. Frames have numbers, and changes wait to
-- be sent together.
-- Uses: bucket, users.
--
-- Numbers are hybrid-clock times: `feed` is the last one, and the next one is the time, or one more where the clock has
-- not passed it. Each frame also has the number before it, so that a client finds what it missed. Two things tell the
-- service that a client may have missed something without any frame showing it:
--   epoch   differs from the bucket's: the store lost its last seconds, and numbers that were drawn in them
--   gap     set: something was not posted at all
-- Both are mended before a number is drawn or compared: a number is passed over, and the next frame, or the answer to
-- the next heartbeat, shows the client that one is missing. `framedAt` is when the last frame was drawn, where that is
-- not `feed` itself; 0 after mending, so that the next heartbeat is answered immediately.
--
-- `waits` is the number of entries in the key `pending`: fewer are found where some were lost.

-- A token bucket (GCRA) of its own, apart from the numbers: each change takes SPACING ms, and time gives them back. Up
-- to BURST nothing waits; WIDEST is the longest wait.
local SPACING = 100
local BURST = 300
local WIDEST = 1000

local PASSED_OVER = 60000 -- ms by which numbers move on after a loss: beyond any number that was given to a frame
local RECORDS = 30        -- records in a frame, at least: none is larger than 1 KB, and a frame has 32 KB

local function set_waits(u, count) put(u, { waits = count > 0 and count or '' }) end

-- Sets `gap` where changes that waited were lost.
local function check_waits(u)
  local waits = number(u, 'waits') or 0
  local left = waits > 0 and call('HLEN', u.keys.pending) or 0
  if left < waits then
    set_waits(u, left)
    put(u, { gap = '1' })
  end
end

-- Before a number is drawn or compared. Gives whether the client may have missed something.
local function mend(u)
  check_waits(u)
  local feed = number(u, 'feed')
  if (u.fields.epoch or '') ~= epoch then
    put(u, { feed = math.max(feed + 1, now + PASSED_OVER), framedAt = 0, epoch = epoch, gap = '' })
  elseif u.fields.gap then
    put(u, { feed = math.max(feed + 1, now), framedAt = 0, gap = '' })
  else
    return false
  end
  return true
end

-- Begins the feed, or moves it to where no number has been given.
local function begin_feed(u, feed) put(u, { feed = feed, framedAt = 0, epoch = epoch, gap = '' }) end

-- Draws the numbers of `count` frames: gives the number before them, the first, and the last.
local function draw_numbers(u, count)
  mend(u)
  local prev = number(u, 'feed')
  local first = math.max(prev + 1, now)
  local last = first + count - 1
  put(u, { feed = last, framedAt = last ~= now and now or '' })
  return prev, first, last
end

-- Until when further changes wait, to be posted in one frame.
local function window_end(u) return (number(u, 'feedArrival') or 0) - BURST end

-- Something is not posted to this viewer: the next number drawn, or heartbeat, shows it.
local function leave_gap(u)
  load_record(u)
  if u.fields.feed then put(u, { gap = '1' }) end
end

local function drop_pending(u)
  call('DEL', u.keys.pending)
  put(u, { waits = '', gap = '1' })
end

-- Everything that waited, when the window is over; nil, and a gap, where no socket is open.
local function take_pending(u, open)
  if #open == 0 then
    drop_pending(u)
    return nil
  end
  local users, count = hash(u.keys.pending), 0
  for _ in pairs(users) do count = count + 1 end
  local prev, first, last = draw_numbers(u, math.max(1, math.ceil(count / RECORDS)))
  call('DEL', u.keys.pending)
  local arrival = math.max(number(u, 'feedArrival') or 0, now) + count * SPACING
  put(u, { waits = '', feedArrival = math.min(arrival, now + BURST + WIDEST) })
  return { prev = prev, first = first, last = last, connections = open, users = filled(users) }
end

-- find_targets: adds changes for this viewer. Returns a `flush` if they are to be posted now; otherwise they wait, or
-- are dropped because no socket is open, which leaves a gap.
--   request   changes: user -> the status that the viewer knows
--   response  flush
function commands.find_targets(u, request)
  load_record(u)
  if not u.fields.feed then return {} end
  local open = sockets_of(u)
  if #open == 0 then
    drop_pending(u)
    return {}
  end
  check_waits(u)
  local waits = number(u, 'waits') or 0
  for user, was in pairs(request.changes) do waits = waits + call('HSETNX', u.keys.pending, user, was) end
  set_waits(u, waits)
  if window_end(u) <= now then return { flush = take_pending(u, open) } end
  call('PEXPIRE', u.keys.pending, ms(SETTINGS.device_ttl + SETTINGS.grace))
  local due = number(u, 'due')
  if not due or due > window_end(u) then set_due(u, window_end(u)) end
  return {}
end
