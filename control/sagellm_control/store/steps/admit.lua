-- admit: arrivals leave their intake stream. One whose turn it is at once goes to the engine that was chosen for
-- it, if that still has room; every other one enters the waiting set under its rank.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4] dead   KEYS[5..9] intake streams, most urgent first
-- KEYS[10] backlog   KEYS[11] settings   KEYS[12] virtual time   KEYS[13] tenants   KEYS[14] placements
-- KEYS[15] expiries, then for each engine: row, reservations, assigned; then for each arrival: record, body, output
-- ARGV[1] now   ARGV[2] bodies up to so many bytes travel along   ARGV[3] payload of the end event "expired"
-- ARGV[4] epoch of the policy that ranked them   ARGV[5] the credit (ms; see start_after) where it is fair, so
--   that ranks are handicaps on a start; '': it is not
-- ARGV[6] name of the placement   ARGV[7] '1': it wants to know who was given which prefixes
-- ARGV[8] number of engines, then their ids; then the number of arrivals, and for each:
--   level (0..4), entry id, request id, rank, number of the chosen engine (0: none), its KV tokens, its uncached
--   prompt tokens, the charge (see read_charge; '': none), for how long it may wait (ms; '0': for ever), '' or why it
--   is dead, payload of the end event "dead" ('' where it is not)
-- Output: {for each arrival 'assigned' | 'waiting' | 'gone' | 'expired' | 'dead', …}, {free places of each engine},
--   number waiting, number of engines with room, {what else bounds engines, see write_places}, number of arrivals that
--   are still in their streams, whoever has read them; false: the policy has changed meanwhile

local waiting, room, counters, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, epoch, by_start = clock(ARGV[1]), ARGV[4], ARGV[5] ~= ''
if (redis.call('HGET', KEYS[11], 'epoch') or '0') ~= epoch then return false end
begin_assigning(now, tonumber(ARGV[2]), ARGV[6], ARGV[7])
local engines = tonumber(ARGV[8])
local arrivals = tonumber(ARGV[9 + engines])
local request_keys = 15 + 3 * engines
local FIELDS = 11

local results, acks = {}, {{}, {}, {}, {}, {}}
local head = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
local head_rank = head[2] and tonumber(head[2])
if by_start then read_virtual_time(now, KEYS[12], KEYS[13], KEYS[10], tonumber(ARGV[5])) end

