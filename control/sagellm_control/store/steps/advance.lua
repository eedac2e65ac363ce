-- advance: requests whose prompt an engine has read go back to the waiting set at their old rank, for an engine that
-- answers them.
--
-- KEYS[1] engine row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] counters   KEYS[8] backlog   KEYS[9] settings   KEYS[10] misranked
-- then for each request: record, body, output
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] payload of the end event "cancelled"
-- ARGV[5] … "expired"   ARGV[6] number of requests, then for each: id, attempt, what the answering engine has to know
-- Output, for each request: 'waiting' (also where this very attempt had advanced it before) | 'lost'
--   | 'cancelled' or 'expired' (it ended so)

local row, reservations, assigned, room, waiting, freed, counters = unpack(KEYS, 1, 7)
local epoch = redis.call('HGET', KEYS[9], 'epoch')
local now, engine = clock(ARGV[1]), ARGV[2]
local holds = redis.call('HGET', row, 'worker') == ARGV[3]
local results = {}
local FIELDS = {'state', 'engine', 'attempt', 'entry', 'cancel', 'arrived_ms', 'timeout_ms', 'rank',
  'priority', 'tenant', 'epoch', 'start', 'stage', 'charge'}
for i = 1, tonumber(ARGV[6]) do
  local record, body, output = unpack(KEYS, 8 + 3 * i, 10 + 3 * i)
  local id, attempt, transfer = unpack(ARGV, 4 + 3 * i, 6 + 3 * i)
  local r = read_named(record, FIELDS)
  if holds and r.state == 'waiting' and r.attempt == attempt and r.stage == 'decode' then
    results[i] = 'waiting'
  elseif not holds or r.engine ~= engine or r.attempt ~= attempt
    or not (r.state == 'running' or r.state == 'assigned') then
    results[i] = 'lost'
  else
    release(id, r.entry, row, reservations, assigned)
    local outcome, payload = asked_outcome(r.cancel)
    if outcome then payload = outcome == 'expired' and ARGV[5] or ARGV[4]
    elseif expired(now, r.arrived_ms, r.timeout_ms) then outcome, payload = 'expired', ARGV[5] end
    if outcome then
      local major, minor = next_position(output, attempt)
      end_request(now, record, body, output, counters, id, major, minor, outcome, payload)
      results[i] = outcome
    else
      redis.call('HSET', record, 'stage', 'decode', 'transfer', transfer, 'prefilled_ms', ms(now))
      wait_again(now, id, record, body, r, waiting, epoch, KEYS[10])
      increase(counters, 'prefilled', 1)
      results[i] = 'waiting'
    end
  end
end
write_backlog(KEYS[8])
note_room(now, room, engine, row, reservations)
announce_any(freed, waiting, room)
send_published()
return results
