-- describe: what an engine says of its models is kept for whoever lists them. Where engines differ it is the first
-- one's, for as long as a worker holds that engine.
--
-- KEYS[1] cards   KEYS[2] leases
-- ARGV[1] engine id, then for each model: name, card (JSON; '': it says nothing)
-- Output: how many have changed

local engine, changed = ARGV[1], 0
for i = 2, #ARGV, 2 do
  local name, card = ARGV[i], ARGV[i + 1] .. '\n' .. engine
  local known = redis.call('HGET', KEYS[1], name) or ''
  local teller = string.match(known, '\n(.*)$')
  if known ~= card and (not teller or teller == engine or not redis.call('ZSCORE', KEYS[2], teller)) then
    if ARGV[i + 1] ~= '' then
      redis.call('HSET', KEYS[1], name, card)
      changed = changed + 1
    else changed = changed + redis.call('HDEL', KEYS[1], name) end
  end
end
return changed
