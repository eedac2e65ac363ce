-- claim: the worker that holds an engine says that it runs these attempts.
--
-- KEYS[1] engine row, then for each request: record
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] number of requests
-- then for each: id, attempt, for how long it has run (ms)
-- Output, for each request: 'running' | 'lost' (it is somebody else's now)
--   | 'cancelled' or 'expired' (stop, and finish it so)

local now, engine = clock(ARGV[1]), ARGV[2]
local holds = redis.call('HGET', KEYS[1], 'worker') == ARGV[3]
local results = {}
for i = 1, tonumber(ARGV[4]) do
  local record, attempt = KEYS[1 + i], ARGV[3 + 3 * i]
  local r = redis.call('HMGET', record, 'state', 'engine', 'attempt', 'cancel')
  if not holds or r[2] ~= engine or r[3] ~= attempt or not (r[1] == 'assigned' or r[1] == 'running') then
    results[i] = 'lost'
  else
    redis.call('HSET', record, 'state', 'running', 'started_ms', ms(now - tonumber(ARGV[4 + 3 * i])))
    results[i] = asked_outcome(r[4]) or 'running'
  end
end
return results
