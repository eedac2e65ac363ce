-- forget_pool: a pool without engines and without requests leaves no key behind but its settings, which somebody chose.
--
-- KEYS[1] waiting   KEYS[2] engines   KEYS[3] dead   KEYS[4..8] intake streams   KEYS[9…] the pool's other keys
-- ARGV[1] for how long (ms) the dead stream can still be read
-- Output: 'forgotten' | 'busy' (it has an engine or a request)

local waiting, engines, dead = KEYS[1], KEYS[2], KEYS[3]
if redis.call('ZCARD', waiting) > 0 or redis.call('SCARD', engines) > 0 then return 'busy' end
for level = 0, 4 do
  if redis.call('XLEN', KEYS[4 + level]) > 0 then return 'busy' end
end
redis.call('DEL', unpack(KEYS, 4))
redis.call('PEXPIRE', dead, ARGV[1])
return 'forgotten'
