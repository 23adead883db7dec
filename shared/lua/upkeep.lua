-- Upkeep: what the sweeper does, and what a delivery reports back.
-- Uses: settle.

local CLAIMED = 2000 -- ms for which a heartbeat that settles a neighbor claims the work (fast_message.lua)
local FAILED = 60000 -- ms after which a user whose record cannot be read is tried again

-- The node that runs this script. Every start of a server has another id, and so has a replica that takes over; ''
-- where a service does not show it.
local function node_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
end

-- One record that cannot be read must not end the sweep of all others.
local function guarded(command)
  return function(u, request)
    local done, response = pcall(command, u, request)
    if done then return response end
    call('ZADD', DUE, 'XX', ms(now + FAILED), u.id)
    return { failed = tostring(response) }
  end
end

-- settle: the user is due.
--   request
--   response  own, announcement, notices, lease, flush, found
--   errors    failed: why the record cannot be read
commands.settle = guarded(function(u) return settle(u, ANNOUNCE) end)

-- announced: what was leased has been posted. Where another function has taken a lease since, the record stays
-- unannounced: a store that lost its last seconds may give a rev twice.
--   request   lease; rev, status: of the announcement; notified: viewer -> version, of the notices
--   response  as settle
function commands.announced(u, request)
  load_user(u)
  local announced, rev = number(u, 'announcedRev'), number(u, 'rev') or 0
  local _, _, token = lease_of(u)
  if announced and request.rev == rev and request.lease == token then
    put(u, { announcedRev = '', announcedStatus = '' })
  elseif announced and request.rev and request.rev > announced and request.rev < rev then
    put(u, { announcedRev = request.rev, announcedStatus = request.status })
  end
  for viewer, version in pairs(request.notified or {}) do
    if call('HGET', u.keys.tell, viewer) == version then
      call('HDEL', u.keys.tell, viewer)
      put(u, { tells = math.max(0, (number(u, 'tells') or 0) - 1) })
    end
  end
  if request.lease == token then put(u, { lease = '' }) end
  return settle(u, ANNOUNCE)
end

-- audit: checks the stored state of a user for consistency, and repairs it. Gives some of the contacts, others in each
-- turn, so that the caller can check their `sees`.
--   request   turn, most
--   response  as settle; contacts
--   errors    failed
commands.audit = guarded(function(u, request)
  load_user(u)
  local score, due = tonumber(call('ZSCORE', DUE, u.id) or ''), number(u, 'due')
  local counts, expired = false, false
  for _, c in pairs(u.connections) do
    counts = counts or is_live(c) or lingers(c)
    expired = expired or (c.state == 'live' and c.deadline <= now)
  end
  local found, response = {}, {}
  -- `due` may be early, never late; the score is later while somebody settles the user.
  if counts and (not score or (due and due > now and score > due)) then found[#found + 1] = 'liveNotDue' end
  if expired and (not score or score > now + CLAIMED) then found[#found + 1] = 'expired' end
  if #found > 0 then
    response = settle(u, ANNOUNCE)
    for _, kind in ipairs(found) do count_found(kind) end
  end
  local contacts, some = call('SMEMBERS', u.keys.contacts), {}
  table.sort(contacts)
  for place = 1, math.min(request.most, #contacts) do
    some[place] = contacts[(request.turn * request.most + place) % #contacts + 1]
  end
  response.found, response.contacts = filled(found), filled(some)
  return response
end)

-- get_due: the users of the bucket who are due, and when the next one will be. With `run`, whether that sweeper still
-- has its turn; `begin` takes the turn, and `cursor` is where the next run continues its audit. `node` is the node that
-- serves the bucket now, and `known_node` the one that served it at the last look. Where a service does not show its
-- nodes, each look leaves its time instead: `looked` is that of the last one.
--   request   horizon, most, run, begin, cursor
--   response  users, late, next, turn, cursor, node, known_node, looked, epoch
function commands.get_due(_, request)
  local response, users = { node = node_id(), known_node = call('HGET', META, 'node') or nil }, {}
  response.epoch = tonumber(epoch)
  if response.node == '' then
    response.looked = tonumber(call('HGET', META, 'looked') or '')
    call('HSET', META, 'looked', ms(math.max(response.looked or 0, now)))
  end
  if request.run then
    if request.begin then call('HSET', META, 'sweeper', request.run) end
    response.turn = call('HGET', META, 'sweeper') == request.run
    if request.cursor then call('HSET', META, 'cursor', request.cursor) end
    response.cursor = call('HGET', META, 'cursor') or ''
  end
  local heads = call('ZRANGEBYSCORE', DUE, '-inf', ms(now + request.horizon), 'WITHSCORES', 'LIMIT', 0, request.most)
  for i = 1, #heads, 2 do
    local due = tonumber(heads[i + 1])
    if due <= now then
      users[#users + 1] = heads[i]
      response.late = math.max(response.late or 0, now - due)
    elseif not response.next then
      response.next = due
    end
  end
  response.users = filled(users)
  return response
end

-- set_epoch: some node of the store has lost its last seconds, so that every client must get a snapshot. With `node`,
-- that node serves the bucket from now on.
--   request   epoch, node
--   response
function commands.set_epoch(_, request)
  if request.epoch then call('HSET', META, 'epoch', ms(request.epoch)) end
  if request.node then call('HSET', META, 'node', request.node) end
  return {}
end

-- bucket_status: how the bucket is; with `loaded`, whether its graph is loaded from now on.
--   request   loaded
--   response  loaded, late; found: kind -> count
function commands.bucket_status(_, request)
  if request.loaded ~= nil then call('HSET', META, 'loaded', request.loaded and '1' or '0') end
  local oldest, found = call('ZRANGE', DUE, 0, 0, 'WITHSCORES'), {}
  for field, count in pairs(hash(META)) do
    local kind = string.match(field, '^found:(%a+)$')
    if kind then found[kind] = tonumber(count) end
  end
  return { loaded = call('HGET', META, 'loaded') == '1', found = filled(found),
    late = oldest[2] and math.max(0, now - tonumber(oldest[2])) or 0 }
end
