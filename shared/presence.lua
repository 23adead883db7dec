-- The state machine of presence: everything that changes a user's state is in this file, and nothing else is.
--
-- KEYS  [1] meta, [2] due: the bucket's; then seven for each request:
--       user contacts sees hidden settings tell pending
-- ARGV  [1] now, in ms; [2] a JSON list of requests, each {user = "alice", verb = "heartbeat", ...}
-- gives a JSON list of answers, one for each request, in order
--
-- All keys of one call lie in one bucket, and so in one slot of a cluster. `S`, the settings in ms, stands before
-- this text (store.py puts it there). Time comes in as an argument; only key expiry uses the server's clock.
--
-- Every verb edits one connection or one setting and then calls `settle`, which finds what the user is now, writes
-- the visible record when it changed, and says what must be told to whom. Whoever asks with `post` carries that out
-- and answers with the verb `announced`; if it dies before, the lease runs out and the next `settle` says it again.
--
-- A connection is one of
--   live          until its deadline
--   disconnected  its socket closed; until its deadline, the end of the grace, it counts when none is live; may not
--                 speak again
--   lost          its socket was found gone; as above, but may speak again, and never counts for longer than it would
--                 have lived unfound
--   closed        it left, or was replaced or signed out; may not speak again
-- Redis 6.2 is enough; an empty list in an answer may come out as {} or [].

local TOMBSTONE = 60000      -- how long a closed connection is remembered: longer than any of its messages can be late
local YOUNG = 5000           -- a 410 says nothing about a connection that may still be opening
local FORMER = 86400000      -- how long a former contact keeps the frozen record, and a viewer its rev floor
local SETTLED = 2000         -- a frame younger than this may still be on its way
local SPACING = 100          -- changes of a viewer's contacts may come this often, on average, and are told at once
local BURST, WIDEST = 300, 1000 -- how far they may run ahead of that, in ms, and how long they wait then, at most
local MOST_TOLD = 500        -- viewers told one by one in one go
local HELLO = 1000           -- how long a new connection may take to speak before others announce it
local CLOSING = 1000         -- how often a socket is closed again, at most, on which somebody speaks who may not
local FAILED = 60000         -- when a user whose record could not be read is tried again
local ERASED = 86400000      -- how long an erased user's old tokens are refused: longer than they are good for
local SCHEMA = '1'

local META, DUE = KEYS[1], KEYS[2]
local now = tonumber(ARGV[1])
local call = redis.call

local function ms(time) return string.format('%d', time) end

-- Connections ---------------------------------------------------------------------------------------------------
-- Two small fields of the user's hash each, so that it keeps its compact encoding: what never changes under `@` and the
-- connection's id, what each beat changes under `!` and the id, with times as offsets from the beat.

