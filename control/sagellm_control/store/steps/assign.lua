-- assign: waiting requests go to engines, in the order of their ranks. The scheduler decided on a snapshot; here
-- each decision is checked against what is true now, and the first that no longer holds ends the call.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4] freed   KEYS[5] backlog   KEYS[6] virtual time
-- KEYS[7] tenants   KEYS[8] placements   KEYS[9] settings
-- then for each engine: row, reservations, assigned; then for each request: record, body, output
-- ARGV[1] now   ARGV[2] bodies up to so many bytes travel along   ARGV[3] payload of the end event "expired"
-- ARGV[4] payload of the end event "refused": it would come too late   ARGV[5] … "shed": the pool is overloaded
-- ARGV[6] name of the placement   ARGV[7] '1': it wants to know who was given which prefixes
-- ARGV[8] how many at the head the scheduler has passed before, as no engine that they may use has room
-- ARGV[9] number of freed entries that this call settles, then their ids
-- then the number of engines and their ids; then the number of requests, and for each:
--   id, attempts so far, and one of
--     number of the chosen engine, KV tokens, uncached prompt tokens
--     'pass', 0, 0: no engine that it may use has room, or it waits for a better one
--     'late', its new rank, since when (ms): it steps behind those that can still be served in time
--     'refuse', 0, since when (ms): it can no longer be served in time, and was not to be served late
--     'shed', 0, since when (ms): it has waited for too long in an overloaded pool
--   and the stage that it was in when that was decided ('': not begun)
-- Output: {for each request until the first stale one 'assigned' | 'gone' | 'expired' | 'passed' | 'late' | 'refused'
--   | 'shed' | 'stale'}, {free places of each engine}, number waiting, number of engines with room, {what else bounds
--   engines, see write_places}

local waiting, room, counters, freed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = clock(ARGV[1])
begin_assigning(now, tonumber(ARGV[2]), ARGV[6], ARGV[7])
local settled = tonumber(ARGV[9])
if settled > 0 then
  redis.call('XACK', freed, SCHEDULERS, unpack(ARGV, 10, 9 + settled))
  redis.call('XDEL', freed, unpack(ARGV, 10, 9 + settled))
end
local engines_at = 10 + settled
local engines = tonumber(ARGV[engines_at])
local requests_at = engines_at + engines + 1
local request_keys = 9 + 3 * engines
local FIELDS, NOTHING = 6, {}

local function end_waiting(id, known, record, body, output, outcome, payload)
  redis.call('ZREM', waiting, id)
  leave_queue(now, known, record, body, KEYS[5], KEYS[6], KEYS[7], KEYS[9])
  local attempt, sequence = next_position(output, known.attempt)
  end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
end

local results, passed = {}, tonumber(ARGV[8])
for i = 1, tonumber(ARGV[requests_at]) do
  local at = requests_at + FIELDS * (i - 1) + 1
  local id, attempts, verdict = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local record, body, output = unpack(KEYS, request_keys + 3 * i - 2, request_keys + 3 * i)
  local place = redis.call('ZRANK', waiting, id)
  local result
  if not place then
    result = 'gone'
  elseif place > passed then
    result = 'stale'  -- a more urgent one came in between
  else
    local known = read_record(record)
    if known.state ~= 'waiting' then
      redis.call('ZREM', waiting, id)
      if not known.state then forget_lost(record, body, output, counters) end
      result = 'gone'
    elseif known.timeout_at and now >= known.timeout_at then
      end_waiting(id, known, record, body, output, 'expired', ARGV[3])
      result = 'expired'
    elseif tonumber(known.attempt) ~= attempts or (known.stage or '') ~= ARGV[at + 5] then
      result = 'stale'  -- an attempt has ended since: it may exclude other engines now, or need another kind of them
    elseif verdict == 'pass' then
      passed = passed + 1
      result = 'passed'
    elseif verdict == 'late' then
      if known.late or now < tonumber(ARGV[at + 4]) then
        result = 'stale'
      else
        redis.call('ZADD', waiting, ARGV[at + 3], id)
        redis.call('HSET', record, 'rank', ARGV[at + 3], 'late', '1')
        result = 'late'
      end
    elseif verdict == 'refuse' or verdict == 'shed' then
      if now < tonumber(ARGV[at + 4]) then
        result = 'stale'
      else
        end_waiting(id, known, record, body, output, 'rejected',
          verdict == 'shed' and ARGV[5] or ARGV[4])
        if verdict == 'refuse' and redis.call('HEXISTS', record, 'slo_ms') == 1 then
          increase(counters, 'slo_missed', 1)
        end
        result = verdict == 'shed' and 'shed' or 'refused'
      end
    else
      local choice, kv, uncached = tonumber(verdict), tonumber(ARGV[at + 3]), ARGV[at + 4]
      local engine = look_at(choice, ARGV[engines_at + choice], unpack(KEYS, 9 + 3 * choice - 2, 9 + 3 * choice))
      if has_room_for(now, engine, kv) then
        redis.call('ZREM', waiting, id)
        if known.start then
          known.outdated = is_outdated(record, KEYS[9])
          if not known.outdated then read_virtual_time(now, KEYS[6], KEYS[7], KEYS[5]) end
        end
        local bytes = assign_to(id, record, body, known, engine, nil, kv, uncached, NOTHING)
        count_waiting(-1, known.priority, known.tenant, bytes)
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
write_backlog(KEYS[5])
write_virtual_time()
write_placed(KEYS[8])
local places, bounds = write_places(now, room, engines)
return {results, places, redis.call('ZCARD', waiting), redis.call('ZCOUNT', room, 1, '+inf'), bounds}
