-- forget_pool: a pool without engines and without requests leaves no key behind but its settings, which somebody chose.
--
-- KEYS[1] waiting   KEYS[2] engines   KEYS[3] dead   KEYS[4..8] intake streams   KEYS[9…] the pool's other keys
-- ARGV[1] for how long (ms) what is in the dead stream can be looked at
-- Output: 'forgotten' | 'busy' (it has an engine or a request, or an entry in the dead stream that is younger)

local waiting, engines, dead = KEYS[1], KEYS[2], KEYS[3]
if redis.call('ZCARD', waiting) > 0 or redis.call('SCARD', engines) > 0 then return 'busy' end
for level = 0, 4 do
  if redis.call('XLEN', KEYS[4 + level]) > 0 then return 'busy' end
end
local newest = redis.call('XREVRANGE', dead, '+', '-', 'COUNT', 1)[1]
-- Its id is the server's own time, whatever clock the caller goes by.
if newest and clock('0') - tonumber(string.match(newest[1], '%d+')) < tonumber(ARGV[1]) then return 'busy' end
redis.call('DEL', dead, unpack(KEYS, 4))
return 'forgotten'
