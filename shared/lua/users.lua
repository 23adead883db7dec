-- Users: what is stored about one, read once and written once for each request.
-- Uses: connections, values.

local ERASED = 86400000 -- ms for which an erased user's old tokens are refused; tokens should not live longer

-- Reads the user's hash: the fields and the connections.
local function load_record(u)
  if u.fields then return end
  u.fields, u.connections, u.stored = {}, {}, hash(u.keys.user)
  for field, value in pairs(u.stored) do
    local mark, id = string.sub(field, 1, 1), string.sub(field, 2)
    if mark == '!' then
      u.connections[id] = read_connection(id, u.stored['@' .. id], value)
    elseif mark ~= '@' and field ~= 'calls' then -- dispatch.lua counts those, and they are no part of the record
      u.fields[field] = value
    end
  end
end

-- Changes fields of the user's hash. '' removes one.
local function put(u, fields)
  for field, value in pairs(fields) do
    value = type(value) == 'number' and ms(value) or value
    if (u.fields[field] or '') ~= value then
      u.fields[field] = value ~= '' and value or nil
      u.changes[field] = value
    end
  end
end

-- Writes what `put` changed; the dispatcher calls it once for each request.
local function save(u)
  local written, removed = {}, {}
  for field, value in pairs(u.changes) do
    local differs = value ~= (u.stored[field] or '')
    if differs and value == '' then
      removed[#removed + 1] = field
    elseif differs then
      written[#written + 1] = field
      written[#written + 1] = value
    end
  end
  if #removed > 0 then call('HDEL', u.keys.user, unpack(removed)) end
  if #written > 0 then call('HSET', u.keys.user, unpack(written)) end
  local erased = u.fields and u.fields.erased and not u.fields.rev
  if #written > 0 or u.touched then call('PEXPIRE', u.keys.user, ms(erased and ERASED or SETTINGS.retention)) end
end

-- Tokens issued until then are refused: the last sign-out everywhere, or the user's erasure.
local function refused_until(ended_at, erased)
  return math.max(tonumber(ended_at or '') or -1, tonumber(erased or '') or -1)
end

-- The connections to which frames are posted, sorted.
local function sockets_of(u)
  local open = {}
  for id, c in pairs(u.connections) do
    if is_live(c) and not c.polling then open[#open + 1] = id end
  end
  table.sort(open)
  return open
end

local function set_due(u, due)
  put(u, { due = due or '' })
  if due then
    call('ZADD', DUE, ms(due), u.id)
  else
    call('ZREM', DUE, u.id)
  end
end
