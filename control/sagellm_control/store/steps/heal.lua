-- heal: what is derived from the rows of engines, or refers to them, is made to agree with them.
--
-- KEYS[1] room   KEYS[2] waiting   KEYS[3] freed   KEYS[4] engines   KEYS[5] leases
-- KEYS[6] backlog   KEYS[7..11] intake streams, then for each engine: row, reservations
-- ARGV[1] now   ARGV[2] for how long (ms) a holder without a lease is given one
-- ARGV[3] number of engines, then their ids
-- Output: pairs of what was put right and the engine: 'wrong_room' | 'no_lease' | 'unlisted_engine' |
--   'wrong_backlog' (of no engine)

local room, waiting, freed, engines, leases = unpack(KEYS, 1, 5)
local now, repairs = clock(ARGV[1]), {}

local function repaired(what, engine)
  repairs[#repairs + 1] = what
  repairs[#repairs + 1] = engine
end

for i = 1, tonumber(ARGV[3]) do
  local engine, row, reservations = ARGV[3 + i], KEYS[10 + 2 * i], KEYS[11 + 2 * i]
  local noted = tonumber(redis.call('ZSCORE', room, engine) or nil)
  local opens_by_now = noted and noted < 0 and -noted <= now  -- its pace let it; the next step notes it
  if not opens_by_now and noted ~= places_now(now, read_room(row, reservations)) then
    announce_change(freed, waiting, room, engine, (note_room(now, room, engine, row, reservations)))
    repaired('wrong_room', engine)
  end
  local held = (redis.call('HGET', row, 'worker') or '') ~= ''
  if (held or redis.call('HLEN', reservations) > 0) and not redis.call('ZSCORE', leases, engine) then
    -- A holder that lives renews it; if none does it lapses, and what it holds is given back.
    redis.call('ZADD', leases, held and now + tonumber(ARGV[2]) or now, engine)
    repaired('no_lease', engine)
  end
  if redis.call('EXISTS', row) == 1 and redis.call('SADD', engines, engine) == 1 then
    repaired('unlisted_engine', engine)
  end
end
local waits = redis.call('ZCARD', waiting)
for level = 1, 5 do waits = waits + redis.call('XLEN', KEYS[6 + level]) end
-- The sums of what waits are exact, or they are wrong where nothing does.
if waits == 0 and redis.call('DEL', KEYS[6]) == 1 then repaired('wrong_backlog', '') end
return repairs
