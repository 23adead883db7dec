-- Snapshots: the user's own state, and everything that the user may see.
-- Uses: fast_message, feed, records.

-- The user's real state: for the user's own connections, and for the backend.
local function real_state(u)
  local devices = {}
  for _, c in pairs(u.connections) do
    if is_live(c) then
      devices[#devices + 1] = { connection_id = c.id, device_id = c.device, device_type = c.type, status = c.status,
        connected_at = c.connected, last_active = c.active, n = c.n, cap = c.cap }
    end
  end
  table.sort(devices, function(a, b) return a.connection_id < b.connection_id end)
  return { status = real_status(u), custom = u.settings.custom or '', claim = u.settings.claim,
    claim_until = tonumber(u.settings.claimUntil or ''), invisible = u.settings.invisible == '1',
    last_seen_policy = u.settings.lastSeen or 'everyone', devices = filled(devices) }
end

-- Adds the snapshot: a name that no other has, the user's own state, and the users whose views complete it.
local function add_snapshot(u, response)
  response.snapshot, response.real, response.sees = random, real_state(u), filled(call('SMEMBERS', u.keys.sees))
end

-- The same, or only that nothing changed since frame `seq`; false: something may have been missed.
local function add_snapshot_since(u, seq, response)
  response.resumed = seq == response.feed and call('EXISTS', u.keys.pending) == 0
  add_snapshot(u, response)
  if response.resumed then response.sees, response.snapshot = nil, nil end
end

-- Compares what the client has received with the feed. Gives whether a snapshot must answer: something may have been
-- missed.
--
-- A client whose number is higher than the feed received frames that the store has lost, or lies. The feed moves on
-- beyond that number, by a random distance: two devices with different numbers must not reach the same one.
local function compare_feed(u, seq)
  local feed = number(u, 'feed')
  local framed_at = number(u, 'framedAt') or feed
  local mended = feed ~= nil and mend(u)
  if feed == nil or (seq and seq > number(u, 'feed')) then
    begin_feed(u, seq and math.max(seq + 1000 + tonumber(random) % 10000, now) or now)
    return true
  end
  return mended or misses_frame(seq, feed, framed_at)
end