local function read_connection(id, fixed, beat)
  if not beat then return nil end
  local state, at, left, idle, status, guess, cap, ns, nc, nu, tat =
    string.match(beat, '^(%a+) (%d+) (%d+) (%d+) (%a+)(%??) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  local type, connected, polling, device
  if fixed then type, connected, polling, device = string.match(fixed, '^(%a+) (%d+) (%d) (.+)$') end
  at = tonumber(at)
  return {
    id = id, state = state, beat = at, deadline = at + tonumber(left), active = at - tonumber(idle), status = status,
    guessed = guess == '?', cap = tonumber(cap), n = { status = tonumber(ns), claim = tonumber(nc), customStatus = tonumber(nu) },
    tat = at + tonumber(tat), type = type or 'web', connected = tonumber(connected or 0), polling = polling == '1',
    device = device or id,
  }
end

local function write_connection(u, c)
  u.heard = true
  call('HSET', u.user, '!' .. c.id, string.format('%s %d %d %d %s%s %d %d %d %d %d', c.state, c.beat,
    math.max(0, c.deadline - c.beat), math.max(0, c.beat - c.active), c.status, c.guessed and '?' or '', c.cap,
    c.n.status, c.n.claim, c.n.customStatus, math.max(0, c.tat - c.beat)))
end

local function is_live(c) return c.state == 'live' and c.deadline > now end
local function deadline_of(c) return math.min(now + S.device_ttl, c.cap > 0 and c.cap or math.huge) end

-- A message came in: "live", or "limited" (too many messages).
local function touch(u, c, said)
  local tat = math.max(c.tat, now)
  if tat - now > (S.rate_burst - 1) * S.rate_every then return 'limited' end
  c.beat, c.tat = now, tat + S.rate_every
  if said.active then c.active = math.max(c.active, now) end
  c.deadline = deadline_of(c)
  write_connection(u, c)
  return 'live'
end

-- The beat that changes nothing -----------------------------------------------------------------------------------
-- Before `due` nothing changes by itself, so a message on a live connection that asks for no change only moves its
-- deadline. It is answered here, before the rest of this file is even defined: for a call as short as this one, that
-- would be half of the work.

local function open_user(index, id)
  local k = 2 + (index - 1) * 7
  return { id = id, changed = {}, user = KEYS[k + 1], contacts = KEYS[k + 2], sees = KEYS[k + 3],
    hidden = KEYS[k + 4], settings = KEYS[k + 5], tell = KEYS[k + 6], pending = KEYS[k + 7] }
end

local function behind(seq, feed, feed_at)
  return seq ~= nil and seq ~= feed and now - (feed_at or 0) > SETTLED
end

-- Whether a client has seen more than is known here: a Redis took over that was some seconds behind.
local function ahead(seq, feed) return seq ~= nil and feed ~= nil and seq > feed and seq <= now end

-- One or two others of this bucket who are due. Moving their score on is only the claim on the work.
local function due_neighbours(u)
  local others = {}
  for _, id in ipairs(call('ZRANGEBYSCORE', DUE, '-inf', ms(now), 'LIMIT', 0, 3)) do
    if id ~= u.id and #others < 2 then
      call('ZADD', DUE, 'XX', ms(now + SETTLED), id)
      others[#others + 1] = id
    end
  end
  return #others > 0 and others or nil
end

local function quick_beat(u, request)
  local said = request.connection
  local state = call('HMGET', u.user, 'due', 'idle', 'feed', 'feedAt', '!' .. said.id, 'told')
  local due = tonumber(state[1] or '')
  if not due or due <= now or (said.active and state[2] == '1') or state[6] then return nil end
  local feed = tonumber(state[3])
  if ahead(request.seq, feed) or behind(request.seq, feed, tonumber(state[4])) then return nil end
  local c = read_connection(said.id, nil, state[5])
  if not c or not is_live(c) or c.guessed then return nil end
  local word = touch(u, c, said)
  local helps = word == 'live' and request.verb == 'heartbeat'
  return { word = word, wait = S.rate_every, help = helps and due_neighbours(u) or nil }
end

local requests = cjson.decode(ARGV[2])
if #requests == 1 and (requests[1].verb == 'heartbeat' or requests[1].verb == 'query') then
  local answer = quick_beat(open_user(1, requests[1].user), requests[1])
  if answer then return cjson.encode({ answer }) end
end

-- Views ---------------------------------------------------------------------------------------------------------

local function check_meta()
  local meta = call('HMGET', META, 'schema', 'buckets', 'loaded')
  if not meta[1] then
    call('HSET', META, 'schema', SCHEMA, 'buckets', S.buckets)
  elseif meta[1] ~= SCHEMA or tonumber(meta[2]) ~= S.buckets then
    return false, 'PRESENCE this store has schema ' .. meta[1] .. ' and ' .. meta[2] ..
      ' buckets, and this release schema ' .. SCHEMA .. ' and ' .. ms(S.buckets) .. ' buckets'
  end
  return meta[3] == '1'
end

-- Whether people may see each other here.
local LOADED, REFUSED = check_meta()
if REFUSED then return redis.error_reply(REFUSED) end

local function number(u, field) return tonumber(u.state[field] or '') end

-- An entry in `hidden` holds why this viewer may not see the user, and the record that it sees instead: `h` I hide,
-- `b` I block, `B` blocks me, `r` no longer a contact. With no reason left it only keeps the viewer's rev from falling.

-- A former contact keeps the frozen record for a day, whether or not it is hidden from as well: that must not show.
local function long_gone(entry) return entry.left ~= nil and entry.left + FORMER <= now end

local function entry_of(u, viewer)
  local raw = call('HGET', u.hidden, viewer)
  if not raw then return nil end
  local entry = cjson.decode(raw)
  if entry.why == '' and entry.at + FORMER <= now or entry.why == 'r' and long_gone(entry) then return nil end
  return entry
end

local function hides(entry) return entry ~= nil and entry.why ~= '' end

local function custom_until(custom) return custom ~= '' and tonumber(cjson.decode(custom)['until'] or '') or nil end

local function ended(time) return time ~= nil and time <= now end

local function record_of(u, viewer, status, custom, seen, rev, device)
  local ends = custom ~= '' and custom_until(custom)
  if ends and ended(ends) then custom = '' end
  return { userId = u.id, status = status, custom = custom, seen = seen, rev = rev, deviceType = device }
end

local function may_see_last(u) return call('HGET', u.settings, 'lastSeen') ~= 'nobody' end

-- What a viewer may see by the relations between the two, loaded or not.
local function related_view(u, viewer)
  local entry = viewer ~= u.id and entry_of(u, viewer) or nil
  if hides(entry) then
    if not entry.rev or long_gone(entry) then return { userId = u.id, status = 'offline' } end
    return record_of(u, viewer, 'offline', entry.custom, tonumber(entry.seen), entry.rev)
  end
  if viewer ~= u.id and call('SISMEMBER', u.contacts, viewer) == 0 then
    return { userId = u.id, status = 'offline' }
  end
  local status = u.state.status or 'offline'
  local seen = status == 'offline' and tonumber(u.state.seen or '') or nil
  if seen and not may_see_last(u) then seen = nil end
  local rev = math.max(number(u, 'rev') or 0, entry and entry.rev or 0)
  return record_of(u, viewer, status, u.state.custom or '', seen, rev,
    status ~= 'offline' and u.state.type or nil)
end

-- What a viewer may see, decided at this moment.
local function view(u, viewer)
  return LOADED and related_view(u, viewer) or { userId = u.id, status = 'offline' }
end

-- Reads of users who are not due, of which queries and snapshots are made, are answered here, before the rest of this
-- file is defined.

-- Whether the stored record is exact; it is read, as far as a view needs it.
local function read_record(u)
  local fields = call('HMGET', u.user, 'status', 'custom', 'seen', 'rev', 'type', 'due')
  u.state = { status = fields[1] or nil, custom = fields[2] or nil, seen = fields[3] or nil, rev = fields[4] or nil,
    type = fields[5] or nil }
  return not ended(tonumber(fields[6] or ''))
end

local function quick_views()
  local answers = {}
  for index, request in ipairs(requests) do
    if request.verb ~= 'view' then return nil end
    local u = open_user(index, request.user)
    if not read_record(u) then return nil end
    answers[index] = view(u, request.viewer)
  end
  return answers
end

local views = quick_views()
if views then return cjson.encode(views) end

-- Connections that come and go ------------------------------------------------------------------------------------

local function lingers(c) return (c.state == 'disconnected' or c.state == 'lost') and c.deadline > now end
local function may_speak(c) return c.state == 'live' or c.state == 'lost' end

local function write_new_connection(u, c)
  call('HSET', u.user, '@' .. c.id, string.format('%s %d %d %s', c.type, c.connected, c.polling and 1 or 0, c.device))
  write_connection(u, c)
end

local function forget_connection(u, c)
  call('HDEL', u.user, '@' .. c.id, '!' .. c.id)
  u.connections[c.id] = nil
end

local function blank(id)
  return { id = id, state = 'closed', beat = now, deadline = now, active = now, status = 'online', cap = 0, tat = now,
    n = { status = 0, claim = 0, customStatus = 0 }, type = 'web', connected = 0, polling = false, device = id }
end

-- A connection that closed is remembered even if it was never seen: its $connect may come later than its $disconnect.
local function bury(u, id)
  u.connections[id] = blank(id)
  write_connection(u, u.connections[id])
  return u.connections[id]
end

-- Users ---------------------------------------------------------------------------------------------------------

local function hash(key)
  local flat, map = call('HGETALL', key), {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

local function earliest(a, b)
  if a and b then return math.min(a, b) end
  return a or b
end

local function lists(values) return type(values) == 'table' and values or {} end

-- What the user really is; kept apart only where contacts see something else.
local function real_of(u) return u.state.real or u.state.status or 'offline' end

-- What one's own connections are told, apart from the devices.
local function own_of(u)
  local set = u.set
  return table.concat({ real_of(u), set.claim or '', set.claimUntil or '', set.custom or '', set.invisible or '',
    set.lastSeen or '' }, '|')
end

local function load_user(u)
  if u.connections then return end
  u.state, u.set, u.connections, u.kept = {}, hash(u.settings), {}, hash(u.user)
  for field, value in pairs(u.kept) do
    local mark, id = string.sub(field, 1, 1), string.sub(field, 2)
    if mark == '!' then
      u.connections[id] = read_connection(id, u.kept['@' .. id], value)
    elseif mark ~= '@' then
      u.state[field] = value
    end
  end
  u.own, u.unknown = own_of(u), not next(u.state)
end

-- Change fields of the user's hash; `save` writes them, once, when the request is done. What is '' is not kept.
local function put(u, fields)
  for field, value in pairs(fields) do
    value = type(value) == 'number' and ms(value) or value
    if (u.state[field] or '') ~= value then
      u.state[field] = value ~= '' and value or nil
      u.changed[field] = value
    end
  end
end

local function save(u)
  local fresh, gone = {}, {}
  for field, value in pairs(u.changed) do
    local differs = value ~= (u.kept[field] or '')
    if differs and value == '' then
      gone[#gone + 1] = field
    elseif differs then
      fresh[#fresh + 1] = field
      fresh[#fresh + 1] = value
    end
  end
  if #gone > 0 then call('HDEL', u.user, unpack(gone)) end
  if #fresh > 0 then call('HSET', u.user, unpack(fresh)) end
  local erased = u.state and u.state.erased and not u.state.rev
  if #fresh > 0 or u.heard then call('PEXPIRE', u.user, ms(erased and ERASED or S.retention)) end
end

-- The record changes. Nothing is kept of what was announced while that is what the record says.
local function raise_rev(u, rev)
  if not u.state.told then put(u, { told = number(u, 'rev') or 0, said = u.state.status or 'offline' }) end
  put(u, { rev = rev })
end

local function unannounced(u) return u.state.told ~= nil end
local function said_of(u) return u.state.said or u.state.status or 'offline' end

-- When the user was here last. While a connection lives, its beat says it.
local function last_of(u)
  local last = number(u, 'last')
  for _, c in pairs(u.connections) do
    if c.state == 'live' then last = math.max(last or 0, c.beat) end
  end
  return last
end

-- It may count for a grace, until `deadline`.
local function close_connection(u, c, state, deadline)
  if c.state == 'live' then put(u, { last = math.max(number(u, 'last') or 0, c.beat) }) end
  c.active = math.min(c.active, now)
  c.state, c.beat, c.deadline, c.tat = state, now, deadline or now, now
  write_connection(u, c)
end

local function drop_setting(u, ...)
  call('HDEL', u.settings, ...)
  for _, field in ipairs({ ... }) do u.set[field] = nil end
end

local function set_due(u, due)
  put(u, { due = due or '' })
  if due then
    call('ZADD', DUE, ms(due), u.id)
  else
    call('ZREM', DUE, u.id)
  end
end

local function sockets(u)
  local open = {}
  for id, c in pairs(u.connections) do
    if is_live(c) and not c.polling then open[#open + 1] = id end
  end
  table.sort(open)
  return open
end

-- A frame is prepared for this viewer: a client that misses it sees the hole in the numbers.
local function next_seq(u, changes)
  local seq, gap = (number(u, 'feed') or now - 1) + 1, math.max(0, now - (number(u, 'feedAt') or 0))
  local rush = math.max(0, (number(u, 'rush') or 0) + (changes or 0) * SPACING - gap)
  put(u, { feed = seq, feedAt = now, rush = rush > 0 and math.min(rush, BURST + WIDEST) or '' })
  return seq
end

-- Until when further changes wait, to be told in one frame.
local function window_end(u) return (number(u, 'feedAt') or 0) + math.max(0, (number(u, 'rush') or 0) - BURST) end

local function watchers_of(u)
  local contacts = call('SMEMBERS', u.contacts)
  if #contacts == 0 or call('EXISTS', u.hidden) == 0 then return contacts end
  local entries, watchers = hash(u.hidden), {}
  for _, viewer in ipairs(contacts) do
    if not entries[viewer] or cjson.decode(entries[viewer]).why == '' then watchers[#watchers + 1] = viewer end
  end
  return watchers
end

-- A frozen record changed: its viewer is told as of an offline user.
local function tell_frozen(u, viewer, entry)
  entry.rev = entry.rev + 1
  call('HSET', u.hidden, viewer, cjson.encode(entry))
  call('HSET', u.tell, viewer, ms(entry.rev) .. ' offline')
  put(u, { floor = math.max(number(u, 'floor') or 0, entry.rev) })
end

-- A frozen record's custom status ends like any other.
local function thaw(u)
  local next_end
  for viewer, raw in pairs(hash(u.hidden)) do
    local entry = cjson.decode(raw)
    local ends = hides(entry) and entry.rev and not long_gone(entry) and custom_until(entry.custom) or nil
    if ended(ends) then
      entry.custom = ''
      tell_frozen(u, viewer, entry)
    else
      next_end = earliest(next_end, ends)
    end
  end
  put(u, { thaw = next_end or '' })
end

-- Who may see when the user was last here. Whoever was shown it, or will be, is told as of any change. A frozen record
-- stays what it was: who it is kept for shall not notice that the user does anything.
local function set_last_seen(u, policy)
  if policy == (u.set.lastSeen or 'everyone') then return end
  u.set.lastSeen = policy
  call('HSET', u.settings, 'lastSeen', policy)
  if u.state.status == 'offline' and (u.state.seen or '') ~= '' then
    raise_rev(u, math.max(number(u, 'rev'), number(u, 'floor') or 0) + 1)
  end
end

-- What was found not to hang together, and mended: for health to show.
local function note_found(kind, count)
  call('HSET', META, 'found:' .. kind, (tonumber(call('HGET', META, 'found:' .. kind) or '') or 0) + (count or 1))
end

-- Settle --------------------------------------------------------------------------------------------------------

-- The connection that decides, among the live ones or, where there is none, those within their grace.
local function best_of(candidates, idle)
  local best, best_status
  for _, c in ipairs(candidates) do
    local status = c.status == 'online' and idle and 'away' or c.status
    local better = not best or S.rank[status] > S.rank[best_status]
    if best and status == best_status then
      better = c.active > best.active or (c.active == best.active and c.id > best.id)
    end
    if better then best, best_status = c, status end
  end
  return best, best_status
end

local function self_of(u)
  local devices = {}
  for _, c in pairs(u.connections) do
    if is_live(c) then
      devices[#devices + 1] = { connectionId = c.id, deviceId = c.device, deviceType = c.type, status = c.status,
        connectedAt = c.connected, lastActive = c.active, polling = c.polling, n = c.n, cap = c.cap }
    end
  end
  table.sort(devices, function(a, b) return a.connectionId < b.connectionId end)
  return { status = real_of(u), custom = u.set.custom or '', claim = u.set.claim,
    claimUntil = tonumber(u.set.claimUntil or ''), invisible = u.set.invisible == '1',
    lastSeenPolicy = u.set.lastSeen or 'everyone', devices = devices }
end

-- What changed in the viewer's contacts since its last frame, when its window is over.
local function take_pending(u, open)
  local users = hash(u.pending)
  local count = 0
  for _ in pairs(users) do count = count + 1 end
  call('DEL', u.pending)
  return { seq = next_seq(u, count), connections = open, users = users }
end

-- `post`: the caller tells what is to be told. Where it does not, that stays due, `patience` ms from now.
local function settle(u, post, patience)
  load_user(u)
  local out = {}
  -- Due, and yet without a record: it was evicted, and viewers may have been told that the user is here.
  local lost = u.unknown and u.set.invisible ~= '1' and call('ZSCORE', DUE, u.id)

  -- Connections: a deadline that passed has waited long enough and gets no grace.
  local live, lingering, due, last, beat = {}, {}, nil, last_of(u), nil
  for _, c in pairs(u.connections) do
    if is_live(c) then
      live[#live + 1] = c
      beat = math.max(beat or 0, c.beat)
      due = earliest(due, c.deadline)
    elseif lingers(c) then
      lingering[#lingering + 1] = c
      due = earliest(due, c.deadline)
    elseif c.state == 'live' or c.state == 'lost' or c.beat + TOMBSTONE <= now then
      forget_connection(u, c)
    else
      due = earliest(due, c.beat + TOMBSTONE)
    end
  end
  put(u, { last = last ~= beat and last or '' })

  -- Ends of what the user chose for a time.
  if ended(tonumber(u.set.claimUntil or '')) then drop_setting(u, 'claim', 'claimUntil') end
  if u.set.custom and ended(custom_until(u.set.custom)) then drop_setting(u, 'custom') end
  if ended(number(u, 'thaw')) or u.unknown then thaw(u) end -- a record that was lost forgot when
  u.unknown = false
  due = earliest(due, earliest(tonumber(u.set.claimUntil or ''), number(u, 'thaw')))
  due = earliest(due, u.set.custom and custom_until(u.set.custom))

  -- What the user really is. Inactivity is the user's, over all devices.
  local candidates = #live > 0 and live or lingering
  local active, can_idle = nil, false
  for _, c in ipairs(candidates) do
    active = math.max(active or 0, c.active)
    can_idle = can_idle or c.status == 'online'
  end
  local idle = active ~= nil and active + S.away_after <= now
  if can_idle and not idle then due = earliest(due, active + S.away_after) end
  local best, real = best_of(candidates, idle)
  real = best and (u.set.claim or real) or 'offline'

  -- What contacts may see: while invisible, what they saw last.
  local was, was_custom = u.state.status or 'offline', u.state.custom or ''
  local status, custom = real, u.set.custom or ''
  if u.set.invisible == '1' then
    status, custom = 'offline', was_custom
    local frozen_end = custom_until(custom)
    if ended(frozen_end) then custom = '' else due = earliest(due, frozen_end) end
  end
  if lost and not next(u.connections) and not next(u.set) then
    out.found = { 'dueUnknown' }
    note_found('dueUnknown')
  end
  if status ~= was or custom ~= was_custom or lost then
    local rev = math.max((number(u, 'rev') or now - 1), number(u, 'floor') or 0) + 1
    local seen = u.state.seen or ''
    if status ~= 'offline' then
      seen = ''
    elseif was ~= 'offline' then
      seen = real == 'offline' and last or now -- invisible: as if gone now
    end
    raise_rev(u, rev)
    put(u, { status = status, custom = custom, seen = seen, type = best and best.type or '' })
  end
  put(u, { real = real ~= status and real or '', idle = idle and '1' or '' })
  if #live > 0 and not u.state.feed then put(u, { feed = now }) end

  -- One's own connections stay in step.
  local own, open = own_of(u), sockets(u)
  if own ~= u.own then
    put(u, { own = '1' })
    u.own = own
  end
  if u.state.own and #open > 0 and not post then
    due = earliest(due, now + (patience or 0))
  elseif u.state.own then
    put(u, { own = '' })
    if #open > 0 then out.own = { seq = next_seq(u), connections = open, self = self_of(u) } end
  end

  -- What contacts must be told. A lease belongs to a rev: a newer rev does not wait for it.
  local rev, lease = number(u, 'rev'), number(u, 'lease') or 0
  local untold, watchers = unannounced(u), nil
  if untold and LOADED then
    watchers = watchers_of(u)
    if #watchers == 0 then
      put(u, { told = '', said = '' })
      untold = false
    end
  end
  local leased = lease > now and number(u, 'leaseRev') == (rev or 0)
  local telling = call('EXISTS', u.tell) == 1
  if LOADED and post then
    if untold and not leased then
      out.announce = { rev = rev, was = said_of(u), watchers = watchers, record = view(u, u.id) }
    end
    if telling and (lease <= now or out.announce) then
      local tell, most = {}, MOST_TOLD
      for viewer, version in pairs(hash(u.tell)) do
        if most == 0 then break end
        most = most - 1
        if string.sub(viewer, 1, 1) == '!' then
          tell[#tell + 1] = { other = string.sub(viewer, 2), version = version, blocked = string.sub(version, 1, 1) == 'b',
            turn = tonumber(string.sub(version, 3)) }
        else
          tell[#tell + 1] = { viewer = viewer, version = version, was = string.match(version, '%a+$'),
            record = view(u, viewer) }
        end
      end
      out.tell = tell
    end
    if out.announce or out.tell then
      lease = now + S.announce_lease
      put(u, { lease = lease, leaseRev = rev or 0 })
      out.lease = rev or 0
      leased = true
    end
  end
  if untold or telling then
    if not LOADED then
      due = earliest(due, now + S.announce_lease)
    elseif (untold and not leased) or lease <= now then
      due = earliest(due, now + (patience or 0))
    else
      due = earliest(due, lease)
    end
  end

  -- What this user, as a viewer, is about to be told.
  if call('EXISTS', u.pending) == 1 then
    if window_end(u) > now then
      due = earliest(due, window_end(u))
    elseif post then
      out.flush = take_pending(u, open)
    else
      due = earliest(due, now + (patience or 0))
    end
  end

  if due then due = math.max(due, now) end
  set_due(u, due)
  return out
end

-- Connections that speak ------------------------------------------------------------------------------------------

-- The same device's newest connection, live or within its grace.
local function predecessor(u, id, device)
  local newest
  for _, c in pairs(u.connections) do
    if c.id ~= id and c.device == device and (is_live(c) or lingers(c)) then
      if not newest or c.connected > newest.connected or (c.connected == newest.connected and c.id > newest.id) then
        newest = c
      end
    end
  end
  return newest
end

-- Until when tokens must have been issued to be dead: the last sign-out everywhere, or the user was erased.
local function dead_until(ended_at, erased) return math.max(tonumber(ended_at or '') or -1, tonumber(erased or '') or -1) end

local function signed_out(u, said)
  local at = dead_until(u.set.endedAt, u.state.erased)
  return said.connectedAt <= at or said.issuedAt <= at
end

-- Make the connection that `said` describes; false where a sign-out, its token or the device limit forbids it. Its
-- status is a guess where the store has lost it and the message does not say it.
local function create_connection(u, said, guess)
  if signed_out(u, said) or (said.cap > 0 and said.cap <= now) then return false end
  if said.polling then
    local polling = 0
    for _, c in pairs(u.connections) do
      if c.polling and is_live(c) then polling = polling + 1 end
    end
    if polling >= S.max_devices then return false, 'full' end
  end
  local c = blank(said.id)
  c.state, c.status, c.guessed, c.cap = 'live', said.status or 'online', guess, said.cap
  c.type, c.connected, c.polling, c.device = said.type, said.connectedAt, said.polling or false, said.device or said.id
  local before = u.connections[said.id]
  if before and before.state ~= 'lost' then before = nil end
  before = before or predecessor(u, said.id, c.device)
  c.active = said.idle and now - S.away_after or now
  if before then
    c.status, c.guessed = before.status, before.guessed
    c.active = said.active and now or before.active
    if before.id == c.id then c.n = before.n end -- found gone, and here after all
    if before.state == 'disconnected' and before.id ~= c.id then
      close_connection(u, before, 'closed') -- its grace goes over to the new one
    elseif before.state == 'lost' and before.id ~= c.id then
      forget_connection(u, before)
    end
  end
  c.deadline = deadline_of(c)
  u.connections[c.id] = c
  write_new_connection(u, c)
  return c
end

-- A message came in on a connection that may not speak: "closed" (so its socket was not, or not well), or "ignored"
-- when that has been said a moment ago.
local function refuse(u, said)
  if said.polling then return 'closed' end
  local c = u.connections[said.id]
  if not c then
    c = bury(u, said.id)
    settle(u, false) -- which also sees to it that this is forgotten
  end
  if c.tat > now then return 'ignored' end
  c.tat = now + CLOSING
  write_connection(u, c)
  return 'closed'
end

-- A message came in on a connection: "live", "closed" or "ignored" (it may not speak), "full" (too many devices poll),
-- or "limited" (too many messages).
local function beat(u, request)
  local said = request.connection
  local c = u.connections[said.id]
  if c and not may_speak(c) then return refuse(u, said) end
  if not c or c.state == 'lost' then
    local made, why = create_connection(u, said, not request.status)
    if not made then return why or refuse(u, said) end
    c = made
  end
  if c.cap > 0 and c.cap <= now then -- its token ended
    close_connection(u, c, 'closed')
    return 'closed'
  end
  if c.guessed and request.status then c.status, c.guessed = request.status, false end
  return touch(u, c, said), c
end

-- After a lost tail numbers and record go on from now, as after a loss of everything: whoever saw what was lost takes
-- what comes for newer. A status that this device chose in those seconds is in its beat. A client may also lie, which
-- tells the user's viewers once more: so not twice within a TTL.
local function recover(u, c, request)
  if not ahead(request.seq, number(u, 'feed')) or now - (number(u, 'healed') or 0) < S.device_ttl then return false end
  put(u, { feed = now, healed = now })
  local rev = number(u, 'rev')
  if rev and u.set.invisible ~= '1' then raise_rev(u, math.max(rev + 1, now)) end
  if request.status then
    c.status, c.guessed = request.status, false
    write_connection(u, c)
  end
  return true
end

-- Beat, then what `edit` does with the connection, then settle.
local function spoken(u, request, edit)
  load_user(u)
  local word, c = beat(u, request)
  if word ~= 'live' then return { word = word, wait = S.rate_every } end
  local recovered = recover(u, c, request)
  local extra = edit and edit(c) or {}
  local out = settle(u, true)
  out.word, out.feed, out.recovered = 'live', number(u, 'feed'), recovered
  for name, value in pairs(extra) do out[name] = value end
  return out
end

local function snapshot(u, out)
  out.self, out.sees = self_of(u), call('SMEMBERS', u.sees)
  return out
end

-- The snapshot, or only that it would say nothing new to whoever has got every frame up to `seq`.
local function snapshot_since(u, seq, out)
  out.resumed = seq ~= nil and seq == out.feed and call('EXISTS', u.pending) == 0
  snapshot(u, out)
  if out.resumed then out.sees = nil end
  return out
end

-- Settings of the user ----------------------------------------------------------------------------------------------

local function choose(u, change, connection)
  local n, status_before, counted = change.n or 0, connection and connection.status, false
  local function newer(field)
    if not connection or n == 0 then return true end
    if n <= connection.n[field] then return false end
    connection.n[field], counted = n, true
    return true
  end
  if change.status and change.scope == 'user' and newer('claim') then
    drop_setting(u, 'claim', 'claimUntil')
    if change.status ~= 'online' then
      u.set.claim = change.status
      call('HSET', u.settings, 'claim', change.status)
      if change['until'] then
        u.set.claimUntil = ms(change['until'])
        call('HSET', u.settings, 'claimUntil', u.set.claimUntil)
      end
    end
  elseif change.status and change.scope == 'device' and connection and newer('status') then
    connection.status, connection.guessed = change.status, false
  end
  if change.custom and newer('customStatus') then
    if change.custom == '' then
      drop_setting(u, 'custom')
    else
      u.set.custom = change.custom
      call('HSET', u.settings, 'custom', change.custom)
    end
  end
  if not connection then return end
  write_connection(u, connection)
  -- One's own connections see each that is applied, even if it changes nothing over all devices.
  if counted or connection.status ~= status_before then put(u, { own = '1' }) end
end

-- Change why a viewer may or may not see the user, and remember to tell the viewer what that changes for it.
local function relate(u, viewer, edit, turn)
  local entry = entry_of(u, viewer)
  if turn and entry and (entry.turn or 0) > turn then return end -- a word that was overtaken on its way
  local why, left = entry and entry.why or '', entry and entry.left
  local contact = call('SISMEMBER', u.contacts, viewer) == 1
  local saw = contact and not hides(entry)
  local before = saw and related_view(u, viewer)
  local function tell(rev, was)
    if LOADED then call('HSET', u.tell, viewer, ms(rev) .. ' ' .. was) end
  end
  local function reason(letter, holds)
    why = string.gsub(why, letter, '')
    if holds then why = why .. letter end
  end
  if edit == 'contact' then
    call('SADD', u.contacts, viewer)
    reason('r', false)
    contact, left = true, nil
  elseif edit == 'stranger' then
    if contact then
      reason('r', true)
      left = now
    end
    call('SREM', u.contacts, viewer)
    contact = false
  elseif edit == 'hide' or edit == 'show' then
    reason('h', edit == 'hide')
  elseif edit == 'block' or edit == 'unblock' then
    reason('b', edit == 'block')
    put(u, { turn = math.max(now, (number(u, 'turn') or 0) + 1) })
    call('HSET', u.tell, '!' .. viewer, (edit == 'block' and 'b ' or 'u ') .. u.state.turn)
  elseif edit == 'blocked' or edit == 'unblocked' then
    reason('B', edit == 'blocked')
  end
  local sees = contact and why == ''
  if entry or turn or why ~= '' then
    entry = entry or {}
    entry.turn = turn or entry.turn
    entry.why, entry.at = why, now
    entry.left = left
  end
  if saw and not sees then
    local on = before.status ~= 'offline'
    entry.rev = before.rev + (on and 1 or 0)
    entry.custom = before.custom
    entry.seen = may_see_last(u) and (on and ms(now) or u.state.seen) or ''
    if on or unannounced(u) then tell(entry.rev, unannounced(u) and said_of(u) or before.status) end
    put(u, { floor = math.max(number(u, 'floor') or 0, entry.rev),
      thaw = earliest(number(u, 'thaw'), custom_until(entry.custom)) or '' })
  elseif sees and not saw then
    local frozen = entry and entry.rev and record_of(u, viewer, 'offline', entry.custom, nil, entry.rev) or nil
    local shown = u.state.status or 'offline'
    if not frozen then
      if number(u, 'rev') then tell(number(u, 'rev'), 'offline') end
    elseif shown ~= 'offline' or (u.state.custom or '') ~= frozen.custom
      or (may_see_last(u) and u.state.seen or '') ~= entry.seen then
      entry.rev = math.max(number(u, 'rev') or 0, entry.rev + 1)
      tell(entry.rev, 'offline')
      put(u, { floor = math.max(number(u, 'floor') or 0, entry.rev) })
    end
  elseif not sees and contact and not entry.rev then
    entry.rev, entry.custom, entry.seen = 0, '', '' -- a contact that was never seen: as of a user who never came
  end
  if not entry or (why == '' and not entry.rev and not entry.turn) then
    call('HDEL', u.hidden, viewer)
  else
    entry.custom, entry.seen = entry.custom or '', entry.seen or ''
    call('HSET', u.hidden, viewer, cjson.encode(entry))
  end
end

-- Verbs -------------------------------------------------------------------------------------------------------------

local verbs = {}

-- A handshake. Posts nothing and takes no lease: the first message announces.
function verbs.connect(u, request)
  load_user(u)
  local said = request.connection
  local known = u.connections[said.id]
  if known and not may_speak(known) then return { word = 'closed' } end
  if not known then
    if not create_connection(u, said, false) then return { word = 'closed' } end
  end
  settle(u, false, HELLO)
  return { word = 'live' }
end

function verbs.heartbeat(u, request)
  local out = spoken(u, request)
  if out.word ~= 'live' then return out end
  if out.recovered or behind(request.seq, out.feed, number(u, 'feedAt')) then snapshot(u, out) end
  out.help = due_neighbours(u)
  return out
end

function verbs.sync(u, request)
  local out = spoken(u, request, function(c)
    local old = request.replaces and request.replaces ~= c.id and u.connections[request.replaces]
    if not request.replaces or request.replaces == c.id then return {} end
    if not old then
      bury(u, request.replaces)
      return {}
    end
    local closing = is_live(old) and not old.polling and { old.id } or nil
    if is_live(old) or lingers(old) then
      if c.n.status == 0 then c.status, c.guessed = old.status, old.guessed end
      c.active = math.max(c.active, old.active)
      write_connection(u, c)
    end
    if old.state ~= 'closed' then close_connection(u, old, 'closed') end
    return { close = closing }
  end)
  if out.word ~= 'live' then return out end
  return snapshot_since(u, request.seq, out)
end

-- A message that only asks something of others.
function verbs.query(u, request)
  return spoken(u, request)
end

function verbs.update(u, request)
  return spoken(u, request, function(c) choose(u, request.change, c) end)
end

-- With `known` only a connection that is the user's: whoever speaks through it vouches for that otherwise. With `grace`
-- it may be a page that is loaded anew, and ends as a socket does.
function verbs.leave(u, request)
  settle(u, false)
  local c = u.connections[request.id]
  local closing = c and is_live(c) and not c.polling and { c.id } or nil
  if not c then
    if not request.known then bury(u, request.id) end
  elseif c.state ~= 'closed' then
    if is_live(c) then put(u, { last = now }) end
    if not request.grace then
      close_connection(u, c, 'closed')
    elseif is_live(c) then
      close_connection(u, c, 'disconnected', now + S.grace)
    end
  end
  local out = settle(u, true)
  out.close = closing
  return out
end

function verbs.disconnect(u, request)
  settle(u, false)
  local c = u.connections[request.id]
  if not c then
    bury(u, request.id)
  elseif c.state == 'live' then
    put(u, { last = now })
    close_connection(u, c, 'disconnected', now + S.grace)
  elseif c.state == 'lost' then
    c.state = 'disconnected' -- its grace is running already
    write_connection(u, c)
  end
  return settle(u, true)
end

-- A post found these sockets gone. Only the one that was posted to, and only if it is not just opening.
function verbs.gone(u, request)
  settle(u, false)
  for _, id in ipairs(request.ids) do
    local c = u.connections[id]
    if c and is_live(c) and c.connected + YOUNG < now then
      close_connection(u, c, 'lost', math.min(c.deadline, now + S.grace))
    end
  end
  settle(u, false)
  return {}
end

function verbs.settle(u)
  return settle(u, true)
end

-- Whether what is kept of a user hangs together; mended where it does not. Gives some of the contacts, others at each
-- turn, for the caller to look at their `sees`.
function verbs.audit(u, request)
  load_user(u)
  local score, due = tonumber(call('ZSCORE', DUE, u.id) or ''), number(u, 'due')
  local waits, expired = false, false
  for _, c in pairs(u.connections) do
    waits = waits or is_live(c) or lingers(c)
    expired = expired or (c.state == 'live' and c.deadline <= now)
  end
  local found, out = {}, {}
  -- `due` may be early, never late; the score moves on while somebody is at work.
  if waits and (not score or (due and due > now and score > due)) then found[#found + 1] = 'liveNotDue' end
  if expired and (not score or score > now + SETTLED) then found[#found + 1] = 'expired' end
  if #found > 0 then
    out = settle(u, true)
    for _, kind in ipairs(found) do note_found(kind) end
  end
  out.found, out.contacts = found, {}
  local contacts = call('SMEMBERS', u.contacts)
  table.sort(contacts)
  for place = 1, math.min(request.most, #contacts) do
    out.contacts[place] = contacts[(request.turn * request.most + place) % #contacts + 1]
  end
  return out
end

-- What was leased has been posted.
function verbs.announced(u, request)
  load_user(u)
  local told, rev = number(u, 'told'), number(u, 'rev') or 0
  if told and request.rev == rev then
    put(u, { told = '', said = '' })
  elseif told and request.rev and request.rev > told and request.rev < rev then
    put(u, { told = request.rev, said = request.status })
  end
  for viewer, version in pairs(lists(request.told)) do
    if call('HGET', u.tell, viewer) == version then call('HDEL', u.tell, viewer) end
  end
  if number(u, 'leaseRev') == request.lease then put(u, { lease = '', leaseRev = '' }) end
  return settle(u, true)
end

-- Numbers for further frames to this viewer; gives the last one.
function verbs.number(u, request)
  load_user(u)
  local seq
  for _ = 1, request.frames do seq = next_seq(u) end
  return { seq = seq }
end

-- Where to post what changed for this viewer: now, or with what else comes until its window is over.
function verbs.targets(u, request)
  load_user(u)
  if not u.state.feed then return {} end
  local open = sockets(u)
  if #open == 0 then
    call('DEL', u.pending)
    next_seq(u)
    return {}
  end
  for user, was in pairs(request.changes) do call('HSETNX', u.pending, user, was) end
  if window_end(u) <= now then return take_pending(u, open) end
  call('PEXPIRE', u.pending, ms(S.device_ttl + S.grace))
  local known = number(u, 'due')
  if not known or known > window_end(u) then set_due(u, window_end(u)) end
  return {}
end

-- Before `due` the stored record is exact. A read that finds the user due settles, and leaves the announcement due.
function verbs.view(u, request)
  load_user(u)
  if ended(number(u, 'due')) then settle(u, false) end
  return view(u, request.viewer)
end

-- Who may see this user, and who is kept from it: a list of {viewer, edit}.
function verbs.relate(u, request)
  settle(u, false)
  for _, edit in ipairs(request.edits) do relate(u, edit[1], edit[2], edit[3]) end
  for viewer in pairs(hash(u.hidden)) do
    if not entry_of(u, viewer) then call('HDEL', u.hidden, viewer) end
  end
  return settle(u, true)
end

-- The user's own choices, whole: what is given replaces what was.
function verbs.privacy(u, request)
  settle(u, false)
  if request.invisible ~= nil then
    u.set.invisible = request.invisible and '1' or nil
    if request.invisible then
      call('HSET', u.settings, 'invisible', '1')
      local live = false
      for _, c in pairs(u.connections) do live = live or is_live(c) end
      for _, c in pairs(u.connections) do -- nobody is there to be waited for
        if not live and lingers(c) then close_connection(u, c, 'closed') end
      end
    else
      call('HDEL', u.settings, 'invisible')
    end
  end
  if request.lastSeen then set_last_seen(u, request.lastSeen) end
  local function replace(wanted, letter, on, off)
    if not wanted then return end
    local keep = {}
    for _, viewer in ipairs(lists(wanted)) do keep[viewer] = true end
    for viewer, raw in pairs(hash(u.hidden)) do
      local has = string.find(cjson.decode(raw).why, letter, 1, true)
      if has and not keep[viewer] then relate(u, viewer, off) end
      if has then keep[viewer] = nil end
    end
    for viewer in pairs(keep) do relate(u, viewer, on) end
  end
  replace(request.hideFrom, 'h', 'hide', 'show')
  replace(request.blocks, 'b', 'block', 'unblock')
  return settle(u, true)
end

function verbs.choose(u, request)
  settle(u, false)
  choose(u, request.change)
  return settle(u, true)
end

-- Whether these viewers may be added without going over the limit.
function verbs.room(u, request)
  local more = 0
  for _, viewer in ipairs(request.viewers) do
    more = more + 1 - call('SISMEMBER', u.contacts, viewer)
  end
  return { room = more == 0 or call('SCARD', u.contacts) + more <= S.max_contacts }
end

-- Who of these may see the user.
function verbs.contacts_among(u, request)
  local contacts = {}
  for _, viewer in ipairs(request.users) do
    if call('SISMEMBER', u.contacts, viewer) == 1 then contacts[#contacts + 1] = viewer end
  end
  return { contacts = contacts }
end

function verbs.sees(u, request)
  local added = 0
  for _, user in ipairs(lists(request.add)) do added = added + call('SADD', u.sees, user) end
  for _, user in ipairs(lists(request.remove)) do call('SREM', u.sees, user) end
  if request.audit and added > 0 then note_found('unseen', added) end
  return { added = added }
end

-- Sign-out everywhere: connections that began and tokens that were issued until now are dead.
function verbs.sign_out(u)
  settle(u, false)
  u.set.endedAt = ms(now)
  call('HSET', u.settings, 'endedAt', u.set.endedAt)
  local out, closing = { live = #sockets(u) }, {}
  for id, c in pairs(u.connections) do
    if is_live(c) then put(u, { last = now }) end
    if c.state ~= 'closed' then close_connection(u, c, 'closed') end
    if not c.polling then closing[#closing + 1] = id end -- also what was closed before: that answer may have been lost
  end
  for name, value in pairs(settle(u, true)) do out[name] = value end
  out.close = closing
  return out
end

-- Calls of users, over HTTP: each carries `issuedAt`, and is not made with a dead token (below) ---------------------

-- A polling device has one id for all its life, and a new token now and then. It opens again after it has left when it
-- begins anew, without a number, or when what it says can be no straggler any more.
local function resume_polling(u, request)
  load_user(u)
  local c = u.connections[request.connection.id]
  if not c then return end
  if may_speak(c) then
    c.cap = request.connection.cap
  elseif (request.verb == 'poll' and not request.seq) or c.beat + YOUNG < now then
    if lingers(c) then c.state = 'lost' -- within its grace it goes on with its status
    else forget_connection(u, c) end
  end
end

-- What a device says that has no socket: heartbeat and sync in one.
function verbs.poll(u, request)
  resume_polling(u, request)
  return verbs.sync(u, request)
end

function verbs.poll_update(u, request)
  resume_polling(u, request)
  return verbs.update(u, request)
end

-- Everything that a user may see, for whoever asks without a connection.
function verbs.contacts(u, request)
  settle(u, false)
  if not u.state.feed then put(u, { feed = now }) end
  return snapshot_since(u, request.seq, { feed = number(u, 'feed') })
end

-- Nothing but that the token is good, before others are asked about.
function verbs.admit() return {} end

-- Block one user, or no longer; at most so many.
function verbs.block(u, request)
  settle(u, false)
  local blocked, count = false, 0
  for viewer, raw in pairs(hash(u.hidden)) do
    if string.find(cjson.decode(raw).why, 'b', 1, true) then
      count = count + 1
      blocked = blocked or viewer == request.viewer
    end
  end
  if request.on and not blocked and count >= request.most then return { word = 'full' } end
  if blocked ~= request.on then relate(u, request.viewer, request.on and 'block' or 'unblock') end
  return settle(u, true)
end

-- Erasing ----------------------------------------------------------------------------------------------------------

-- Everybody whose keys may name this user, and whether everybody was told what they are to be told about it.
function verbs.known_to(u)
  load_user(u)
  local names, others, told = {}, {}, true
  for _, kind in ipairs({ u.contacts, u.sees }) do
    for _, id in ipairs(call('SMEMBERS', kind)) do names[id] = true end
  end
  for id in pairs(hash(u.hidden)) do names[id] = true end
  for id in pairs(names) do others[#others + 1] = id end
  if LOADED then
    told = not unannounced(u)
    for viewer in pairs(hash(u.tell)) do told = told and string.sub(viewer, 1, 1) == '!' end
  end
  return { others = others, told = told }
end

-- Keep nothing about another user; what this one is about to be told of it is told now, while it can be read.
function verbs.forget(u, request)
  load_user(u)
  local other, out = request.other, {}
  local open = sockets(u)
  if call('HGET', u.pending, other) and #open > 0 then out.flush = take_pending(u, open) end
  call('SREM', u.contacts, other)
  call('SREM', u.sees, other)
  call('HDEL', u.hidden, other)
  call('HDEL', u.tell, other, '!' .. other)
  call('HDEL', u.pending, other)
  return out
end

-- Nothing is left but, for a day, that older tokens are dead: its clients come back at once with those.
function verbs.erase(u)
  load_user(u)
  local closing = sockets(u)
  call('DEL', u.user, u.contacts, u.sees, u.hidden, u.settings, u.tell, u.pending)
  call('ZREM', DUE, u.id)
  u.changed, u.heard = {}, false
  call('HSET', u.user, 'erased', ms(now))
  call('PEXPIRE', u.user, ms(ERASED))
  return { close = closing }
end

-- Everything real about a user, for the backend and for the user.
function verbs.inspect(u)
  load_user(u)
  if next(u.state) or next(u.connections) then settle(u, false) end
  return { self = self_of(u), record = { rev = number(u, 'rev'), status = u.state.status or 'offline',
    seen = number(u, 'seen') }, last = last_of(u), idle = u.state.idle == '1' }
end

-- What the user hides, and from whom.
function verbs.privacy_of(u)
  load_user(u)
  local out = { hideFrom = {}, blocks = {} }
  for viewer, raw in pairs(hash(u.hidden)) do
    local why = cjson.decode(raw).why
    if string.find(why, 'h', 1, true) then out.hideFrom[#out.hideFrom + 1] = viewer end
    if string.find(why, 'b', 1, true) then out.blocks[#out.blocks + 1] = viewer end
  end
  out.invisible, out.lastSeen = u.set.invisible == '1', u.set.lastSeen or 'everyone'
  return out
end

-- Everything that the application and the user gave.
function verbs.graph_of(u)
  local out = verbs.privacy_of(u)
  out.viewers, out.sees = call('SMEMBERS', u.contacts), call('SMEMBERS', u.sees)
  out.custom, out.claim, out.claimUntil = u.set.custom, u.set.claim, tonumber(u.set.claimUntil or '')
  return out
end

-- Buckets -----------------------------------------------------------------------------------------------------------

-- Who is due, and when the next one will be; with `run`, whether that sweeper still has its turn.
function verbs.heads(_, request)
  local out = { due = {} }
  if request.run then
    if request.begin then call('HSET', META, 'sweeper', request.run) end
    out.turn = call('HGET', META, 'sweeper') == request.run
    if request.cursor then call('HSET', META, 'cursor', request.cursor) end
    out.cursor = call('HGET', META, 'cursor') or ''
  end
  local heads = call('ZRANGEBYSCORE', DUE, '-inf', ms(now + request.horizon), 'WITHSCORES', 'LIMIT', 0, request.most)
  for i = 1, #heads, 2 do
    if tonumber(heads[i + 1]) <= now then
      out.due[#out.due + 1] = heads[i]
      out.late = math.max(out.late or 0, now - tonumber(heads[i + 1]))
    elseif not out.next then
      out.next = tonumber(heads[i + 1])
    end
  end
  return out
end

function verbs.bucket(_, request)
  if request.loaded ~= nil then call('HSET', META, 'loaded', request.loaded and '1' or '0') end
  local oldest, found = call('ZRANGE', DUE, 0, 0, 'WITHSCORES'), {}
  for field, count in pairs(hash(META)) do
    local kind = string.match(field, '^found:(%a+)$')
    if kind then found[kind] = tonumber(count) end
  end
  return { loaded = call('HGET', META, 'loaded') == '1', found = found,
    late = oldest[2] and math.max(0, now - tonumber(oldest[2])) or 0 }
end

-- Whether a user asks with a token from before a sign-out everywhere.
local function with_dead_token(u, request)
  return request.issuedAt ~= nil and
    request.issuedAt <= dead_until(call('HGET', u.settings, 'endedAt'), call('HGET', u.user, 'erased'))
end

local answers = {}
for index, request in ipairs(requests) do
  local u = open_user(index, request.user)
  if with_dead_token(u, request) then
    answers[index] = { word = 'signed_out' }
  elseif request.verb == 'settle' or request.verb == 'audit' then
    local done, answer = pcall(verbs[request.verb], u, request) -- one record that cannot be read must not stop the others' sweep
    answers[index] = done and answer or { failed = tostring(answer) }
    if not done then call('ZADD', DUE, 'XX', ms(now + FAILED), u.id) end
  else
    answers[index] = verbs[request.verb](u, request)
  end
  save(u)
end
return cjson.encode(answers)
