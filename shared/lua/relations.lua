-- Relations: who may see a user, and what each viewer sees instead. views.lua describes the entries of `hidden`.
-- Uses: settle.

-- Applies an edit to `contacts`, and to `tell` for the other side of a block. Gives the entry's new reasons, and when
-- the viewer ceased to be a contact.
local function apply_edit(u, viewer, edit, why, left, contact)
  local function reason(letter, holds)
    why = string.gsub(why, letter, '')
    if holds then why = why .. letter end
  end
  if edit == 'contact' then
    call('SADD', u.keys.contacts, viewer)
    reason('r', false)
    left = nil
  elseif edit == 'stranger' then
    if contact then
      reason('r', true)
      left = now
    end
    call('SREM', u.keys.contacts, viewer)
  elseif edit == 'hide' or edit == 'show' then
    reason('h', edit == 'hide')
  elseif edit == 'block' or edit == 'unblock' then
    reason('b', edit == 'block')
    put(u, { turn = math.max(now, (number(u, 'turn') or 0) + 1) })
    call('HSET', u.keys.tell, '!' .. viewer, new_token() .. ' ' .. edit .. ' ' .. u.fields.turn)
  elseif edit == 'blocked' or edit == 'unblocked' then
    reason('B', edit == 'blocked')
  end
  return why, left
end

local function notify(u, viewer, was)
  if graph_loaded then call('HSET', u.keys.tell, viewer, new_token() .. ' ' .. was) end
end

-- The viewer saw the user, and from now on keeps seeing the record as if the user had gone offline now.
local function freeze(u, viewer, entry, before)
  local was_on = before.status ~= 'offline'
  entry.frozen = was_on and now or number(u, 'rev') or 0
  entry.custom = before.custom
  entry.seen = shows_last_seen(u) and (was_on and ms(now) or u.fields.seen) or ''
  if was_on or is_unannounced(u) then
    notify(u, viewer, is_unannounced(u) and announced_status(u) or before.status)
  end
end

-- The viewer sees the user from now on, and is notified where that differs from what it saw until now.
local function unfreeze(u, viewer, before)
  local after = related_view(u, viewer)
  local differs = after.status ~= 'offline' or after.custom ~= (before.custom or '') or after.seen ~= before.seen
  if differs or before.stranger and number(u, 'rev') then notify(u, viewer, 'offline') end
end

-- Applies one edit: contact, stranger, hide, show, block, unblock, or the other side's blocked and unblocked, which
-- carry a `turn`. What the viewer must learn from it is added to `tell`.
local function relate(u, viewer, edit, turn)
  local entry = entry_of(u, viewer)
  if turn and entry and (entry.turn or 0) > turn then return end -- overtaken on its way
  local contact = call('SISMEMBER', u.keys.contacts, viewer) == 1
  local saw, before = contact and not hides(entry), related_view(u, viewer)
  local why, left = apply_edit(u, viewer, edit, entry and entry.why or '', entry and entry.left, contact)
  if edit == 'contact' then contact = true elseif edit == 'stranger' then contact = false end
  local sees = contact and why == ''
  entry = entry or {}
  entry.turn = turn or entry.turn
  entry.why, entry.at, entry.left = why, now, left
  if saw and not sees then
    freeze(u, viewer, entry, before)
  elseif sees then
    entry.frozen, entry.custom, entry.seen = nil, nil, nil
  elseif contact and not entry.frozen then
    entry.frozen, entry.custom, entry.seen = 0, '', '' -- a contact that never saw the user: as if the user never came
  end
  if why == '' and not entry.turn then
    call('HDEL', u.keys.hidden, viewer)
  else
    call('HSET', u.keys.hidden, viewer, cjson.encode(entry))
    put(u, { hiddenDue = earliest(number(u, 'hiddenDue'), entry_due(entry)) or '' })
  end
  if sees and not saw then unfreeze(u, viewer, before) end
end

-- Who may see when the user was last here. Where that changes what is shown of an offline user, it is a new rev,
-- announced like any other. A frozen record stays as it was: its viewer must not be able to tell that the user does
-- anything.
local function set_last_seen(u, policy)
  if policy == (u.settings.lastSeen or 'everyone') then return end
  u.settings.lastSeen = policy
  call('HSET', u.keys.settings, 'lastSeen', policy)
  local rev = number(u, 'rev')
  local is_blank = rev and rev + SETTINGS.retention <= now
  if u.fields.status == 'offline' and (u.fields.seen or '') ~= '' and not is_blank then raise_rev(u) end
end

local function set_invisible(u, invisible)
  u.settings.invisible = invisible and '1' or nil
  if not invisible then
    call('HDEL', u.keys.settings, 'invisible')
    return
  end
  call('HSET', u.keys.settings, 'invisible', '1')
  local live = false
  for _, c in pairs(u.connections) do live = live or is_live(c) end
  for _, c in pairs(u.connections) do -- a grace would be for nobody
    if not live and lingers(c) then close_connection(u, c, 'closed') end
  end
end

