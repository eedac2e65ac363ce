-- attach: another gateway (or another client of one) wants the output of a request too.
--
-- KEYS[1] record   KEYS[2] orphans
-- ARGV[1] inbox   ARGV[2] id
-- Output: the request's state; false: there is no such request
--
-- From here on its events are published there as well; what came before is in the output log.

local r = redis.call('HMGET', KEYS[1], 'state', 'inbox')
if r[1] and r[1] ~= 'finished' and not string.find(' ' .. (r[2] or '') .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'inbox', (r[2] and r[2] ~= '') and (r[2] .. ' ' .. ARGV[1]) or ARGV[1])
end
redis.call('ZREM', KEYS[2], ARGV[2])
return r[1]
