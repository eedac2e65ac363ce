-- forget: an engine that nobody holds, and that holds nothing, leaves no key behind.
--
-- KEYS[1] row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] engines   KEYS[6] leases
-- ARGV[1] engine id
-- Output: 'forgotten' | 'held' (a worker holds its lease) | 'busy' (requests hold places on it)

local engine = ARGV[1]
if (redis.call('HGET', KEYS[1], 'worker') or '') ~= '' then return 'held' end
if redis.call('HLEN', KEYS[2]) > 0 then return 'busy' end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], engine)
redis.call('SREM', KEYS[5], engine)
redis.call('ZREM', KEYS[6], engine)
return 'forgotten'