-- The viewers whose entry has this letter as a reason.
local function viewers_with(u, letter)
  local viewers = {}
  for viewer, raw in pairs(hash(u.keys.hidden)) do
    if string.find(cjson.decode(raw).why, letter, 1, true) then viewers[#viewers + 1] = viewer end
  end
  return viewers
end

-- Appends the edits that make `wanted` the viewers with this letter. What hides comes first.
local function append_edits(u, edits, wanted, letter, add, remove)
  if not wanted then return end
  local has, stays = {}, {}
  for _, viewer in ipairs(viewers_with(u, letter)) do has[viewer] = true end
  for _, viewer in ipairs(wanted) do
    stays[viewer] = true
    if not has[viewer] then edits[#edits + 1] = { viewer, add } end
  end
  for viewer in pairs(has) do
    if not stays[viewer] then edits[#edits + 1] = { viewer, remove } end
  end
end

-- edit_relations: who may see the user, and from whom the user is hidden.
--   request   edits: a list of {viewer, edit, turn}, with a turn only for the other side of a block
--   response  as settle
define_edit('edit_relations', function(u, request)
  for _, edit in ipairs(request.edits) do relate(u, edit[1], edit[2], edit[3]) end
end)

-- set_privacy: the user's own choices; a list that is given replaces the one before. At most `most` viewers are edited;
-- `left` are the other edits, a list of {viewer, edit}, for further calls with `edits`.
--   request   invisible, last_seen, hide_from, blocks, edits, most, issued_at
--   response  as settle; left
--   errors    signed_out
define_edit('set_privacy', function(u, request)
  if request.invisible ~= nil then set_invisible(u, request.invisible) end
  if request.last_seen then set_last_seen(u, request.last_seen) end
  local edits, left = request.edits or {}, {}
  append_edits(u, edits, request.hide_from, 'h', 'hide', 'show')
  append_edits(u, edits, request.blocks, 'b', 'block', 'unblock')
  for place, edit in ipairs(edits) do
    if place <= request.most then relate(u, edit[1], edit[2]) else left[#left + 1] = edit end
  end
  return { left = filled(left) }
end)

-- set_block: blocks or unblocks one user; "full" when the user blocks `most` already.
--   request   viewer, blocked, most, issued_at
--   response  as settle; result
--   errors    signed_out
define_edit('set_block', function(u, request)
  local viewers, blocked = viewers_with(u, 'b'), false
  for _, viewer in ipairs(viewers) do blocked = blocked or viewer == request.viewer end
  if request.blocked and not blocked and #viewers >= request.most then return { result = 'full' } end
  if blocked ~= request.blocked then relate(u, request.viewer, request.blocked and 'block' or 'unblock') end
end)

-- check_room: whether these viewers can become contacts within the limit.
--   request   viewers
--   response  room
function commands.check_room(u, request)
  local more = 0
  for _, viewer in ipairs(request.viewers) do
    more = more + 1 - call('SISMEMBER', u.keys.contacts, viewer)
  end
  return { room = more == 0 or call('SCARD', u.keys.contacts) + more <= SETTINGS.max_contacts }
end

-- filter_contacts: those of `viewers` who are contacts.
--   request   viewers
--   response  contacts
function commands.filter_contacts(u, request)
  local contacts = {}
  for _, viewer in ipairs(request.viewers) do
    if call('SISMEMBER', u.keys.contacts, viewer) == 1 then contacts[#contacts + 1] = viewer end
  end
  return { contacts = filled(contacts) }
end

-- edit_sees: the users that this one may see, an index of the others' `contacts`. With `gap` the user's clients get a
-- snapshot with their next heartbeats: who is in it changed. With `audit` additions are counted.
--   request   add, remove, gap, audit
--   response  added: how many
function commands.edit_sees(u, request)
  local added = 0
  for _, user in ipairs(request.add or {}) do added = added + call('SADD', u.keys.sees, user) end
  for _, user in ipairs(request.remove or {}) do call('SREM', u.keys.sees, user) end
  if request.audit and added > 0 then count_found('unseen', added) end
  if request.gap or request.audit and added > 0 then leave_gap(u) end
  return { added = added }
end

-- get_privacy: what the user hides, and from whom.
--   request
--   response  invisible, last_seen, hide_from, blocks
function commands.get_privacy(u)
  load_user(u)
  return { invisible = u.settings.invisible == '1', last_seen = u.settings.lastSeen or 'everyone',
    hide_from = filled(viewers_with(u, 'h')), blocks = filled(viewers_with(u, 'b')) }
end

-- export_user: everything that the application and the user gave.
--   request
--   response  as get_privacy; viewers, sees, custom, claim, claim_until
function commands.export_user(u)
  local response = commands.get_privacy(u)
  response.viewers, response.sees = filled(call('SMEMBERS', u.keys.contacts)), filled(call('SMEMBERS', u.keys.sees))
  response.custom, response.claim = u.settings.custom, u.settings.claim
  response.claim_until = tonumber(u.settings.claimUntil or '')
  return response
end
