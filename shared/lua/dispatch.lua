-- Dispatch: runs the requests of a call, in their order.
-- Uses: bucket, users.
--
-- A request with `issued_at` comes from a user over HTTP; the result is "signed_out" if its token is no longer valid.

local function run_request(u, request)
  if request.issued_at and request.issued_at <= refused_until(
      call('HGET', u.keys.settings, 'endedAt'), call('HGET', u.keys.user, 'erased')) then
    return { result = 'signed_out' }
  end
  return commands[request.command](u, request)
end

local function run()
  local problem = check_bucket()
  if problem then return redis.error_reply(problem) end
  local responses = {}
  for place, request in ipairs(requests) do
    local u = user_of(place)
    responses[place] = run_request(u, request)
    save(u)
  end
  return cjson.encode(responses)
end
