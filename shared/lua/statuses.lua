-- Statuses: what the user chooses, on one device or over all of them.
-- Uses: settle.

-- Applies a change {scope, status, until, custom, n}; `custom` '' clears. With a `connection` the change is counted by
-- its number `n`, and an older one is ignored.
local function apply_status(u, change, connection)
  local n, status_before, counted = change.n or 0, connection and connection.status, false
  local function count_update(field)
    if not connection or n == 0 then return true end
    if n <= connection.n[field] then return false end
    connection.n[field], counted = n, true
    return true
  end
  if change.status and change.scope == 'user' and count_update('claim') then
    drop_setting(u, 'claim', 'claimUntil')
    if change.status ~= 'online' then
      u.settings.claim = change.status
      call('HSET', u.keys.settings, 'claim', change.status)
      if change['until'] then
        u.settings.claimUntil = ms(change['until'])
        call('HSET', u.keys.settings, 'claimUntil', u.settings.claimUntil)
      end
    end
  elseif change.status and change.scope == 'device' and connection and count_update('status') then
    connection.status, connection.guessed = change.status, false
  end
  if change.custom and count_update('customStatus') then
    if change.custom == '' then
      drop_setting(u, 'custom')
    else
      u.settings.custom = change.custom
      call('HSET', u.keys.settings, 'custom', change.custom)
    end
  end
  if not connection then return end
  write_connection(u, connection)
  -- The user's own connections receive every change that is applied, even one that changes nothing over all devices.
  if counted or connection.status ~= status_before then put(u, { own = '1' }) end
end

-- set_status: a claim or a custom status, without a connection.
--   request   change, issued_at
--   response  as settle
--   errors    signed_out
define_edit('set_status', function(u, request) apply_status(u, request.change) end)
