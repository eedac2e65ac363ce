-- set_policy: what all schedulers of the pool follow is changed. Where that changes the ranks, a new epoch begins, in
-- which what waits is ranked anew (see next_misranked).
--
-- KEYS[1] settings   KEYS[2] virtual time   KEYS[3] tenants
-- ARGV[1] now   ARGV[2] number of settings that change the ranks, then their names and values; then the names and
--   values of the others. An empty value: back to the default
-- Output: the epoch

local settings = KEYS[1]
local changes_ranks = tonumber(ARGV[2])

local function set(name, value)
  if (redis.call('HGET', settings, name) or '') == value then return false end
  if value == '' then redis.call('HDEL', settings, name) else redis.call('HSET', settings, name, value) end
  return true
end

local new = false
for at = 3, 2 + 2 * changes_ranks, 2 do new = set(ARGV[at], ARGV[at + 1]) or new end
for at = 3 + 2 * changes_ranks, #ARGV, 2 do set(ARGV[at], ARGV[at + 1]) end
if new then
  redis.call('HINCRBY', settings, 'epoch', 1)
  -- Whoever waits is charged again when it is ranked anew. From the time of day, so that the ranks lie near the others.
  redis.call('DEL', KEYS[3])
  redis.call('SET', KEYS[2], ms(clock(ARGV[1])))
end
return redis.call('HGET', settings, 'epoch') or '0'