-- Returns the fields of the entry, as far as they are kept.
local function bury(level, entry, id, reason)
  local found = redis.call('XRANGE', KEYS[5 + level], entry, entry)[1]
  local copy = {'XADD', dead, 'MAXLEN', '~', DEAD_KEPT, '*', 'reason', reason, 'request', id}
  -- No more of a garbage entry than an operator needs to recognise it.
  for j = 1, math.min(#(found and found[2] or {}), 64) do copy[#copy + 1] = string.sub(found[2][j], 1, 1024) end
  redis.call(unpack(copy))
  local fields = {}
  for j = 11, #copy, 2 do fields[copy[j]] = copy[j + 1] end
  return fields
end

-- What stands in the way of an arrival; nil: nothing does.
local function dealt_with(a, known)
  local record, body, output = unpack(KEYS, request_keys + 3 * a.i - 2, request_keys + 3 * a.i)
  local function end_it(outcome, payload)
    leave_queue(now, known, record, body, KEYS[10], KEYS[12], KEYS[13], KEYS[11])
    -- One that was submitted again counts its attempts from further on.
    local attempt, sequence = next_position(output, known.attempt)
    end_request(now, record, body, output, counters, a.id, attempt, sequence, outcome, payload)
  end
  -- Streams number their entries each on its own, so the stream has to be the right one too.
  local ours = known.state == 'queued' and known.entry == a.entry and known.priority == a.level
  if a.reason ~= '' then
    bury(a.level, a.entry, a.id, a.reason)
    if ours then
      end_it('dead', a.dead_payload)
    else increase(counters, 'garbage', 1) end
    return 'dead'
  elseif not is_state(known.state) and known.entry == a.entry and known.priority == a.level then
    return 'gone'  -- its record was damaged: a keeper gives it up
  elseif not ours then
    if known.state and #redis.call('XRANGE', KEYS[5 + a.level], a.entry, a.entry) == 0 then
      return 'gone'  -- cancelled, or dealt with, after this scheduler had read it
    end
    local fields = bury(a.level, a.entry, a.id,
      known.state and 'an earlier entry of this request exists' or 'no record of this request')
    increase(counters, 'garbage', 1)
    -- (Without a body it may never have been accepted.)
    if not known.state and not has_record(record) and redis.call('EXISTS', body) == 1 then
      local counted = {priority = a.level, tenant = fields.tenant}
      leave_queue(now, counted, record, body, KEYS[10], KEYS[12], KEYS[13], KEYS[11])
      forget_lost(record, body, output, counters)
    end
    return 'dead'
  elseif known.timeout_at and now >= known.timeout_at then
    end_it('expired', ARGV[3])
    return 'expired'
  end
end

local ready, seen = {}, {{}, {}, {}, {}, {}}
for i = 1, arrivals do
  local at = 10 + engines + FIELDS * (i - 1)
  local level, entry = ARGV[at] + 1, ARGV[at + 1]
  local known = read_queued(KEYS[request_keys + 3 * i - 2])
  local a = {i = i, level = ARGV[at], entry = entry, id = ARGV[at + 2], rank = ARGV[at + 3],
    choice = tonumber(ARGV[at + 4]), kv = tonumber(ARGV[at + 5]), uncached = ARGV[at + 6],
    charge = ARGV[at + 7], wait = ARGV[at + 8], reason = ARGV[at + 9], dead_payload = ARGV[at + 10], known = known}
  -- Nothing has been written about those before it yet, so one that is named twice has to be noticed.
  results[i] = seen[level][entry] and 'gone' or dealt_with(a, known)
  seen[level][entry] = true
  if not results[i] then
    if by_start then
      known.start = ms(start_after(flow_of(known.tenant, a.charge), read_charge(a.charge)))
      a.rank = ms(tonumber(known.start) + tonumber(a.rank))
    end
    ready[#ready + 1] = a
  end
  acks[level][#acks[level] + 1] = entry
end
-- Only the starts tell in which order they come.
if by_start then table.sort(ready, function(a, b) return tonumber(a.rank) < tonumber(b.rank) end) end

local same_for_all = epoch ~= '0' and {'epoch', epoch} or {}
for _, a in ipairs(ready) do
  local record, body = KEYS[request_keys + 3 * a.i - 2], KEYS[request_keys + 3 * a.i - 1]
  local rank, choice = a.rank, a.choice
  local ranked_by = same_for_all
  if by_start then ranked_by = {'epoch', epoch, 'start', a.known.start, 'charge', a.charge} end
  if choice > 0 and not (head_rank and head_rank <= tonumber(rank)) then
    local engine = look_at(choice, ARGV[8 + choice], unpack(KEYS, 15 + 3 * choice - 2, 15 + 3 * choice))
    if has_room_for(now, engine, a.kv) then
      local bytes = assign_to(a.id, record, body, a.known, engine, rank, a.kv, a.uncached, ranked_by)
      count_waiting(-1, a.known.priority, a.known.tenant, bytes)
      results[a.i] = 'assigned'
    end
  end
  if not results[a.i] then
    redis.call('ZADD', waiting, rank, a.id)
    redis.call('HSET', record, 'state', 'waiting', 'rank', rank, unpack(ranked_by))
    redis.call('HDEL', record, 'entry')
    if by_start then count_ranked(1, flow_of(a.known.tenant, a.charge)) end
    if a.wait ~= '0' then redis.call('ZADD', KEYS[15], ms(a.known.arrived_ms + a.wait), a.id) end
    if not head_rank or tonumber(rank) < head_rank then head_rank = tonumber(rank) end
    results[a.i] = 'waiting'
  end
end

local left = 0
for level = 0, 4 do
  if #acks[level + 1] > 0 then
    redis.call('XACK', KEYS[5 + level], SCHEDULERS, unpack(acks[level + 1]))
    redis.call('XDEL', KEYS[5 + level], unpack(acks[level + 1]))
  end
  left = left + redis.call('XLEN', KEYS[5 + level])
end
send_published()
write_backlog(KEYS[10])
write_virtual_time()
write_placed(KEYS[14])
local places, bounds = write_places(now, room, engines)
return {results, places, redis.call('ZCARD', waiting), redis.call('ZCOUNT', room, 1, '+inf'), bounds, left}
