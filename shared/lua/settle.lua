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
-- response  own {seq, connections, real}: the real state, for the user's own connections
--           announcement {rev, was, viewers, record}: one change of the record, for all who may see it
--           notices: for viewers one by one after a change of relations,
--                    {viewer, version, was, record}, or {other, version, blocked, turn}: the other side of a block
--           lease: what `announced` returns
--           flush {seq, connections, users}: what waited for this user, as a viewer
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

-- When the custom status of a frozen record ends, its viewer gets an ordinary change of an offline user.
local function expire_frozen(u)
  local next_end
  for viewer, raw in pairs(hash(u.keys.hidden)) do
    local entry = cjson.decode(raw)
    local ends = hides(entry) and entry.rev and not long_gone(entry) and custom_until(entry.custom) or nil
    if ended(ends) then
      entry.custom, entry.rev = '', entry.rev + 1
      call('HSET', u.keys.hidden, viewer, cjson.encode(entry))
      call('HSET', u.keys.tell, viewer, ms(entry.rev) .. ' offline')
      put(u, { floor = math.max(number(u, 'floor') or 0, entry.rev) })
    else
      next_end = earliest(next_end, ends)
    end
  end
  put(u, { frozenUntil = next_end or '' })
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
  if ended(number(u, 'frozenUntil')) or u.missing then expire_frozen(u) end -- an evicted hash lost `frozenUntil`, too
  u.missing = false
  add_due(u, tonumber(settings.claimUntil or ''))
  add_due(u, number(u, 'frozenUntil'))
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

-- Step 2. The live connections decide; those within their grace only where none is live. Inactivity belongs to the
-- user, over all devices. Gives the real status, whether the user is idle, and the type of the deciding device;
-- `u.rule` is what decided.
local function decide(u, live, lingering)
  local candidates = #live > 0 and live or lingering
  local active, can_idle = nil, false
  for _, c in ipairs(candidates) do
    active = math.max(active or 0, c.active)
    can_idle = can_idle or c.status == 'online'
  end
  local idle = active ~= nil and active + SETTINGS.away_after <= now
  if can_idle and not idle then add_due(u, active + SETTINGS.away_after) end
  local best, status = best_of(candidates, idle)
  u.rule = not best and 'no_device' or u.settings.claim and 'claim' or #live == 0 and 'grace'
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
    raise_rev(u, math.max(number(u, 'rev') or now - 1, number(u, 'floor') or 0) + 1)
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
  if #open > 0 then response.own = { seq = next_seq(u), connections = open, real = real_state(u) } end
end

local function notices_of(u)
  local notices = {}
  for viewer, version in pairs(hash(u.keys.tell)) do
    if #notices == MAX_NOTICES then break end
    if string.sub(viewer, 1, 1) == '!' then
      notices[#notices + 1] = { other = string.sub(viewer, 2), version = version,
        blocked = string.sub(version, 1, 1) == 'b', turn = tonumber(string.sub(version, 3)) }
    else
      notices[#notices + 1] = { viewer = viewer, version = version, was = string.match(version, '%a+$'),
        record = view(u, viewer) }
    end
  end
  return filled(notices)
end

-- Step 4, contacts. A lease belongs to a rev: a newer rev does not wait for it.
local function notify_contacts(u, response, announce, later)
  local rev, lease = number(u, 'rev'), number(u, 'lease') or 0
  local unannounced, viewers = is_unannounced(u), nil
  if unannounced and graph_loaded then
    viewers = viewers_of(u)
    if #viewers == 0 then
      put(u, { announcedRev = '', announcedStatus = '' })
      unannounced = false
    end
  end
  local has_notices = call('EXISTS', u.keys.tell) == 1
  if not unannounced and not has_notices then return end
  if not graph_loaded then
    add_due(u, now + SETTINGS.announce_lease)
    return
  end
  local leased = lease > now and number(u, 'leaseRev') == (rev or 0)
  if announce then
    if unannounced and not leased then
      response.announcement = { rev = rev, was = announced_status(u), viewers = viewers, record = view(u, u.id) }
    end
    if has_notices and (lease <= now or response.announcement) then response.notices = notices_of(u) end
    if response.announcement or response.notices then
      lease, leased = now + SETTINGS.announce_lease, true
      put(u, { lease = lease, leaseRev = rev or 0 })
      response.lease = rev or 0
    end
  end
  if (unannounced and not leased) or lease <= now then add_due(u, later) else add_due(u, lease) end
end

-- Step 4, the user as a viewer of others.
local function notify_viewer(u, response, announce, later)
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
  if #live > 0 and not u.fields.feed then put(u, { feed = now }) end
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
