-- Views: what a viewer may see of a user, decided at the moment of reading.
-- Uses: bucket, values.
--
-- An entry in `hidden`, viewer -> JSON, holds why a viewer may not see the user, and the frozen record that the
-- viewer sees instead:
--   why   letters: h the user hides, b the user blocks, B the viewer blocks the user, r no longer a contact;
--         with none left, the entry only keeps `turn`, and the viewer's rev from falling
--   at    when it last changed
--   left  when the viewer ceased to be a contact
--   rev custom seen   the frozen record; without a rev there is none
--   turn  the last block or unblock of the other side that was applied

local FORMER = 86400000 -- ms for which a former contact keeps the frozen record, and a viewer its rev

-- A former contact keeps the frozen record for a day, whether or not it is hidden from as well, which must not show.
local function long_gone(entry) return entry.left ~= nil and entry.left + FORMER <= now end

local function entry_of(u, viewer)
  local raw = call('HGET', u.keys.hidden, viewer)
  if not raw then return nil end
  local entry = cjson.decode(raw)
  if entry.why == '' and entry.at + FORMER <= now or entry.why == 'r' and long_gone(entry) then return nil end
  return entry
end

local function hides(entry) return entry ~= nil and entry.why ~= '' end

local function custom_until(custom) return custom ~= '' and tonumber(cjson.decode(custom)['until'] or '') or nil end

local function record_of(u, status, custom, seen, rev, device_type)
  local ends = custom ~= '' and custom_until(custom)
  if ends and ended(ends) then custom = '' end
  return { user_id = u.id, status = status, custom = custom, seen = seen, rev = rev, device_type = device_type }
end

-- Whether contacts may see when the user was last here.
local function shows_last_seen(u) return call('HGET', u.keys.settings, 'lastSeen') ~= 'nobody' end

-- What a viewer may see by the relations between the two, whether or not the graph is loaded.
local function related_view(u, viewer)
  local entry = viewer ~= u.id and entry_of(u, viewer) or nil
  if hides(entry) then
    if not entry.rev or long_gone(entry) then return { user_id = u.id, status = 'offline' } end
    return record_of(u, 'offline', entry.custom, tonumber(entry.seen), entry.rev)
  end
  if viewer ~= u.id and call('SISMEMBER', u.keys.contacts, viewer) == 0 then
    return { user_id = u.id, status = 'offline' }
  end
  local status = u.fields.status or 'offline'
  local seen = status == 'offline' and number(u, 'seen') or nil
  if seen and not shows_last_seen(u) then seen = nil end
  local rev = math.max(number(u, 'rev') or 0, entry and entry.rev or 0)
  return record_of(u, status, u.fields.custom or '', seen, rev, status ~= 'offline' and u.fields.type or nil)
end

local function view(u, viewer)
  return graph_loaded and related_view(u, viewer) or { user_id = u.id, status = 'offline' }
end
