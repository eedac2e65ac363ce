-- expire: requests that have waited for as long as their class may wait end.
--
-- KEYS[1] waiting   KEYS[2] expiries   KEYS[3] counters   KEYS[4] backlog   KEYS[5] virtual time   KEYS[6] tenants
-- then for each request: record, body, output
-- ARGV[1] now   ARGV[2] payload of the end event "expired"   ARGV[3] number of requests, then their ids
-- Output: how many ended; the others do not wait any more, or not long enough

local waiting, expiries, counters = KEYS[1], KEYS[2], KEYS[3]
local now, ended = clock(ARGV[1]), 0
for i = 1, tonumber(ARGV[3]) do
  local id = ARGV[3 + i]
  local record, body, output = unpack(KEYS, 4 + 3 * i, 6 + 3 * i)
  local due = tonumber(redis.call('ZSCORE', expiries, id) or now + 1)
  if due <= now then
    redis.call('ZREM', expiries, id)
    -- One that has been tried before waits for another try, and not for its turn.
    local known = read_record(record)
    if known.state == 'waiting' and tonumber(known.attempt) == 0 then
      redis.call('ZREM', waiting, id)
      leave_queue(now, known, body, KEYS[4], KEYS[5], KEYS[6])
      local attempt, sequence = next_position(output, known.attempt)
      end_request(now, record, body, output, counters, id, attempt, sequence, 'expired', ARGV[2])
      ended = ended + 1
    end
  end
end
send_published()
write_backlog(KEYS[4])
write_virtual_time()
return ended
