-- Records: a new rev of the visible record, and what of it contacts already know.
-- Uses: choices.

-- The record changes. `announcedRev` and `announcedStatus` are stored only while contacts do not know the newest
-- record.
local function raise_rev(u, rev)
  if not u.fields.announcedRev then
    put(u, { announcedRev = number(u, 'rev') or 0, announcedStatus = u.fields.status or 'offline' })
  end
  put(u, { rev = rev })
end

local function is_unannounced(u) return u.fields.announcedRev ~= nil end

local function announced_status(u) return u.fields.announcedStatus or u.fields.status or 'offline' end
