-- leave: a scheduler that stops takes its consumer out of the group, unless it still has something pending.
-- (Removing a consumer destroys what it has pending.) What it has is made to look long idle, so that whoever looks next
-- takes it over at once.
--
-- KEYS[1..5] intake streams   KEYS[6] freed
-- ARGV[1] consumer
-- Output: number of streams on which it still has something, which another scheduler will take over

local LONG_IDLE_MS = 24 * 3600 * 1000
local kept = 0
for i = 1, #KEYS do
  local pending = redis.call('XPENDING', KEYS[i], SCHEDULERS, '-', '+', 1000, ARGV[1])
  if #pending > 0 then
    kept = kept + 1
    for _, entry in ipairs(pending) do
      redis.call('XCLAIM', KEYS[i], SCHEDULERS, ARGV[1], 0, entry[1], 'IDLE', LONG_IDLE_MS, 'JUSTID')
    end
  else
    redis.call('XGROUP', 'DELCONSUMER', KEYS[i], SCHEDULERS, ARGV[1])
  end
end
return kept
