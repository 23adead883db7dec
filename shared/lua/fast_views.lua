-- Views of users who are not due: nearly every query, snapshot and announcement.
-- Uses: bucket, views.
--
-- Before `due` the stored record is exact, so a view needs six fields of the user and no connections. `fast_views`
-- answers these before the larger parts of the script are defined (fast_message.lua has the reason).

-- The response to a request; nil where the user is due.
local function fast_view(place, request)
  local first = 2 + (place - 1) * 7 -- as in `user_of`, which takes longer
  local u = { id = request.user, keys = { user = KEYS[first + 1], contacts = KEYS[first + 2],
    hidden = KEYS[first + 4], settings = KEYS[first + 5] } }
  local stored = call('HMGET', u.keys.user, 'status', 'custom', 'seen', 'rev', 'type', 'due')
  if ended(tonumber(stored[6] or '')) then return nil end
  u.fields = { status = stored[1] or nil, custom = stored[2] or nil, seen = stored[3] or nil, rev = stored[4] or nil,
    type = stored[5] or nil }
  if request.command == 'read_view' then return view(u, request.viewer) end
  return views_for(u, request.viewers)
end

local function fast_views()
  if check_bucket() then return nil end
  local responses = {}
  for place, request in ipairs(requests) do
    if request.command ~= 'read_view' and request.command ~= 'read_views' then return nil end
    -- A record that cannot be read is left to the full path, too, whose dispatcher lets only its own request fail.
    local done, response = pcall(fast_view, place, request)
    if not (done and response) then return nil end
    responses[place] = response
  end
  return cjson.encode(responses)
end
