-- Records: a new rev of the visible record, and what of it contacts already know. A rev is the time of the change, or
-- one more than the one before; it never leaves the service, except for the backend.
-- Uses: choices.

-- The record changes. `announcedRev` and `announcedStatus` are stored only while contacts do not know the newest
-- record.
local function raise_rev(u)
  if not u.fields.announcedRev then
    put(u, { announcedRev = number(u, 'rev') or 0, announcedStatus = u.fields.status or 'offline' })
  end
  put(u, { rev = math.max((number(u, 'rev') or 0) + 1, now) })
end

local function is_unannounced(u) return u.fields.announcedRev ~= nil end

local function announced_status(u) return u.fields.announcedStatus or u.fields.status or 'offline' end

local random, tokens = ARGV[3], 0

-- A token that no other call has made.
local function new_token()
  tokens = tokens + 1
  return random .. '-' .. tokens
end

-- Until when a function announces the user's record, which rev it was, and the token that `announced` returns.
local function lease_of(u)
  local lease, rev, token = string.match(u.fields.lease or '', '^(%d+) (%d+) (.+)$')
  return tonumber(lease or 0), tonumber(rev or 0), token
end
