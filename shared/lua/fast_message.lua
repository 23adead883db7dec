-- The message that changes nothing: nearly every heartbeat, a query, and an update that repeats what is so.
-- Uses: connections.
--
-- Before `due` nothing changes by itself, so a message that asks for no change only counts and moves its connection's
-- deadline. `fast_message` answers it before the larger parts of the script are defined: Lua creates every function
-- again in each call, at about 0.2 us each, which would be more than half of this call's time.

local FRESH = 2000 -- ms in which a frame may still be on its way, and in which a claimed neighbor is settled

-- Whether a client that received frame `seq` misses a later one, or has one that the store does not know.
local function misses_frame(seq, feed, framed_at)
  return seq ~= nil and seq ~= feed and (seq > feed or now - framed_at > FRESH)
end

-- Up to two other users of this bucket who are due. Moving their score on claims the work.
local function take_due_neighbors(u)
  local neighbors = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', ms(now), 'LIMIT', 0, 3)) do
    if id ~= u.id and #neighbors < 2 then
      call('ZADD', DUE, 'XX', ms(now + FRESH), id)
      neighbors[#neighbors + 1] = id
    end
  end
  return filled(neighbors)
end

-- Whether an update of a device's status repeats what is so, or is not newer than what was applied.
local function repeats(c, change)
  local n = change.n or 0
  return n == 0 and change.status == c.status or n > 0 and n <= c.n.status
end

-- Whether a message may turn out to change nothing.
local function may_change_nothing(request)
  local change = request.change
  return request.command == 'heartbeat' or request.command == 'get_presence'
    or request.command == 'update' and change.scope == 'device' and not change.custom
end

-- Whether the heartbeat has an update of the device's status that was lost, or has not arrived.
local function has_newer_status(c, request)
  return request.status ~= nil and request.n ~= nil and request.n > c.n.status
end

local function fast_message()
  local request = requests[1]
  if #requests > 1 or not may_change_nothing(request) then return nil end
  local name, sender = request.command, request.connection
  -- Only the keys that this path uses: a whole `user_of` would be a tenth of its time.
  local u = { id = request.user, keys = { user = KEYS[3], pending = KEYS[9] } }
  local stored = call('HMGET', u.keys.user, 'due', 'idle', 'feed', 'framedAt', '!' .. sender.id, 'announcedRev',
    'epoch', 'gap', 'waits')
  local due, idle, feed, unannounced = tonumber(stored[1] or ''), stored[2] == '1', tonumber(stored[3]), stored[6]
  if not due or due <= now or (sender.active and idle) or unannounced then return nil end
  local gap, waits = stored[8], tonumber(stored[9])
  if not feed or gap or stored[7] ~= call('HGET', META, 'epoch') then return nil end
  if waits and waits > call('HLEN', u.keys.pending) then return nil end
  if misses_frame(request.seq, feed, tonumber(stored[4] or '') or feed) then return nil end
  local c = read_connection(sender.id, nil, stored[5])
  if not c or not is_live(c) or c.guessed or has_newer_status(c, request) then return nil end
  if name == 'update' and not repeats(c, request.change) then return nil end
  local result = count_message(u, c, sender)
  if result == 'offender' then return nil end
  local neighbors = name == 'heartbeat' and result == 'live' and take_due_neighbors(u) or nil
  if result == 'live' and not neighbors then return '[{"result":"live"}]' end
  local wait = result ~= 'live' and SETTINGS.rate_every or nil
  return cjson.encode({ { result = result, wait = wait, due_neighbors = neighbors } })
end
