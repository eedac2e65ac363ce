-- detach: nobody at this inbox wants the output of a request any more.
--
-- KEYS[1] record   KEYS[2] orphans
-- ARGV[1] now   ARGV[2] inbox   ARGV[3] id
-- Output: 'unknown' (or ended) | 'followed' (another inbox still gets it) | 'alone' (none does)
--
-- One whose record says for how long it may be alone is noted for the keeper, which will look whether those that are
-- left have gone, too.

local r = redis.call('HMGET', KEYS[1], 'state', 'inbox', 'orphan_grace_ms')
if not r[1] or r[1] == 'finished' then return 'unknown' end
local others = {}
for inbox in string.gmatch(r[2] or '', '%S+') do
  if inbox ~= ARGV[2] then others[#others + 1] = inbox end
end
redis.call('HSET', KEYS[1], 'inbox', table.concat(others, ' '))
if r[3] then redis.call('ZADD', KEYS[2], 'NX', ms(clock(ARGV[1]) + tonumber(r[3])), ARGV[3]) end
return #others > 0 and 'followed' or 'alone'
