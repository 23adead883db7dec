-- Values: small tools for stored values and times.
-- Uses: core.

local function ended(time) return time ~= nil and time <= now end

local function earliest(a, b)
  if a and b then return math.min(a, b) end
  return a or b
end

local function hash(key)
  local flat, map = call('HGETALL', key), {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

-- A number among the user's fields, or nil.
local function number(u, field) return tonumber(u.fields[field] or '') end
