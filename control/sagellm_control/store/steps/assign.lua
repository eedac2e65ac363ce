-- assign: waiting requests go to engines, in the order of their ranks. The scheduler decided on a snapshot; here
-- each decision is checked against what is true now, and the first that no longer holds ends the call.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4] freed
-- then for each engine: row, reservations, assigned; then for each request: record, body, output
-- ARGV[1] now   ARGV[2] bodies up to so many bytes travel along   ARGV[3] payload of the end event "expired"
-- ARGV[4] how many at the head the scheduler has passed before, as no engine that they may use has room
-- ARGV[5] number of freed entries that this call settles, then their ids
-- then the number of engines and their ids; then the number of requests, and for each:
--   id, attempts so far, number of the chosen engine (0: no engine that it may use has room)
-- Output: {for each request until the first stale one 'assigned' | 'gone' | 'expired' | 'passed' | 'stale'},
--   {places left, per engine; -1: not looked at}, number waiting, number of engines with room

local waiting, room, counters, freed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, inline_bytes = clock(ARGV[1]), tonumber(ARGV[2])
local settled = tonumber(ARGV[5])
if settled > 0 then
  redis.call('XACK', freed, SCHEDULERS, unpack(ARGV, 6, 5 + settled))
  redis.call('XDEL', freed, unpack(ARGV, 6, 5 + settled))
end
local engines_at = 6 + settled
local engines = tonumber(ARGV[engines_at])
local requests_at = engines_at + engines + 1
local request_keys = 4 + 3 * engines

local results, passed = {}, tonumber(ARGV[4])
for i = 1, tonumber(ARGV[requests_at]) do
  local at = requests_at + 3 * i - 2
  local id, attempts, choice = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local record, body, output = unpack(KEYS, request_keys + 3 * i - 2, request_keys + 3 * i)
  local place = redis.call('ZRANK', waiting, id)
  local result
  if not place then
    result = 'gone'
  elseif place > passed then
    result = 'stale'  -- a more urgent one came in between
  else
    local known = read_record(record)
    if not known.state then
      redis.call('ZREM', waiting, id)
      result = 'gone'
    elseif expired(now, known.arrived_ms, known.timeout_ms) then
      redis.call('ZREM', waiting, id)
      local attempt, sequence = next_position(output, known.attempt)
      end_request(now, record, body, output, counters, id, attempt, sequence, 'expired', ARGV[3])
      result = 'expired'
    elseif tonumber(known.attempt) ~= attempts then
      result = 'stale'  -- an attempt has failed since: it may exclude other engines now
    elseif choice == 0 then
      passed = passed + 1
      result = 'passed'
    else
      local engine = look_at(choice, ARGV[engines_at + choice], unpack(KEYS, 4 + 3 * choice - 2, 4 + 3 * choice))
      if (engine.free or 0) > 0 then
        redis.call('ZREM', waiting, id)
        assign_to(now, id, record, body, known, engine, nil, inline_bytes)
        result = 'assigned'
      else
        result = 'stale'  -- another scheduler filled that engine, or its note in the room was wrong
      end
    end
  end
  results[i] = result
  if result == 'stale' then break end
end
send_published()
local places = write_places(room, engines)
return {results, places, redis.call('ZCARD', waiting), redis.call('ZCOUNT', room, 1, '+inf')}
