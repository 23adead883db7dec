-- Messages: a message arrives on a connection, which may have to be created first, or may not send at all.
-- Uses: fast_message, settle.
--
-- A message comes with its `sender`: {id, type, device, status, connected_at, issued_at, cap, active, idle, polling},
-- the connection as the authorizer vouched for it. Where the server lost the connection, the message creates it again.
--
-- result  "live"     the message counts
--         "limited"  too many messages; the next one counts after at most `wait` ms
--         "closed"   the connection may not send, or sent far too many messages, and its socket is to be closed
--         "ignored"  as "limited" or "closed", and an error was posted, or closing asked for, a moment ago
--         "full"     the user has too many sockets, or polling devices

local CLOSING = 1000 -- ms between two attempts to close a socket on which messages still arrive

local compares = { heartbeat = true, sync = true, poll = true } -- messages that carry the number of a frame

local function may_send(c) return c.state == 'live' or c.state == 'lost' end

local function blank_connection(id)
  return { id = id, state = 'closed', beat = now, deadline = now, active = now, arrival = now, status = 'online',
    cap = 0, n = { status = 0, claim = 0, customStatus = 0 }, type = 'web', connected = 0, polling = false,
    device = id }
end

-- A closed connection is remembered even if it was never stored: its $connect may arrive after its $disconnect.
local function remember_closed(u, id)
  u.connections[id] = blank_connection(id)
  write_connection(u, u.connections[id])
  return u.connections[id]
end

local function is_signed_out(u, sender)
  local at = refused_until(u.settings.endedAt, u.fields.erased)
  return sender.connected_at <= at or sender.issued_at <= at
end

-- The same device's newest connection, live or within its grace.
local function predecessor_of(u, id, device)
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

-- Whether the user has as many sockets, or polling devices, as anybody may. A socket of the same device does not count:
-- this one replaces it, when its client reconnects or rotates.
local function is_full(u, sender)
  local count, most = 0, sender.polling and SETTINGS.max_devices or SETTINGS.max_sockets
  for _, c in pairs(u.connections) do
    if c.polling == (sender.polling or false) and is_live(c) then count = count + 1 end
  end
  if count < most then return false end
  local before = not sender.polling and predecessor_of(u, sender.id, sender.device or sender.id)
  return not (before and is_live(before) and not before.polling and count == most)
end

-- Creates the sender's connection; nil and a result where a sign-out, its token or a limit forbids it.
-- `guess`: its status is a guess, since the store lost it and the message does not say it.
local function create_connection(u, sender, guess)
  if is_signed_out(u, sender) or (sender.cap > 0 and sender.cap <= now) then return nil, 'closed' end
  if is_full(u, sender) then return nil, 'full' end
  local c = blank_connection(sender.id)
  c.state, c.status, c.guessed, c.cap = 'live', sender.status or 'online', guess, sender.cap
  c.type, c.connected, c.polling, c.device =
    sender.type, sender.connected_at, sender.polling or false, sender.device or sender.id
  local before = u.connections[sender.id]
  if before and before.state ~= 'lost' then before = nil end
  before = before or predecessor_of(u, sender.id, c.device)
  c.active = sender.idle and now - SETTINGS.away_after or now
  if before then
    c.status, c.guessed = before.status, before.guessed
    c.active = sender.active and now or before.active
    if before.id == c.id then
      c.n = before.n -- its socket was found gone, but is not
    elseif before.state == 'disconnected' then
      close_connection(u, before, 'closed') -- its grace passes to the new one
    elseif before.state == 'lost' then
      forget_connection(u, before)
    end
  end
  c.deadline = new_deadline(c)
  u.connections[c.id] = c
  local fixed = string.format('%s %d %d %s', c.type, c.connected, c.polling and 1 or 0, c.device)
  call('HSET', u.keys.user, '@' .. c.id, fixed)
  write_connection(u, c)
  return c
end

-- The result for a message on a connection that may not send: `result`, when its socket is to be closed now.
local function refuse(u, sender, result)
  if sender.polling then return result end
  local c = u.connections[sender.id]
  if not c then
    c = remember_closed(u, sender.id)
    settle(u, DEFER) -- so that it is forgotten again
  end
  if c.arrival > now then return 'ignored' end
  c.arrival = now + CLOSING
  write_connection(u, c)
  return result
end

-- Closes the connection of a persistent offender, as if its socket had closed.
local function close_offender(u, c)
  close_connection(u, c, 'disconnected', now + SETTINGS.grace)
  settle(u, DEFER)
  return refuse(u, c, 'closed')
end

-- A message arrived: its result and, when it is "live", its connection, and whether it had to be created.
local function receive_message(u, request)
  local sender = request.connection
  local c, created = u.connections[sender.id], false
  if c and not may_send(c) then return refuse(u, sender, 'closed') end
  if not c or c.state == 'lost' then
    local before = c
    local result
    c, result = create_connection(u, sender, not request.status)
    if not c then
      if before and not sender.polling then close_connection(u, before, 'closed') end
      return refuse(u, sender, result)
    end
    created = true
  end
  if c.cap > 0 and c.cap <= now then -- its token ended, and the leeway has passed
    close_connection(u, c, 'closed')
    return 'closed'
  end
  if c.guessed and request.status then c.status, c.guessed = request.status, false end
  local result = count_message(u, c, sender)
  if result == 'offender' then return close_offender(u, c) end
  return result, c, created
end

-- refuse_message: a message that violates the protocol. It counts against the rate limit, but is no heartbeat: it
-- neither creates a connection nor keeps one live.
--   request   connection
--   response  result, wait
function commands.refuse_message(u, request)
  load_user(u)
  local sender = request.connection
  local c = u.connections[sender.id]
  local result
  if not c or not may_send(c) then
    result = refuse(u, sender, 'closed')
  else
    result = count_rate(u, c)
    if result == 'live' then write_connection(u, c) end
    if result == 'offender' then result = close_offender(u, c) end
  end
  return { result = result, wait = SETTINGS.rate_every }
end

-- Counts the message, lets `act` change its connection, and settles. Returns the response, and whether a snapshot must
-- answer. `act` may return sockets to close.
local function handle_message(u, request, act)
  load_user(u)
  local result, c, created = receive_message(u, request)
  if result ~= 'live' then return { result = result, wait = SETTINGS.rate_every } end
  local missed = compares[request.command] and compare_feed(u, request.seq)
  local close = act and act(c)
  local response = settle(u, ANNOUNCE)
  response.result, response.feed, response.close = 'live', number(u, 'feed'), close
  return response, missed or created
end
