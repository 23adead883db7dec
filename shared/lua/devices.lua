-- Devices: the commands of connections that open, send messages, and close.
-- Uses: messages, snapshots, statuses.

local YOUNG = 5000 -- ms for which a 410 proves nothing about a connection that may still be opening
local HELLO = 1000 -- ms that a new connection has to send its first message before others announce it

-- connect: a handshake. Posts nothing and takes no lease; the first message announces.
--   request   connection
--   response  result: live, closed or full
function commands.connect(u, request)
  load_user(u)
  local sender = request.connection
  local known = u.connections[sender.id]
  if known and not may_send(known) then return { result = 'closed' } end
  if not known then
    local created, result = create_connection(u, sender, false)
    if not created then return { result = result } end
  end
  settle(u, DEFER, HELLO)
  return { result = 'live' }
end

-- The device's chosen status, with the number of the update that chose it, where the update was lost.
local function restate_status(u, request, c)
  if has_newer_status(c, request) then
    apply_status(u, { scope = 'device', status = request.status, n = request.n }, c)
  end
end

-- heartbeat: the connection is still here.
--   request   connection, seq, status, n
--   response  as settle; result, wait, feed, due_neighbors; snapshot, real, sees: where a snapshot answers
function commands.heartbeat(u, request)
  local response, missed = handle_message(u, request, function(c) restate_status(u, request, c) end)
  if response.result ~= 'live' then return response end
  if missed then add_snapshot(u, response) end
  response.due_neighbors = take_due_neighbors(u)
  return response
end

-- sync: everything that the user may see. With `replaces`, the connection takes over that one and ends it.
--   request   connection, seq, replaces
--   response  as settle; result, wait, feed, resumed, snapshot, real, sees, close
function commands.sync(u, request)
  local response, missed = handle_message(u, request, function(c)
    restate_status(u, request, c)
    local id = request.replaces
    if not id or id == c.id then return nil end
    local old = u.connections[id]
    if not old then
      remember_closed(u, id)
      return nil
    end
    local close = is_live(old) and not old.polling and { id } or nil
    if is_live(old) or lingers(old) then
      if c.n.status == 0 then c.status, c.guessed = old.status, old.guessed end
      c.active = math.max(c.active, old.active)
      write_connection(u, c)
    end
    if old.state ~= 'closed' then close_connection(u, old, 'closed') end
    return close
  end)
  if response.result == 'live' then add_snapshot_since(u, not missed and request.seq, response) end
  return response
end

-- get_presence: a message that asks about other users.
--   request   connection
--   response  as settle; result, wait, feed
function commands.get_presence(u, request) return (handle_message(u, request)) end

-- update: the user chose a status on this connection.
--   request   connection, change
--   response  as settle; result, wait, feed
function commands.update(u, request)
  return (handle_message(u, request, function(c) apply_status(u, request.change, c) end))
end

-- leave: a sign-out of one connection, without a grace; with `grace` it may be a page that reloads, and ends as a
-- socket does. With `known` only a connection that is stored for the user: over the connection itself, ownership is
-- established.
--   request   id, known, grace, issued_at
--   response  as settle; close
--   errors    signed_out
define_edit('leave', function(u, request)
  local c = u.connections[request.id]
  local close = c and is_live(c) and not c.polling and { c.id } or nil
  if not c then
    if not request.known then remember_closed(u, request.id) end
  elseif c.state ~= 'closed' then
    if is_live(c) then put(u, { last = now }) end
    if not request.grace then
      close_connection(u, c, 'closed')
    elseif is_live(c) then
      close_connection(u, c, 'disconnected', now + SETTINGS.grace)
    end
  end
  return { close = close }
end)

-- disconnect: the socket closed.
--   request   id
--   response  as settle
define_edit('disconnect', function(u, request)
  local c = u.connections[request.id]
  if not c then
    remember_closed(u, request.id)
  elseif c.state == 'live' then
    put(u, { last = now })
    close_connection(u, c, 'disconnected', now + SETTINGS.grace)
  elseif c.state == 'lost' then
    c.state = 'disconnected' -- its grace already runs
    write_connection(u, c)
  end
end)

-- gone: posts found these sockets gone (410). Only connections that are still live, and not just opening. What follows
-- stays due.
--   request   ids
--   response
function commands.gone(u, request)
  settle(u, DEFER)
  for _, id in ipairs(request.ids) do
    local c = u.connections[id]
    if c and is_live(c) and c.connected + YOUNG < now then
      close_connection(u, c, 'lost', math.min(c.deadline, now + SETTINGS.grace))
    end
  end
  settle(u, DEFER)
  return {}
end

-- sign_out: connections that opened and tokens that were issued until now end.
--   request
--   response  as settle; close; live: how many sockets were open
define_edit('sign_out', function(u)
  u.settings.endedAt = ms(now)
  call('HSET', u.keys.settings, 'endedAt', u.settings.endedAt)
  local live, close = #sockets_of(u), {}
  for id, c in pairs(u.connections) do
    if is_live(c) then put(u, { last = now }) end
    if c.state ~= 'closed' then close_connection(u, c, 'closed') end
    -- Closed ones, too: the function that should have closed the socket may have died.
    if not c.polling then close[#close + 1] = id end
  end
  return { live = live, close = filled(close) }
end)

-- Polling devices have no socket. They send over HTTP, with `issued_at` of their token (dispatch.lua).

-- A polling device keeps one id, and gets a new token now and then. After it left, it opens again when it starts over,
-- without a number, or when its message is too late to be a straggler.
local function resume_polling(u, request)
  load_user(u)
  local c = u.connections[request.connection.id]
  if not c then return end
  if may_send(c) then
    c.cap = request.connection.cap
  elseif (request.command == 'poll' and not request.seq) or c.beat + YOUNG < now then
    if lingers(c) then
      c.state = 'lost' -- within its grace it continues with its status
    else
      forget_connection(u, c)
    end
  end
end

-- poll: heartbeat and sync in one.
--   request   connection, seq, status, n, issued_at
--   response  as sync
--   errors    signed_out
function commands.poll(u, request)
  resume_polling(u, request)
  return commands.sync(u, request)
end

-- poll_update: an update by a polling device.
--   request   connection, change, issued_at
--   response  as update
--   errors    signed_out
function commands.poll_update(u, request)
  resume_polling(u, request)
  return commands.update(u, request)
end
