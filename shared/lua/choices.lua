-- Choices: what the user chose, kept in the key `settings`, and what the user's own connections receive of it.
-- Uses: users.

-- The real status; stored apart only where contacts see another.
local function real_status(u) return u.fields.real or u.fields.status or 'offline' end

-- Everything about the user, apart from the devices, that the user's own connections receive.
local function own_of(u)
  local settings = u.settings
  return table.concat({ real_status(u), settings.claim or '', settings.claimUntil or '', settings.custom or '',
    settings.invisible or '', settings.lastSeen or '' }, '|')
end

-- Reads everything about the user: the hash and the settings.
local function load_user(u)
  load_record(u)
  if u.settings then return end
  u.settings = hash(u.keys.settings)
  u.own, u.missing = own_of(u), not next(u.fields)
end

local function drop_setting(u, ...)
  call('HDEL', u.keys.settings, ...)
  for _, field in ipairs({ ... }) do u.settings[field] = nil end
end
