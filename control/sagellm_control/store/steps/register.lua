-- register: a worker session takes an engine's lease and writes its row.
--
-- KEYS[1] row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] engines   KEYS[8] leases
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] lease (ms)   ARGV[5] state
-- ARGV[6] reason (why it is not READY), then the row's other fields and values
-- Output: {'held', worker} (by another worker; one whose lease has lapsed may be about to renew it, after an outage, so
--   that keepers alone take the engine from it) | {'registered'}
--   | {'recover', request ids…} (an earlier session left these: requeue them, then call again)

local row, reservations, assigned, room, waiting, freed, engines, leases = unpack(KEYS, 1, 8)
local now, engine, worker = clock(ARGV[1]), ARGV[2], ARGV[3]
local known = redis.call('HMGET', row, 'worker', 'state')
local holder = known[1] or ''
if holder ~= '' and holder ~= worker then
  -- Whatever somebody has deleted: keepers find it, and see whether its holder renews.
  redis.call('SADD', engines, engine)
  redis.call('ZADD', leases, 'NX', now + tonumber(ARGV[4]), engine)
  return {'held', holder}
end
if holder ~= worker then
  -- Nobody holds it from here on, so that an earlier holder can change nothing while its requests are given back.
  redis.call('HSET', row, 'worker', '')
  redis.call('ZREM', room, engine)
  local left_behind = redis.call('HKEYS', reservations)
  if #left_behind > 0 then
    -- A lapsed lease, so that a keeper goes on if this worker dies half way.
    redis.call('ZADD', leases, now, engine)
    table.insert(left_behind, 1, 'recover')
    return left_behind
  end
  redis.call('DEL', assigned)
  redis.call('HDEL', row, 'paced_until_ms')
  redis.call('HSET', row, 'registered_ms', ms(now))
end
local state = ARGV[5]
if state == 'READY' and redis.call('HEXISTS', row, 'drain') == 1 then state = 'DRAINING' end
redis.pcall('XGROUP', 'CREATE', assigned, WORKERS, '0', 'MKSTREAM')
redis.call('HSET', row, 'worker', worker, 'state', state, 'reason', ARGV[6], 'seen_ms', ms(now),
  unpack(ARGV, 7))
redis.call('PERSIST', row)
redis.call('SADD', engines, engine)
redis.call('ZADD', leases, now + tonumber(ARGV[4]), engine)
reconcile_kv(row, reservations)
announce_change(freed, waiting, room, engine, (note_room(now, room, engine, row, reservations)))
return {'registered'}
