-- heal: what is derived from the rows of engines, or refers to them, is made to agree with them.
--
-- KEYS[1] room   KEYS[2] waiting   KEYS[3] freed   KEYS[4] engines   KEYS[5] leases
-- then for each engine: row, reservations
-- ARGV[1] now   ARGV[2] for how long (ms) a holder without a lease is given one   ARGV[3] number of engines, then their ids
-- Output: pairs of what was put right and the engine: 'wrong_room' | 'no_lease' | 'unlisted_engine'

local room, waiting, freed, engines, leases = unpack(KEYS, 1, 5)
local now, repairs = clock(ARGV[1]), {}

local function repaired(what, engine)
  repairs[#repairs + 1] = what
  repairs[#repairs + 1] = engine
end

for i = 1, tonumber(ARGV[3]) do
  local engine, row, reservations = ARGV[3 + i], KEYS[4 + 2 * i], KEYS[5 + 2 * i]
  local noted = redis.call('ZSCORE', room, engine)
  local free = free_places(row, reservations)
  if (noted and tonumber(noted)) ~= (free or nil) and (noted or free) then
    announce(freed, waiting, engine, note_room(room, engine, row, reservations))
    repaired('wrong_room', engine)
  end
  local held = (redis.call('HGET', row, 'worker') or '') ~= ''
  if (held or redis.call('SCARD', reservations) > 0) and not redis.call('ZSCORE', leases, engine) then
    -- A holder that lives renews it; if none does it lapses, and what it holds is given back.
    redis.call('ZADD', leases, held and now + tonumber(ARGV[2]) or now, engine)
    repaired('no_lease', engine)
  end
  if redis.call('EXISTS', row) == 1 and redis.call('SADD', engines, engine) == 1 then
    repaired('unlisted_engine', engine)
  end
end
return repairs
