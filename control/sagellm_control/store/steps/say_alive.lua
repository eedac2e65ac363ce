-- say_alive: a program that holds reservations is alive; or somebody asks whether it is.
--
-- KEYS[1] holder
-- ARGV[1] for how long (ms) it is taken to be alive from now on; '0': somebody asks
-- Output: 1: it is taken to be alive | 0: it is not
--
-- Who asks does so by the step by which it is said: a server that cannot be told cannot be asked either.

if ARGV[1] ~= '0' then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return redis.call('EXISTS', KEYS[1])
