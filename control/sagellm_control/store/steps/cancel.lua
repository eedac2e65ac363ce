-- cancel: a request ends, wherever it is. What runs is stopped by its worker, which then finishes it.
--
-- KEYS[1] record   KEYS[2] body   KEYS[3] output   KEYS[4] waiting   KEYS[5] counters
-- KEYS[6] intake stream of its priority   KEYS[7] assigned stream of its engine (any intake stream where it has none)
-- KEYS[8] room   KEYS[9] backlog   KEYS[10] virtual time   KEYS[11] tenants   KEYS[12] settings
-- ARGV[1] now   ARGV[2] id   ARGV[3] the engine that KEYS[7] belongs to   ARGV[4] outcome: cancelled | expired
-- ARGV[5] payload of the end event; that of 'expired' also says what a busy engine answered
-- ARGV[6] that of one which no scheduler has read yet
-- ARGV[7] '1': only if it waits, has had no engine yet, and none of the pool is READY
-- ARGV[8] the ticket of the submission that is meant; '': any
-- Output: 'unknown' (also where its record says no state that there is: a keeper gives it up) | 'served' (not so: it
--   has or had an engine, or there is one) | 'finished' (it had ended before) | 'ended' (now) | 'stopping' (its worker
--   has been told) | 'moved' (it is on another engine: read the record and call again)

local record, body, output, waiting, counters, intake, assigned = unpack(KEYS, 1, 7)
local now, id = clock(ARGV[1]), ARGV[2]
local r = redis.call('HMGET', record, 'state', 'engine', 'entry', 'attempt', 'cancel', 'priority', 'tenant', 'charge',
  'ticket')
local state = r[1]
if not is_state(state) or (ARGV[8] ~= '' and r[9] ~= ARGV[8]) then return 'unknown' end
if state == 'finished' then return 'finished' end
local unserved = (state == 'queued' or state == 'waiting') and is_untried(r[4])
if ARGV[7] == '1' and (redis.call('ZCARD', KEYS[8]) > 0 or not unserved) then return 'served' end
if state == 'queued' then
  if r[3] then  -- none where somebody has damaged its pool while it was accepted
    redis.call('XACK', intake, SCHEDULERS, r[3])
    redis.call('XDEL', intake, r[3])
  end
elseif state == 'waiting' then
  redis.call('ZREM', waiting, id)
else
  if r[2] ~= ARGV[3] then return 'moved' end
  if not r[5] then
    redis.call('HSET', record, 'cancel', ARGV[4])
    redis.call('XADD', assigned, '*', 'id', id, 'attempt', r[4], 'cancel', ARGV[4])
  end
  return 'stopping'
end
leave_queue(now, {priority = r[6], tenant = r[7], charge = r[8]}, record, body, KEYS[9], KEYS[10], KEYS[11], KEYS[12])
local attempt, sequence = next_position(output, r[4] or 0)
local payload = state == 'queued' and ARGV[6] or ARGV[5]
if ARGV[4] == 'expired' then payload = with_busy(record, payload) end
end_request(now, record, body, output, counters, id, attempt, sequence, ARGV[4], payload)
write_backlog(KEYS[9])
write_virtual_time()
send_published()
return 'ended'
