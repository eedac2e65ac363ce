-- condemn: a waiting request whose record cannot be read is given up, so that it stands in nobody's way.
--
-- KEYS[1] record   KEYS[2] body   KEYS[3] output   KEYS[4] waiting   KEYS[5] counters   KEYS[6] dead   KEYS[7] backlog
-- KEYS[8] virtual time   KEYS[9] tenants   KEYS[10] settings
-- ARGV[1] now   ARGV[2] id   ARGV[3] why   ARGV[4] payload of the end event "dead"
-- Output: 'dead' | 'gone': it does not wait, or has no record, or that says no state (a keeper gives it up)

local record, body, output, waiting, counters, dead, backlog = unpack(KEYS, 1, 7)
local now, id = clock(ARGV[1]), ARGV[2]
if redis.call('ZREM', waiting, id) == 0 then return 'gone' end
local known = read_record(record)
if not known.state then forget_lost(record, body, output, counters) end
if not known.state or known.state == 'finished' then return 'gone' end
bury_request(dead, record, body, id, ARGV[3])
known.priority = known.priority or ''
leave_queue(now, known, record, body, backlog, KEYS[8], KEYS[9], KEYS[10])
local attempt, sequence = next_position(output, known.attempt)
end_request(now, record, body, output, counters, id, attempt, sequence, 'dead', ARGV[4])
write_backlog(backlog)
write_virtual_time()
send_published()
return 'dead'
