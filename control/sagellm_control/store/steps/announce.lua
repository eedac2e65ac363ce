-- announce: a pool, or the names that its engines answer to, are known.
--
-- KEYS[1] set of all pools, or hash of all models (two slots of a cluster, so it is called for each)
-- ARGV[1] pool, then the names for the hash
-- Output: how many are new

if #ARGV == 1 then return redis.call('SADD', KEYS[1], ARGV[1]) end
local pairs_of_names = {}
for i = 2, #ARGV do
  pairs_of_names[#pairs_of_names + 1] = ARGV[i]
  pairs_of_names[#pairs_of_names + 1] = ARGV[1]
end
return redis.call('HSET', KEYS[1], unpack(pairs_of_names))
