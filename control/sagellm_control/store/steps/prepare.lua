-- prepare: the schedulers' group exists on a pool's streams.
--
-- KEYS[1..5] intake streams   KEYS[6] freed
-- ARGV[1] entry id behind which a new group reads
-- Output: how many groups were missing

local made = 0
for i = 1, #KEYS do
  local answer = redis.pcall('XGROUP', 'CREATE', KEYS[i], SCHEDULERS, ARGV[1], 'MKSTREAM')
  if answer.ok then made = made + 1
  elseif not string.find(answer.err, 'BUSYGROUP', 1, true) then return answer end
end
return made
