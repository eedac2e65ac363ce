-- leave: a scheduler that stops takes its consumer out of the group, unless it still has something pending.
-- (Removing a consumer destroys what it has pending.)
--
-- KEYS[1..5] intake streams   KEYS[6] freed
-- ARGV[1] consumer
-- Output: number of streams on which it still has something, which another scheduler will take over

local kept = 0
for i = 1, #KEYS do
  if #redis.call('XPENDING', KEYS[i], SCHEDULERS, '-', '+', 1, ARGV[1]) > 0 then
    kept = kept + 1
  else
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], SCHEDULERS, ARGV[1])
  end
end
return kept
