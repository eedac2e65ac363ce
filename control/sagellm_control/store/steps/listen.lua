-- listen: a gateway is alive, and will say so again within its lease.
--
-- KEYS[1] gateways
-- ARGV[1] now   ARGV[2] inbox   ARGV[3] lease (ms)
-- Output: 1 if it was not known before, else 0

return redis.call('ZADD', KEYS[1], ms(clock(ARGV[1]) + tonumber(ARGV[3])), ARGV[2])
