-- append: output of current attempts is logged and published; output of any other attempt is refused.
--
-- KEYS[1] engine row, then for each request: record, output
-- ARGV[1] engine id   ARGV[2] worker session   ARGV[3] number of requests
-- then for each: id, attempt, sequence, payload
-- Output, for each request: 'ok' (also where this very event is in the log already) | 'lost'

local engine = ARGV[1]
local holds = redis.call('HGET', KEYS[1], 'worker') == ARGV[2]
local results = {}
for i = 1, tonumber(ARGV[3]) do
  local record, output = KEYS[2 * i], KEYS[2 * i + 1]
  local id, attempt, sequence, payload = unpack(ARGV, 4 * i, 4 * i + 3)
  local r = redis.call('HMGET', record, 'state', 'engine', 'attempt', 'inbox', 'assigned_ms')
  if not holds or r[2] ~= engine or r[3] ~= attempt or not (r[1] == 'running' or r[1] == 'assigned') then
    results[i] = 'lost'
  else
    -- It spoke before its claim came, which will say more exactly when it began.
    if r[1] == 'assigned' then redis.call('HSET', record, 'state', 'running', 'started_ms', r[5]) end
    -- An id that is not above the last one is an append whose reply was lost, sent again.
    local added = redis.pcall('XADD', output, attempt .. '-' .. sequence, 'type', 'chunk', 'payload', payload)
    if type(added) == 'table' and added.err then
      if not string.find(added.err, 'equal or smaller', 1, true) then return added end
    else
      publish(r[4], id, attempt, sequence, 'chunk', payload)
    end
    results[i] = 'ok'
  end
end
send_published()
return results
