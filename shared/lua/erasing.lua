-- Erasing: removes a user from their own keys and from everybody else's.
-- Uses: settle.

-- find_related_users: everybody whom this user's keys name, whose keys may name this user in turn; and whether the
-- user's last change has been announced.
--   request
--   response  users, announced
function commands.find_related_users(u)
  load_user(u)
  local names, users, announced = {}, {}, true
  for _, key in ipairs({ u.keys.contacts, u.keys.sees }) do
    for _, id in ipairs(call('SMEMBERS', key)) do names[id] = true end
  end
  for id in pairs(hash(u.keys.hidden)) do names[id] = true end
  for id in pairs(names) do users[#users + 1] = id end
  if graph_loaded then
    announced = not is_unannounced(u)
    for viewer in pairs(hash(u.keys.tell)) do announced = announced and string.sub(viewer, 1, 1) == '!' end
  end
  return { users = filled(users), announced = announced }
end

-- forget_user: removes `other` from this user's keys. A change of `other` that waits for this user is posted now, while
-- it can still be read.
--   request   other
--   response  flush
function commands.forget_user(u, request)
  load_user(u)
  local other, response = request.other, {}
  local open = sockets_of(u)
  if call('HGET', u.keys.pending, other) and #open > 0 and u.fields.feed then
    response.flush = take_pending(u, open)
  end
  call('SREM', u.keys.contacts, other)
  call('SREM', u.keys.sees, other)
  call('HDEL', u.keys.hidden, other)
  local removed = call('HDEL', u.keys.tell, other, '!' .. other)
  if removed > 0 then put(u, { tells = math.max(0, (number(u, 'tells') or 0) - removed) }) end
  if call('HDEL', u.keys.pending, other) == 1 then set_waits(u, math.max(0, (number(u, 'waits') or 0) - 1)) end
  return response
end

-- erase_user: removes everything, but remembers for a day that older tokens are refused: clients reconnect with those.
--   request
--   response  close
function commands.erase_user(u)
  load_user(u)
  local close, keys = sockets_of(u), u.keys
  call('DEL', keys.user, keys.contacts, keys.sees, keys.hidden, keys.settings, keys.tell, keys.pending)
  call('ZREM', DUE, u.id)
  u.changes, u.touched = {}, false
  call('HSET', keys.user, 'erased', ms(now))
  call('PEXPIRE', keys.user, ms(ERASED))
  return { close = filled(close) }
end
