-- admit: arrivals leave their intake stream. One whose turn it is at once goes to the engine that was chosen for
-- it, if that still has a place; every other one enters the waiting set under its rank.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4] dead   KEYS[5..9] intake streams, most urgent first
-- then for each engine: row, reservations, assigned; then for each arrival: record, body, output
-- ARGV[1] now   ARGV[2] bodies up to so many bytes travel along   ARGV[3] payload of the end event "expired"
-- ARGV[4] number of engines, then their ids; then the number of arrivals, and for each:
--   level (0..4), entry id, request id, rank, number of the chosen engine (0: none), '' or why it is dead,
--   payload of the end event "dead" ('' where it is not)
-- Output: {for each arrival 'assigned' | 'waiting' | 'gone' | 'expired' | 'dead', …}, {places left, per engine},
--   number waiting, number of engines with room

local waiting, room, counters, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, inline_bytes = clock(ARGV[1]), tonumber(ARGV[2])
local engines = tonumber(ARGV[4])
local arrivals = tonumber(ARGV[5 + engines])
local request_keys = 9 + 3 * engines

local results, acks = {}, {{}, {}, {}, {}, {}}
local head = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
local head_rank = head[2] and tonumber(head[2])

local function bury(level, entry, id, reason)
  local found = redis.call('XRANGE', KEYS[5 + level], entry, entry)[1]
  local copy = {'XADD', dead, 'MAXLEN', '~', DEAD_KEPT, '*', 'reason', reason, 'request', id}
  -- No more of a garbage entry than an operator needs to recognise it.
  for j = 1, math.min(#(found and found[2] or {}), 64) do copy[#copy + 1] = string.sub(found[2][j], 1, 1024) end
  redis.call(unpack(copy))
end

for i = 1, arrivals do
  local at = 6 + engines + 7 * (i - 1)
  local level, entry, id, rank, choice = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3],
    tonumber(ARGV[at + 4])
  local reason, dead_payload = ARGV[at + 5], ARGV[at + 6]
  local record, body, output = unpack(KEYS, request_keys + 3 * i - 2, request_keys + 3 * i)
  local known = read_record(record)
  -- Streams number their entries each on its own, so the stream has to be the right one too.
  local ours = known.state == 'queued' and known.entry == entry and known.priority == ARGV[at]
  local result
  if reason ~= '' then
    bury(level, entry, id, reason)
    if ours then end_request(now, record, body, output, counters, id, 0, 1, 'dead', dead_payload)
    else redis.call('HINCRBY', counters, 'garbage', 1) end
    result = 'dead'
  elseif not known.state then
    bury(level, entry, id, 'no record of this request')
    redis.call('HINCRBY', counters, 'garbage', 1)
    result = 'dead'
  elseif not ours and #redis.call('XRANGE', KEYS[5 + level], entry, entry) > 0 then
    bury(level, entry, id, 'an earlier entry of this request exists')
    redis.call('HINCRBY', counters, 'garbage', 1)
    result = 'dead'
  elseif not ours then
    result = 'gone'  -- cancelled, or dealt with, after this scheduler had read it
  elseif expired(now, known.arrived_ms, known.timeout_ms) then
    end_request(now, record, body, output, counters, id, 0, 1, 'expired', ARGV[3])
    result = 'expired'
  else
    if choice > 0 and not (head_rank and head_rank <= tonumber(rank)) then
      local engine = look_at(choice, ARGV[4 + choice], unpack(KEYS, 9 + 3 * choice - 2, 9 + 3 * choice))
      if (engine.free or 0) > 0 then
        assign_to(now, id, record, body, known, engine, rank, inline_bytes)
        result = 'assigned'
      end
    end
    if not result then
      redis.call('ZADD', waiting, rank, id)
      redis.call('HSET', record, 'state', 'waiting', 'rank', rank)
      redis.call('HDEL', record, 'entry')
      if not head_rank or tonumber(rank) < head_rank then head_rank = tonumber(rank) end
      result = 'waiting'
    end
  end
  results[i] = result
  local list = acks[level + 1]
  list[#list + 1] = entry
end

for level = 0, 4 do
  if #acks[level + 1] > 0 then
    redis.call('XACK', KEYS[5 + level], SCHEDULERS, unpack(acks[level + 1]))
    redis.call('XDEL', KEYS[5 + level], unpack(acks[level + 1]))
  end
end
send_published()
local places = write_places(room, engines)
return {results, places, redis.call('ZCARD', waiting), redis.call('ZCOUNT', room, 1, '+inf')}
