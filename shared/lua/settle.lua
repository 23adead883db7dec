-- Settle: what the user is now, what contacts may see of it, and who must be notified.
-- Uses: feed, views, records, closing, snapshots.
--
-- Every command that changes something ends here, and so does the mere passing of time. Four steps:
--   expire    drops connections and settings whose time is over
--   decide    finds the real status, over all devices
--   publish   writes the record that contacts may see, when it changed
--   notify    returns what must be posted to whom, and takes a lease for it
-- Each step adds to `due`, when the user must be settled next.
--
-- A caller with ANNOUNCE carries out what the response asks for, and then sends `announced`; if it dies before, the
-- lease runs out, and the next settle asks again. With DEFER nothing is returned: it falls due `patience` ms from now,
-- for the next function that settles the user.
--
-- response  own {prev, seq, connections, real}: the real state, for the user's own connections
--           announcement {rev, was, status, viewers}: one change of the record, for all who may see it
--           notices: for viewers one by one after a change of relations,
--                    {viewer, version, was}, or {other, version, blocked, turn}: the other side of a block
--           lease: what `announced` returns
--           flush {prev, first, last, connections, users}: what waited for this user, as a viewer
--
-- No response has a record: records are read after the numbers of their frames were drawn. Meanwhile the user may have
-- changed again, or been hidden, or the change may have been lost; a record that was read before would then follow a
-- newer one under a higher number.
--           found: kinds of inconsistencies that were found

local ANNOUNCE, DEFER = true, false

local REMEMBERED = 60000 -- ms for which a closed connection is remembered: longer than any of its messages can be late
local MAX_NOTICES = 500  -- viewers notified one by one in one response

local function add_due(u, time) u.due = earliest(u.due, time) end

