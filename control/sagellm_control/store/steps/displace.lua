-- displace: the least urgent request that waits makes place for a more urgent one, and gets its refusal.
--
-- KEYS[1] waiting   KEYS[2] counters   KEYS[3] backlog   KEYS[4] virtual time   KEYS[5] tenants
-- then for each candidate: record, body, output
-- ARGV[1] now   ARGV[2] priority of the one that wants the place   ARGV[3] payload of the end event "displaced"
-- ARGV[4] name of the call   ARGV[5] bytes that are wanted of its body, so that nobody goes in vain
-- ARGV[6] number of candidates, the last in line first, then their ids
-- Output: the id of the one that went, in this call or before (its reply was lost); false: none of them is less urgent

local waiting, counters = KEYS[1], KEYS[2]
local now, priority = clock(ARGV[1]), tonumber(ARGV[2])
local least, least_known
for i = 1, tonumber(ARGV[6]) do
  local known = read_record(KEYS[3 + 3 * i])
  if known.state == 'finished' and redis.call('HGET', KEYS[3 + 3 * i], 'displaced_by') == ARGV[4] then
    return ARGV[6 + i]
  end
  if known.state == 'waiting' and is_untried(known.attempt) and tonumber(known.priority) > priority
    and (not least or tonumber(known.priority) > tonumber(least_known.priority))
    and body_length(KEYS[4 + 3 * i]) >= tonumber(ARGV[5]) then
    least, least_known = i, known
  end
end
if not least then return false end
local id = ARGV[6 + least]
local record, body, output = unpack(KEYS, 3 + 3 * least, 5 + 3 * least)
redis.call('ZREM', waiting, id)
leave_queue(now, least_known, body, KEYS[3], KEYS[4], KEYS[5])
local attempt, sequence = next_position(output, least_known.attempt)
end_request(now, record, body, output, counters, id, attempt, sequence, 'rejected', ARGV[3])
redis.call('HSET', record, 'displaced_by', ARGV[4])
increase(counters, 'displaced', 1)
send_published()
write_backlog(KEYS[3])
write_virtual_time()
return id
