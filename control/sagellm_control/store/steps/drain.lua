-- drain: an engine takes no new requests; what it runs is finished. Undone with the same call.
--
-- KEYS[1] row   KEYS[2] reservations   KEYS[3] room   KEYS[4] waiting   KEYS[5] freed
-- ARGV[1] engine id   ARGV[2] '1': drain, '0': take requests again   ARGV[3] now
-- Output: false (no such engine) | number of requests that it still holds

local row, reservations, room, waiting, freed = unpack(KEYS, 1, 5)
local state = redis.call('HGET', row, 'state')
if not state then return false end
if ARGV[2] == '1' then
  redis.call('HSET', row, 'drain', '1')
  if state == 'READY' then redis.call('HSET', row, 'state', 'DRAINING') end
else
  redis.call('HDEL', row, 'drain')
  if state == 'DRAINING' then redis.call('HSET', row, 'state', 'READY') end
end
local places, engine = note_room(clock(ARGV[3]), room, ARGV[1], row, reservations)
announce_change(freed, waiting, room, ARGV[1], places)
return engine.held
