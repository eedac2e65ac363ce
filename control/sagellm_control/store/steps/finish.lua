-- finish: attempts end with the one outcome of their request; their places are free again and the schedulers know.
--
-- KEYS[1] engine row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] counters, then for each request: record, body, output
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] number of requests
-- then for each: id, attempt, sequence, outcome, payload of the end event
-- Output, for each request: 'ok' (also where it was finished by this very attempt before) | 'lost'

local row, reservations, assigned, room, waiting, freed, counters = unpack(KEYS, 1, 7)
local now, engine = clock(ARGV[1]), ARGV[2]
local holds = redis.call('HGET', row, 'worker') == ARGV[3]
local results = {}
for i = 1, tonumber(ARGV[4]) do
  local record, body, output = unpack(KEYS, 5 + 3 * i, 7 + 3 * i)
  local id, attempt, sequence, outcome, payload = unpack(ARGV, 5 * i, 5 * i + 4)
  local r = redis.call('HMGET', record, 'state', 'engine', 'attempt', 'entry')
  if not holds or r[2] ~= engine or r[3] ~= attempt then
    results[i] = 'lost'
  elseif r[1] == 'finished' then
    results[i] = 'ok'
  elseif r[1] == 'running' or r[1] == 'assigned' then
    release(id, r[4], reservations, assigned)
    end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
    results[i] = 'ok'
  else
    results[i] = 'lost'
  end
end
announce(freed, waiting, engine, note_room(room, engine, row, reservations))
send_published()
return results
