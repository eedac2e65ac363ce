-- requeue: attempts that did not work out go back to the waiting set at their old rank, or end.
--
-- KEYS[1] engine row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] counters   KEYS[8] dead   KEYS[9] retries   KEYS[10] backlog   KEYS[11] settings   KEYS[12] misranked
-- then for each request: record, body, output
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session ('': the engine's lease has lapsed)
-- ARGV[4] most failures   ARGV[5] most lapses, where the settings say nothing else (max_lapses)
-- ARGV[6] payload of the end event "cancelled"
-- ARGV[7] … "expired"   ARGV[8] … "dead"   ARGV[9] … "cut off in the middle"
-- ARGV[10] retries allowed for each request that was accepted of late   ARGV[11] and retries on top of that, in a
--   window of 10 s (no fewer than the engine has slots; 0: none)   ARGV[12] for how long (ms) a request waits for busy
--   engines, from the first that was   ARGV[13] number of requests
-- then for each: id, attempt ('': the current one), cause, payload of the end event "failed", what the history says
--   instead of its message ('': the message)
--   cause: 'failed' (counts as a failure, the engine is excluded: the last of those) | 'lapsed' (counts as a lapse: the
--   first is the worker's, from the second on the engine is excluded) | 'busy' (the engine asked for a pause: counts as
--   nothing at first, and as 'failed' when the request has waited for long enough) | 'returned' (given back untouched:
--   counts as nothing) | 'stale' (what another engine has read of it is of no use any more: counts as nothing)
-- Output, for each request: 'waiting' | 'lost' | the outcome with which it ended
--
-- One that has given output goes back only if its record says that another attempt may continue it. The field
-- `after` then tells the next worker how far its client is. What was prefilled elsewhere is prefilled again, unless it
-- was given back untouched or its engine was busy.

local RETRY_WINDOW_MS = 10000

local row, reservations, assigned, room, waiting, freed, counters, dead, retries = unpack(KEYS, 1, 9)
local epoch, set_lapses = unpack(redis.call('HMGET', KEYS[11], 'epoch', 'max_lapses'))
local now, engine, busy_patience = clock(ARGV[1]), ARGV[2], tonumber(ARGV[12])
local most_failures, most_lapses = tonumber(ARGV[4]), number(set_lapses, tonumber(ARGV[5]))
local holds = (redis.call('HGET', row, 'worker') or '') == ARGV[3]
local results = {}
local FIELDS = {'state', 'engine', 'attempt', 'entry', 'cancel', 'arrived_ms', 'timeout_ms', 'rank', 'excluded',
  'priority', 'tenant', 'epoch', 'start', 'continue', 'stage', 'charge'}

-- Whether one more retry fits the budget: a pool whose engines all fail must not spend itself on repetitions. What a
-- lost worker held is not asked about: a crash is no failure. Recent is what this window and the one before accepted.
local function retry_allowed()
  local r = redis.call('HMGET', retries, 'since_ms', 'accepted', 'accepted_before', 'count')
  local accepted = tonumber(redis.call('HGET', counters, 'accepted') or 0)
  local since, began_with = tonumber(r[1] or 0), tonumber(r[2] or 0)
  local before, count = tonumber(r[3] or 0), tonumber(r[4] or 0)
  if now - since >= RETRY_WINDOW_MS then
    before = now - since < 2 * RETRY_WINDOW_MS and began_with or accepted
    since, began_with, count = now, accepted, 0
  end
  local floor = tonumber(ARGV[11])
  if floor > 0 then floor = math.max(floor, tonumber(redis.call('HGET', row, 'slots') or 0)) end
  if count >= floor + tonumber(ARGV[10]) * (accepted - before) then
    increase(counters, 'retries_refused', 1)
    return false
  end
  redis.call('HSET', retries, 'since_ms', ms(since), 'accepted', began_with, 'accepted_before', before,
    'count', count + 1)
  redis.call('PEXPIRE', retries, 3 * RETRY_WINDOW_MS)
  return true
end

-- A queue is for waiting for what is busy for a moment. What stays busy has failed; else a client would wait until its
-- timeout for a quota that is used up, and never hear why. Notes since when, and what the engine said.
local function judge_busy(record, payload)
  local since = number(redis.call('HGET', record, 'busy_ms'), now)
  local ok, ending = pcall(cjson.decode, (string.match(payload, '^[^\n]*')))
  local status = ok and type(ending) == 'table' and ending.code == 'engine_error' and ending.status
  redis.call('HSET', record, 'busy_ms', ms(since), unpack(status and {'busy_status', status} or {}))
  return now - since >= busy_patience and 'failed' or 'busy'
end

for i = 1, tonumber(ARGV[13]) do
  local record, body, output = unpack(KEYS, 10 + 3 * i, 12 + 3 * i)
  local id, attempt, cause, failed_payload, reason = unpack(ARGV, 9 + 5 * i, 13 + 5 * i)
  local r = read_named(record, FIELDS)
  if not holds or r.engine ~= engine or (attempt ~= '' and r.attempt ~= attempt)
    or not (r.state == 'running' or r.state == 'assigned') then
    -- A reservation without a living request is a leak: whoever holds the engine may drop it.
    if holds and (not is_state(r.state) or r.state == 'finished') and redis.call('HEXISTS', reservations, id) == 1 then
      release(id, r.engine == engine and r.entry, row, reservations, assigned)
      if not r.state then forget_lost(record, body, output, counters) end
    end
    results[i] = 'lost'
  else
    release(id, r.entry, row, reservations, assigned)
    if cause == 'busy' then cause = judge_busy(record, failed_payload) end
    local failures = increase(record, 'failures', cause == 'failed' and 1 or 0)
    local lapses = increase(record, 'lapses', cause == 'lapsed' and 1 or 0)
    if cause == 'failed' or cause == 'lapsed' then
      note_error(record, r.attempt, engine, cause == 'failed' and failed_payload or 'its worker was lost', reason)
    end
    local last = redis.call('XREVRANGE', output, '+', '-', 'COUNT', 1)[1]
    local outcome, payload = asked_outcome(r.cancel)
    if outcome then payload = outcome == 'expired' and with_busy(record, ARGV[7]) or ARGV[6]
    elseif expired(now, r.arrived_ms, r.timeout_ms) then outcome, payload = 'expired', with_busy(record, ARGV[7])
    elseif lapses >= most_lapses and cause == 'lapsed' then outcome, payload = 'dead', ARGV[8]
    elseif last and not r.continue then
      outcome, payload = 'failed', (cause == 'failed' or cause == 'busy') and failed_payload or ARGV[9]
    elseif cause == 'failed' and (failures >= most_failures or not retry_allowed()) then
      outcome, payload = 'failed', failed_payload
    end
    if outcome then
      if outcome == 'dead' then
        bury_request(dead, record, body, id, 'its worker died ' .. lapses .. ' times')
      end
      local major, minor = next_position(output, r.attempt)
      end_request(now, record, body, output, counters, id, major, minor, outcome, payload)
      results[i] = outcome
    else
      wait_again(now, id, record, body, r, waiting, epoch, KEYS[12])
      if r.stage == 'decode' and (last or not (cause == 'returned' or cause == 'busy')) then
        redis.call('HDEL', record, 'stage', 'transfer', 'prefilled_ms')
      end
      if last then redis.call('HSET', record, 'after', last[1]) end
      -- A worker that is lost takes along what all of its engines run. Each of those is as good as before once there is
      -- a worker again, and what it held would wait behind what came later for others to have room.
      if cause == 'failed' or (cause == 'lapsed' and lapses > 1) then exclude(now, record, r.excluded, engine) end
      increase(counters, 'requeued', 1)
      results[i] = 'waiting'
    end
  end
end
write_backlog(KEYS[10])
note_room(now, room, engine, row, reservations)
announce_any(freed, waiting, room)
send_published()
return results
