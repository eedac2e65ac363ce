-- renew: an engine's lease is prolonged, if this worker still owns it.
--
-- KEYS[1] row   KEYS[2] reservations   KEYS[3] room   KEYS[4] waiting   KEYS[5] freed   KEYS[6] leases
-- then for each request that the worker runs: record
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] lease (ms)   ARGV[5] state
-- ARGV[6] reason   ARGV[7] number of requests, then for each: id, attempt; then fields of the row, those that change
--   by themselves or, if the engine has become another, all, and their values
-- Output: false (the lease is lost: stop everything) | {drain asked for (0|1), then for each request
--   'running' | 'lost' | 'cancelled' or 'expired' (stop, and finish it so)}

local row, reservations, room, waiting, freed, leases = unpack(KEYS, 1, 6)
local now, engine = clock(ARGV[1]), ARGV[2]
local r = redis.call('HMGET', row, 'worker', 'state', 'drain', 'seen_ms', 'paced_until_ms')
if r[1] ~= ARGV[3] then return false end
-- A clock that was set back would keep the engine closed for as long as that. It opens by time and not at once: so
-- schedulers hear that the time that they know of is no more.
if r[5] and now < number(r[4], now) then redis.call('HSET', row, 'paced_until_ms', ms(now + 1)) end
redis.call('ZADD', leases, now + tonumber(ARGV[4]), engine)
local state = ARGV[5]
if r[3] and state == 'READY' then state = 'DRAINING' end
redis.call('HSET', row, 'state', state, 'reason', ARGV[6], 'seen_ms', ms(now), unpack(ARGV, 8 + 2 * tonumber(ARGV[7])))
local noted = tonumber(redis.call('ZSCORE', room, engine) or nil)
reconcile_kv(row, reservations)
local places = note_room(now, room, engine, row, reservations)
-- Room that a renewal makes: the engine came back, its pace was raised, or a note was wrong. Or it takes nothing more.
if noted and not places or places and (noted or 0) <= 0 then
  announce_change(freed, waiting, room, engine, places)
end
local answer = {r[3] and 1 or 0}
for i = 1, tonumber(ARGV[7]) do
  local attempt = ARGV[7 + 2 * i]
  local known = redis.call('HMGET', KEYS[6 + i], 'state', 'engine', 'attempt', 'cancel')
  if known[2] ~= engine or known[3] ~= attempt or known[1] == 'finished' or known[1] == 'waiting' then
    answer[1 + i] = 'lost'
  else
    answer[1 + i] = asked_outcome(known[4]) or 'running'
  end
end
return answer
