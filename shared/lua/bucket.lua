-- The bucket's own key, `meta`:
--   schema buckets   the layout with which it was written
--   loaded           1: the graph is loaded
--   epoch            changes whenever some node of the store has lost its last seconds (upkeep.lua)
--   node             the node that served the bucket when the sweeper last looked, by its `run_id`
-- Uses: core.

local SCHEMA = '3'

local graph_loaded = false -- whether people may see each other
local epoch = ''

-- Reads `meta`, or writes it where there is none; returns an error's text where the store has another layout.
local function check_bucket()
  local meta = call('HMGET', META, 'schema', 'buckets', 'loaded', 'epoch')
  graph_loaded, epoch = meta[3] == '1', meta[4] or ''
  if not meta[1] then
    call('HSET', META, 'schema', SCHEMA, 'buckets', SETTINGS.buckets)
  elseif meta[1] ~= SCHEMA or tonumber(meta[2]) ~= SETTINGS.buckets then
    return 'PRESENCE this store has schema ' .. meta[1] .. ' and ' .. meta[2] ..
      ' buckets, and this release schema ' .. SCHEMA .. ' and ' .. ms(SETTINGS.buckets) .. ' buckets'
  end
  return nil
end

-- Counts an inconsistency that was found and repaired, for the service's health.
local function count_found(kind, count)
  call('HINCRBY', META, 'found:' .. kind, ms(count or 1))
end
