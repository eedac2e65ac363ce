-- retire: an engine loses its holder: the worker stops, or its lease has lapsed.
--
-- KEYS[1] row   KEYS[2] reservations   KEYS[3] room   KEYS[4] leases   KEYS[5] assigned
-- KEYS[6] waiting   KEYS[7] freed
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session ('': only if the lease has lapsed)   ARGV[4] new state
-- ARGV[5] reason   ARGV[6] for how long (ms) the row is still shown; the assigned stream goes with it
-- Output: false (not so: somebody holds it) | {'1' if it had a holder until now, request ids to be requeued…}
--
-- While it still has reservations its lease stays, lapsed, so that a keeper goes on if the caller dies half way.

local row, reservations, room, leases, assigned, waiting, freed = unpack(KEYS, 1, 7)
local now, engine, worker = clock(ARGV[1]), ARGV[2], ARGV[3]
local holder = redis.call('HGET', row, 'worker') or ''
if worker == '' then
  local lease_until = redis.call('ZSCORE', leases, engine)
  if lease_until and tonumber(lease_until) > now then return false end
elseif holder ~= worker then
  return false
end
if redis.call('ZREM', room, engine) == 1 then announce_any(freed, waiting, room) end  -- see announce_change
if redis.call('EXISTS', row) == 1 then
  redis.call('HSET', row, 'worker', '', 'state', ARGV[4], 'reason', ARGV[5])
  redis.call('PEXPIRE', row, ARGV[6])
  redis.call('PEXPIRE', assigned, ARGV[6])
end
local held = redis.call('HKEYS', reservations)
if #held > 0 then redis.call('ZADD', leases, now, engine) else redis.call('ZREM', leases, engine) end
table.insert(held, 1, holder ~= '' and '1' or '0')
return held
