-- Reads: what others, the user and the backend ask about a user.
-- Uses: settle, snapshots.

-- read_view: what a viewer may see of the user. A user who is due is settled first; announcing stays due.
--   request   viewer
--   response  user_id, status, stranger; custom, seen, device_type: for a viewer who may see more
function commands.read_view(u, request)
  load_user(u)
  if ended(number(u, 'due')) then settle(u, DEFER) end
  return view(u, request.viewer)
end

-- read_views: what these viewers may see of the user. `shared` is what a contact sees from whom nothing is hidden, and
-- `others` the views of those who see something else.
--   request   viewers
--   response  shared; others: viewer -> view
function commands.read_views(u, request)
  load_user(u)
  if ended(number(u, 'due')) then settle(u, DEFER) end
  return views_for(u, request.viewers)
end

-- get_snapshot: everything that the user may see, without a connection.
--   request   seq, issued_at
--   response  feed, resumed, snapshot, real, sees
--   errors    signed_out
function commands.get_snapshot(u, request)
  settle(u, DEFER)
  local missed = compare_feed(u, request.seq)
  local response = { feed = number(u, 'feed') }
  add_snapshot_since(u, not missed and request.seq, response)
  return response
end

-- check_token: nothing but that the token is valid, before other users are asked about.
--   request   issued_at
--   response
--   errors    signed_out
function commands.check_token() return {} end

-- inspect_user: the real state, for the backend and for the user.
--   request   issued_at
--   response  real, rule, shown, rev, last
--   errors    signed_out
function commands.inspect_user(u)
  load_user(u)
  if next(u.fields) or next(u.connections) then settle(u, DEFER) end
  return { real = real_state(u), rule = u.rule or 'no_device', shown = u.fields.status or 'offline',
    rev = number(u, 'rev'), last = last_here(u) }
end
