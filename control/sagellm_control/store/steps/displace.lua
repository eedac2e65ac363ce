-- displace: the least urgent requests that wait make place for a more urgent one, and get their refusal.
--
-- KEYS[1] waiting   KEYS[2] counters   KEYS[3] backlog   KEYS[4] virtual time   KEYS[5] tenants   KEYS[6] settings
-- then for each candidate: record, body, output
-- ARGV[1] now   ARGV[2] priority of the one that wants the place   ARGV[3] payload of the end event "displaced"
-- ARGV[4] name of the call   ARGV[5] bytes that are wanted, besides a place
-- ARGV[6] number of candidates, the last in line first, then their ids
-- Output: the ids of those that went, in this call or before (its reply was lost); none where all that are less urgent
--   would not make place enough: nobody goes in vain

local waiting, counters = KEYS[1], KEYS[2]
local now, priority, wanted = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[5])
local able, gone = {}, {}
for i = 1, tonumber(ARGV[6]) do
  local record, body = KEYS[4 + 3 * i], KEYS[5 + 3 * i]
  local known = read_record(record)
  known.number, known.class = i, number(known.priority, 0)
  if known.state == 'finished' and redis.call('HGET', record, 'displaced_by') == ARGV[4] then
    gone[#gone + 1] = ARGV[6 + i]
  elseif known.state == 'waiting' and is_untried(known.attempt) and known.class > priority then
    known.bytes = body_length(body)
    able[#able + 1] = known
  end
end
if #gone > 0 then return gone end

table.sort(able, function(a, b)
  if a.class ~= b.class then return a.class > b.class end
  return a.number < b.number
end)
local chosen, bytes = {}, 0
for _, known in ipairs(able) do
  chosen[#chosen + 1] = known
  bytes = bytes + known.bytes
  if bytes >= wanted then break end
end
if bytes < wanted then return {} end
for j = #chosen, 1, -1 do
  local known = chosen[j]
  -- One that is spared after all, as longer ones came after it.
  if #chosen > 1 and bytes - known.bytes >= wanted then
    bytes = bytes - known.bytes
    table.remove(chosen, j)
  end
end
for j, known in ipairs(chosen) do
  local record, body, output = unpack(KEYS, 4 + 3 * known.number, 6 + 3 * known.number)
  local id = ARGV[6 + known.number]
  redis.call('ZREM', waiting, id)
  leave_queue(now, known, record, body, KEYS[3], KEYS[4], KEYS[5], KEYS[6])
  local attempt, sequence = next_position(output, known.attempt)
  end_request(now, record, body, output, counters, id, attempt, sequence, 'rejected', ARGV[3])
  redis.call('HSET', record, 'displaced_by', ARGV[4])
  increase(counters, 'displaced', 1)
  gone[j] = id
end
send_published()
write_backlog(KEYS[3])
write_virtual_time()
return gone
