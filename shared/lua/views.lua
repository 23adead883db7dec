-- Views: what a viewer may see of a user, decided at the moment of reading.
-- Uses: bucket, values.
--
-- An entry in `hidden`, viewer -> JSON, holds why a viewer may not see the user, and the frozen record that the
-- viewer sees instead:
--   why   letters: h the user hides, b the user blocks, B the viewer blocks the user, r no longer a contact;
--         with none left, the entry only keeps `turn`
--   at    when it last changed
--   left  when the viewer ceased to be a contact
--   frozen custom seen   the frozen record, and when it last changed visibly; without `frozen` there is none
--   turn  the last block or unblock of the other side that was applied

local FORMER = 86400000 -- ms for which a former contact keeps the frozen record
local OVERTAKEN = 60000 -- ms for which a block or unblock may be overtaken by a later one

-- A former contact keeps the frozen record for a day, whether or not it is hidden from as well, which must not show.
local function long_gone(entry) return entry.left ~= nil and entry.left + FORMER <= now end

-- When nothing needs the entry any more, as far as time decides it.
local function entry_end(entry)
  if entry.why == '' then return entry.at + OVERTAKEN end
  return entry.why == 'r' and entry.left + FORMER or nil
end

local function entry_of(u, viewer)
  local raw = call('HGET', u.keys.hidden, viewer)
  if not raw then return nil end
  local entry = cjson.decode(raw)
  return not ended(entry_end(entry)) and entry or nil
end

local function hides(entry) return entry ~= nil and entry.why ~= '' end

local function is_frozen(entry) return hides(entry) and entry.frozen ~= nil and not long_gone(entry) end

local function custom_until(custom) return custom ~= '' and tonumber(cjson.decode(custom)['until'] or '') or nil end

-- When the entry must be looked at again.
local function entry_due(entry)
  return earliest(entry_end(entry), is_frozen(entry) and custom_until(entry.custom) or nil)
end

local function stranger(u) return { user_id = u.id, status = 'offline', stranger = true } end

-- A record that last changed visibly at `changed`. One of an offline user is blank after the retention, whether the
-- user was away so long or only looks so.
local function record_of(u, status, custom, seen, changed, device_type)
  if status == 'offline' and changed + SETTINGS.retention <= now then custom, seen = '', nil end
  local ends = custom ~= '' and custom_until(custom)
  if ends and ended(ends) then custom = '' end
  return { user_id = u.id, status = status, custom = custom, seen = seen, device_type = device_type }
end

-- Whether contacts may see when the user was last here.
local function shows_last_seen(u) return call('HGET', u.keys.settings, 'lastSeen') ~= 'nobody' end

-- What a viewer may see by the relations between the two, whether or not the graph is loaded.
local function related_view(u, viewer)
  local entry = viewer ~= u.id and entry_of(u, viewer) or nil
  if hides(entry) then
    if not is_frozen(entry) then return stranger(u) end
    return record_of(u, 'offline', entry.custom, tonumber(entry.seen), entry.frozen)
  end
  if viewer ~= u.id and call('SISMEMBER', u.keys.contacts, viewer) == 0 then return stranger(u) end
  local status = u.fields.status or 'offline'
  local seen = status == 'offline' and number(u, 'seen') or nil
  if seen and not shows_last_seen(u) then seen = nil end
  return record_of(u, status, u.fields.custom or '', seen, number(u, 'rev') or 0,
    status ~= 'offline' and u.fields.type or nil)
end

local function view(u, viewer) return graph_loaded and related_view(u, viewer) or stranger(u) end

-- What a contact sees from whom nothing is hidden, and what those of these viewers see who see something else.
local function views_for(u, viewers)
  local others, hides_some = {}, call('EXISTS', u.keys.hidden) == 1
  for _, viewer in ipairs(viewers) do
    local is_other = call('SISMEMBER', u.keys.contacts, viewer) == 0
    if hides_some and not is_other then is_other = call('HEXISTS', u.keys.hidden, viewer) == 1 end
    if is_other then others[viewer] = view(u, viewer) end
  end
  return { shared = view(u, u.id), others = filled(others) }
end
