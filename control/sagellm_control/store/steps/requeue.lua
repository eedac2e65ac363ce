-- requeue: attempts that did not work out go back to the waiting set at their old rank, or end.
--
-- KEYS[1] engine row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] counters   KEYS[8] dead   KEYS[9] backlog   KEYS[10] settings   KEYS[11] misranked
-- then for each request: record, body, output
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session ('': the engine's lease has lapsed)
-- ARGV[4] most failures   ARGV[5] most lapses   ARGV[6] payload of the end event "cancelled"
-- ARGV[7] … "expired"   ARGV[8] … "dead"   ARGV[9] … "cut off in the middle"   ARGV[10] number of requests
-- then for each: id, attempt ('': the current one), cause, payload of the end event "failed"
--   cause: 'failed' (counts as a failure, the engine is excluded) | 'lapsed' (counts as a lapse, the engine is
--   excluded) | 'returned' (given back untouched: counts as nothing)
-- Output, for each request: 'waiting' | 'lost' | the outcome with which it ended

local row, reservations, assigned, room, waiting, freed, counters, dead = unpack(KEYS, 1, 8)
local epoch = redis.call('HGET', KEYS[10], 'epoch')
local now, engine = clock(ARGV[1]), ARGV[2]
local most_failures, most_lapses = tonumber(ARGV[4]), tonumber(ARGV[5])
local holds = (redis.call('HGET', row, 'worker') or '') == ARGV[3]
local results = {}
for i = 1, tonumber(ARGV[10]) do
  local record, body, output = unpack(KEYS, 9 + 3 * i, 11 + 3 * i)
  local id, attempt, cause, failed_payload = unpack(ARGV, 7 + 4 * i, 10 + 4 * i)
  local r = redis.call('HMGET', record, 'state', 'engine', 'attempt', 'entry', 'cancel', 'arrived_ms', 'timeout_ms',
    'rank', 'excluded', 'priority', 'tenant', 'epoch', 'start')
  if not holds or r[2] ~= engine or (attempt ~= '' and r[3] ~= attempt)
    or not (r[1] == 'running' or r[1] == 'assigned') then
    -- A reservation without a living request is a leak: whoever holds the engine may drop it.
    if holds and (not r[1] or r[1] == 'finished') then release(id, nil, row, reservations, assigned) end
    results[i] = 'lost'
  else
    release(id, r[4], row, reservations, assigned)
    local failures = redis.call('HINCRBY', record, 'failures', cause == 'failed' and 1 or 0)
    local lapses = redis.call('HINCRBY', record, 'lapses', cause == 'lapsed' and 1 or 0)
    local outcome, payload
    if r[5] then outcome, payload = r[5], r[5] == 'expired' and ARGV[7] or ARGV[6]
    elseif expired(now, r[6], r[7]) then outcome, payload = 'expired', ARGV[7]
    elseif lapses >= most_lapses and cause == 'lapsed' then outcome, payload = 'dead', ARGV[8]
    elseif redis.call('EXISTS', output) == 1 then
      outcome, payload = 'failed', cause == 'failed' and failed_payload or ARGV[9]
    elseif failures >= most_failures and cause == 'failed' then outcome, payload = 'failed', failed_payload
    end
    if outcome then
      if outcome == 'dead' then
        redis.call('XADD', dead, 'MAXLEN', '~', 10000, '*', 'reason', 'its worker died ' .. lapses .. ' times',
          'request', id, 'body', redis.call('GET', body) or '')
      end
      local major, minor = next_position(output, r[3])
      end_request(now, record, body, output, counters, id, major, minor, outcome, payload)
      results[i] = outcome
    else
      redis.call('HSET', record, 'state', 'waiting')
      redis.call('HDEL', record, 'engine', 'entry')
      if cause ~= 'returned' and not string.find(' ' .. (r[9] or '') .. ' ', ' ' .. engine .. ' ', 1, true) then
        redis.call('HSET', record, 'excluded', r[9] and (r[9] .. ' ' .. engine) or engine)
      end
      redis.call('ZADD', waiting, r[8], id)
      count_waiting(1, r[10], r[11], redis.call('STRLEN', body))
      if r[13] then count_ranked(1, r[11] or '') end
      -- Its rank is of a policy that holds no longer: a scheduler will give it a new one.
      if epoch and r[12] ~= epoch then redis.call('SADD', KEYS[11], id) end
      redis.call('HINCRBY', counters, 'requeued', 1)
      results[i] = 'waiting'
    end
  end
end
write_backlog(KEYS[9])
note_room(now, room, engine, row, reservations)
-- Any engine with room may take what came back, not only this one.
local open = redis.call('ZREVRANGEBYSCORE', room, '+inf', 1, 'WITHSCORES', 'LIMIT', 0, 1)
if open[1] then announce(freed, waiting, open[1], tonumber(open[2])) end
send_published()
return results
