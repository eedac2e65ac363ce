-- census: are there as many requests in the places of a pool as have been accepted and have not ended?
--
-- KEYS[1] counters   KEYS[2] waiting   KEYS[3..7] intake streams, then the reservations of each engine
-- ARGV[1] number of engines, then the counters of what has ended
-- Output: {requests that live, by the counters; requests in some place}

local engines = tonumber(ARGV[1])
local living = tonumber(redis.call('HGET', KEYS[1], 'accepted') or 0)
for _, ended in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV, 2))) do living = living - tonumber(ended or 0) end
local placed = redis.call('ZCARD', KEYS[2])
for level = 0, 4 do placed = placed + redis.call('XLEN', KEYS[3 + level]) end
for i = 1, engines do placed = placed + redis.call('HLEN', KEYS[7 + i]) end
return {living, placed}
