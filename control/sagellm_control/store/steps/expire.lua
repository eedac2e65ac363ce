-- expire: requests that have waited for as long as they may wait end: for as long as their class may, or until they
-- can meet their objective no more and are not to be served late.
--
-- KEYS[1] waiting   KEYS[2] expiries   KEYS[3] counters   KEYS[4] backlog   KEYS[5] virtual time   KEYS[6] tenants
-- KEYS[7] settings, then for each request: record, body, output
-- ARGV[1] now   ARGV[2] payload of the end event "expired"   ARGV[3] … "refused": it would come too late
-- ARGV[4] number of requests, then their ids
-- Output: {how many have waited for as long as their class may, how many were refused}; the others do not wait any
--   more, or not long enough, or may be served late by now

local waiting, expiries, counters = KEYS[1], KEYS[2], KEYS[3]
local now, ended, refused = clock(ARGV[1]), 0, 0
local none_late = redis.call('HGET', KEYS[7], 'late') == 'refuse'

local function end_waiting(id, known, record, body, output, outcome, payload)
  redis.call('ZREM', waiting, id)
  leave_queue(now, known, record, body, KEYS[4], KEYS[5], KEYS[6], KEYS[7])
  local attempt, sequence = next_position(output, known.attempt)
  end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
end

for i = 1, tonumber(ARGV[4]) do
  local id = ARGV[4 + i]
  local record, body, output = unpack(KEYS, 5 + 3 * i, 7 + 3 * i)
  local due = tonumber(redis.call('ZSCORE', expiries, id) or now + 1)
  if due <= now then
    redis.call('ZREM', expiries, id)
    local known = read_record(record)
    if known.state == 'waiting' and is_untried(known.attempt) then
      local limits = redis.call('HMGET', record, 'queue_ttl_ms', 'reject_late', 'slo_ms')
      local ttl = number(limits[1], 0)
      local class_ends = ttl > 0 and tonumber(known.arrived_ms) + ttl
      -- The moment tells what it is: limits are whole ms from accept, and what ends earlier than its class is late.
      if class_ends and due > class_ends - 0.5 then
        end_waiting(id, known, record, body, output, 'expired', ARGV[2])
        ended = ended + 1
      elseif none_late or limits[2] == '1' then
        end_waiting(id, known, record, body, output, 'rejected', ARGV[3])
        if limits[3] then increase(counters, 'slo_missed', 1) end
        refused = refused + 1
      elseif class_ends then
        redis.call('ZADD', expiries, ms(class_ends), id)
      end
    end
  end
end
send_published()
write_backlog(KEYS[4])
write_virtual_time()
return {ended, refused}
