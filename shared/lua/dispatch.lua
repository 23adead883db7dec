-- Dispatch: runs the requests of a call, in their order.
-- Uses: bucket, users.
--
-- A request with `issued_at` comes from a user over HTTP; the result is "signed_out" if its token is no longer valid,
-- and "too_many_calls" if the user makes too many: the next one counts after `wait` ms.
--
-- A request that fails, since a record cannot be read, stops no other: its response has the reason, `failed`, and what
-- it would have saved is not. What is no fault of a record, such as a Redis without memory, ends the call.

local NOT_NOW = { 'BUSY', 'CLUSTERDOWN', 'LOADING', 'MASTERDOWN', 'MISCONF', 'NOPERM', 'NOREPLICAS', 'OOM',
  'READONLY' }

-- Counts a user's call over HTTP; gives the ms to wait where there are too many. GCRA, as for the messages of a
-- connection (connections.lua). Where the user has no record, the count is all of it, for as long as it matters.
local function count_call(u, calls)
  local most = (SETTINGS.http_rate_burst - 1) * SETTINGS.http_rate_every
  local arrival = math.max(tonumber(calls or '') or 0, now)
  if arrival - now > most then return arrival - now - most end
  arrival = arrival + SETTINGS.http_rate_every
  local is_new = not calls and call('EXISTS', u.keys.user) == 0
  call('HSET', u.keys.user, 'calls', ms(arrival))
  if is_new then call('PEXPIRE', u.keys.user, ms(most + SETTINGS.http_rate_every)) end
  return nil
end

local function run_request(u, request)
  if request.issued_at then
    local stored = call('HMGET', u.keys.user, 'erased', 'calls')
    if request.issued_at <= refused_until(call('HGET', u.keys.settings, 'endedAt'), stored[1]) then
      return { result = 'signed_out' }
    end
    local wait = count_call(u, stored[2])
    if wait then return { result = 'too_many_calls', wait = wait } end
  end
  return commands[request.command](u, request)
end

local function reason_of(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  for _, word in ipairs(NOT_NOW) do
    if string.find(text, '%f[%u]' .. word .. '%f[%U]') then error(problem, 0) end
  end
  return text
end

local function run()
  local problem = check_bucket()
  if problem then return redis.error_reply(problem) end
  local responses = {}
  for place, request in ipairs(requests) do
    local u = user_of(place)
    local done, response = pcall(run_request, u, request)
    if done then save(u) else response = { failed = reason_of(response) } end
    responses[place] = response
  end
  return cjson.encode(responses)
end
