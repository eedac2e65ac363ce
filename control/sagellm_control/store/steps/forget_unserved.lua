-- forget_unserved: a request that was turned away, or whose time passed, before any engine had it is forgotten, so that
-- the same may be asked once more under its id.
--
-- KEYS[1] record   KEYS[2] output
-- ARGV[1] fingerprint of what is asked
-- Output: 1 (also where there is none, as after a call whose reply was lost) | 0: it has not ended, or not so, or is
--   another one

local r = redis.call('HMGET', KEYS[1], 'state', 'outcome', 'attempt', 'fingerprint')
if not r[1] then return 1 end
if r[1] ~= 'finished' or not (r[2] == 'rejected' or r[2] == 'expired') then return 0 end
if not is_untried(r[3]) or r[4] ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
