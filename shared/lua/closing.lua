-- Closing: how connections end, and the grace. What a connection is, is in connections.lua, which the fast path
-- defines, too.
-- Uses: choices.

-- Disconnected or lost, and still within its grace.
local function lingers(c) return (c.state == 'disconnected' or c.state == 'lost') and c.deadline > now end

-- With a `deadline` it counts for a grace, until then.
local function close_connection(u, c, state, deadline)
  if c.state == 'live' then put(u, { last = math.max(number(u, 'last') or 0, c.beat) }) end
  c.active = math.min(c.active, now)
  c.state, c.beat, c.deadline, c.arrival = state, now, deadline or now, now
  write_connection(u, c)
end

local function forget_connection(u, c)
  call('HDEL', u.keys.user, '@' .. c.id, '!' .. c.id)
  u.connections[c.id] = nil
end

-- When the user was last here. While a connection is live, its last message decides.
local function last_here(u)
  local last = number(u, 'last')
  for _, c in pairs(u.connections) do
    if c.state == 'live' then last = math.max(last or 0, c.beat) end
  end
  return last
end