-- Contacts from whom nothing hides the user.
local function viewers_of(u)
  local contacts = call('SMEMBERS', u.keys.contacts)
  if #contacts == 0 or call('EXISTS', u.keys.hidden) == 0 then return contacts end
  local entries, viewers = hash(u.keys.hidden), {}
  for _, viewer in ipairs(contacts) do
    if not entries[viewer] or cjson.decode(entries[viewer]).why == '' then viewers[#viewers + 1] = viewer end
  end
  return viewers
end

-- Removes the entries of `hidden` that are over. When the custom status of a frozen record ends, its viewer gets an
-- ordinary change of an offline user.
local function expire_hidden(u)
  local next_end
  for viewer, raw in pairs(hash(u.keys.hidden)) do
    local entry = cjson.decode(raw)
    if ended(entry_end(entry)) then
      call('HDEL', u.keys.hidden, viewer)
    else
      if ended(entry_due(entry)) then
        entry.custom, entry.frozen = '', now
        call('HSET', u.keys.hidden, viewer, cjson.encode(entry))
        call('HSET', u.keys.tell, viewer, new_token() .. ' offline')
      end
      next_end = earliest(next_end, entry_due(entry))
    end
  end
  put(u, { hiddenDue = next_end or '' })
end

-- Step 1. Gives the live connections, those within their grace, and when the user was last here.
local function expire(u)
  local live, lingering, last, beat = {}, {}, last_here(u), nil
  for _, c in pairs(u.connections) do
    if is_live(c) then
      live[#live + 1] = c
      beat = math.max(beat or 0, c.beat)
      add_due(u, c.deadline)
    elseif lingers(c) then
      lingering[#lingering + 1] = c
      add_due(u, c.deadline)
    elseif c.state == 'live' or c.state == 'lost' or c.beat + REMEMBERED <= now then
      forget_connection(u, c) -- its deadline has passed: no grace on top
    else
      add_due(u, c.beat + REMEMBERED)
    end
  end
  put(u, { last = last ~= beat and last or '' })

  local settings = u.settings
  if ended(tonumber(settings.claimUntil or '')) then drop_setting(u, 'claim', 'claimUntil') end
  if settings.custom and ended(custom_until(settings.custom)) then drop_setting(u, 'custom') end
  if ended(number(u, 'hiddenDue')) or u.missing then expire_hidden(u) end -- an evicted hash lost `hiddenDue`, too
  u.missing = false
  local turn_ends = number(u, 'turn') and number(u, 'turn') + OVERTAKEN
  if ended(turn_ends) then put(u, { turn = '' }) else add_due(u, turn_ends) end
  add_due(u, tonumber(settings.claimUntil or ''))
  add_due(u, number(u, 'hiddenDue'))
  add_due(u, settings.custom and custom_until(settings.custom) or nil)
  return live, lingering, last
end

-- The connection that decides among these, and its status.
local function best_of(candidates, idle)
  local best, best_status
  for _, c in ipairs(candidates) do
    local status = c.status == 'online' and idle and 'away' or c.status
    local better = not best or SETTINGS.rank[status] > SETTINGS.rank[best_status]
    if best and status == best_status then
      better = c.active > best.active or (c.active == best.active and c.id > best.id)
    end
    if better then best, best_status = c, status end
  end
  return best, best_status
end

-- Step 2. The live connections decide, and those within their grace: a page that reloads changes nothing. Inactivity
-- belongs to the user, over all devices. Gives the real status, whether the user is idle, and the type of the deciding
-- device; `u.rule` is what decided.
local function decide(u, live, lingering)
  local candidates = {}
  for _, c in ipairs(live) do candidates[#candidates + 1] = c end
  for _, c in ipairs(lingering) do candidates[#candidates + 1] = c end
  local active, can_idle = nil, false
  for _, c in ipairs(candidates) do
    active = math.max(active or 0, c.active)
    can_idle = can_idle or c.status == 'online'
  end
  local idle = active ~= nil and active + SETTINGS.away_after <= now
  if can_idle and not idle then add_due(u, active + SETTINGS.away_after) end
  local best, status = best_of(candidates, idle)
  u.rule = not best and 'no_device' or u.settings.claim and 'claim' or best.state ~= 'live' and 'grace'
    or idle and status == 'away' and 'idle' or 'device'
  if not best then return 'offline', idle, '' end
  return u.settings.claim or status, idle, best.type
end

-- Step 3. While the user is invisible, contacts keep seeing an offline user with the custom status that they saw last.
-- `evicted`: the user is due, and yet nothing is stored; contacts may have seen the user online.
local function publish(u, real, idle, device_type, last, evicted)
  local was, was_custom = u.fields.status or 'offline', u.fields.custom or ''
  local status, custom = real, u.settings.custom or ''
  if u.settings.invisible == '1' then
    status, custom = 'offline', was_custom
    local ends = custom_until(custom)
    if ended(ends) then custom = '' else add_due(u, ends) end
  end
  if status ~= was or custom ~= was_custom or evicted then
    local seen = u.fields.seen or ''
    if status ~= 'offline' then
      seen = ''
    elseif was ~= 'offline' then
      seen = real == 'offline' and last or now -- an invisible user looks as if gone now
    end
    raise_rev(u)
    put(u, { status = status, custom = custom, seen = seen, type = device_type })
  end
  put(u, { real = real ~= status and real or '', idle = idle and '1' or '' })
end

-- Step 4, the user's own connections.
local function notify_own(u, response, announce, later)
  local own, open = own_of(u), sockets_of(u)
  if own ~= u.own then
    put(u, { own = '1' })
    u.own = own
  end
  if not u.fields.own then return end
  if #open > 0 and not announce then
    add_due(u, later)
    return
  end
  put(u, { own = '' })
  if #open == 0 then return end
  local prev, seq = draw_numbers(u, 1)
  response.own = { prev = prev, seq = seq, connections = open, real = real_state(u) }
end

-- Remembers how many entries `tell` has. Where fewer are found, some were lost, and nothing says which: all contacts
-- are notified of what they may see, and the other sides of blocks are written again.
local function check_tell(u)
  local tells = call('HLEN', u.keys.tell)
  if tells < (number(u, 'tells') or 0) then
    for _, viewer in ipairs(call('SMEMBERS', u.keys.contacts)) do
      call('HSETNX', u.keys.tell, viewer, new_token() .. ' offline')
    end
    for viewer, raw in pairs(hash(u.keys.hidden)) do
      if string.find(cjson.decode(raw).why, 'b', 1, true) then
        call('HSETNX', u.keys.tell, '!' .. viewer, new_token() .. ' block ' .. (u.fields.turn or ms(now)))
      end
    end
    tells = call('HLEN', u.keys.tell)
  end
  put(u, { tells = tells > 0 and tells or '' })
  return tells > 0
end

local function notices_of(u)
  local notices = {}
  for viewer, version in pairs(hash(u.keys.tell)) do
    if #notices == MAX_NOTICES then break end
    if string.sub(viewer, 1, 1) == '!' then
      local kind, turn = string.match(version, '(%a+) (%d+)$')
      notices[#notices + 1] = { other = string.sub(viewer, 2), version = version, blocked = kind == 'block',
        turn = tonumber(turn) }
    else
      notices[#notices + 1] = { viewer = viewer, version = version, was = string.match(version, '%a+$') }
    end
  end
  return filled(notices)
end

-- Step 4, contacts. A lease belongs to a rev: a newer rev does not wait for it.
local function notify_contacts(u, response, announce, later)
  local rev, lease, lease_rev = number(u, 'rev') or 0, lease_of(u)
  local unannounced, viewers = is_unannounced(u), nil
  if unannounced and graph_loaded then
    viewers = viewers_of(u)
    if #viewers == 0 then
      put(u, { announcedRev = '', announcedStatus = '' })
      unannounced = false
    end
  end
  local has_notices = check_tell(u)
  if not unannounced and not has_notices then return end
  if not graph_loaded then
    add_due(u, now + SETTINGS.announce_lease)
    return
  end
  local leased = lease > now and lease_rev == rev
  if announce then
    if unannounced and not leased then
      response.announcement = { rev = rev, was = announced_status(u),
        status = u.fields.status or 'offline', viewers = viewers }
    end
    if has_notices and (lease <= now or response.announcement) then response.notices = notices_of(u) end
    if response.announcement or response.notices then
      lease, leased, response.lease = now + SETTINGS.announce_lease, true, new_token()
      put(u, { lease = ms(lease) .. ' ' .. ms(rev) .. ' ' .. response.lease })
    end
  end
  if (unannounced and not leased) or lease <= now then add_due(u, later) else add_due(u, lease) end
end

-- Step 4, the user as a viewer of others.
local function notify_viewer(u, response, announce, later)
  check_waits(u)
  if call('EXISTS', u.keys.pending) == 0 then return end
  if window_end(u) > now then
    add_due(u, window_end(u))
  elseif announce then
    response.flush = take_pending(u, sockets_of(u))
  else
    add_due(u, later)
  end
end

local function settle(u, announce, patience)
  load_user(u)
  local response, later = {}, now + (patience or 0)
  local evicted = u.missing and u.settings.invisible ~= '1' and call('ZSCORE', DUE, u.id)
  u.due = nil
  local live, lingering, last = expire(u)
  local real, idle, device_type = decide(u, live, lingering)
  if evicted and not next(u.connections) and not next(u.settings) then
    response.found = { 'dueUnknown' }
    count_found('dueUnknown')
  end
  publish(u, real, idle, device_type, last, evicted)
  if #live > 0 and not u.fields.feed then
    begin_feed(u, now)
    put(u, { gap = '1' })
  end
  notify_own(u, response, announce, later)
  notify_contacts(u, response, announce, later)
  notify_viewer(u, response, announce, later)
  set_due(u, u.due and math.max(u.due, now))
  return response
end

-- Defines a command that changes something that settling depends on: the user is settled before, so that the edit finds
-- what is true now, and after, for the response. `apply` may return more for the response, or a `result` that refuses.
local function define_edit(name, apply)
  commands[name] = function(u, request)
    settle(u, DEFER)
    local extra = apply(u, request) or {}
    if extra.result then return extra end
    local response = settle(u, ANNOUNCE)
    for field, value in pairs(extra) do response[field] = value end
    return response
  end
end
