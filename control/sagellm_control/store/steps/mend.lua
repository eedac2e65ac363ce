-- mend: a request whose record and whose places disagree. The record is right; the places are made so. One whose record
-- says no state that there is was damaged: it is given up wherever it is; or, if it has an outcome, it had finished.
--
-- KEYS[1] record   KEYS[2] body   KEYS[3] output   KEYS[4] waiting   KEYS[5] counters   KEYS[6] room   KEYS[7] freed
-- KEYS[8] intake stream of its priority   KEYS[9] row   KEYS[10] reservations   KEYS[11] assigned
-- KEYS[12] backlog   KEYS[13] virtual time   KEYS[14] tenants   KEYS[15] settings   KEYS[16] misranked
-- KEYS[17] dead
-- ARGV[1] now   ARGV[2] id   ARGV[3] engine that KEYS[9..11] belong to: the one it is on, or one that has it
-- ARGV[4] payload of the end event "expired"   ARGV[5] … "dead"   ARGV[6] number of fields of an intake entry, then
--   their names
-- Output: what was put right: {'stray_in_waiting' | 'stray_reservation' | 'lost_from_intake' | 'lost_from_waiting'
--   | 'lost_from_assigned' | 'lost_reservation' | 'expired_waiting' | 'unreadable' …}, or 'ownerless': nobody holds its
--   engine and it holds no place there (nothing done: requeue it)

local record, body, output, waiting, counters, room, freed, intake, row, reservations, assigned = unpack(KEYS, 1, 11)
local now, id, engine = clock(ARGV[1]), ARGV[2], ARGV[3]
local r = read_named(record, {'state', 'engine', 'attempt', 'entry', 'arrived_ms', 'timeout_ms', 'rank', 'priority',
  'tenant', 'charge', 'start', 'epoch', 'outcome'})
local state, attempt, entry = r.state, math.floor(number(r.attempt, 0)), string.match(r.entry or '', '^%d+%-%d+$')
local here = (state == 'assigned' or state == 'running') and r.engine == engine
local waits = redis.call('ZSCORE', waiting, id)
local holds = redis.call('HEXISTS', reservations, id) == 1
local repairs = {}

local function repaired(what) repairs[#repairs + 1] = what end

local function there(stream) return entry and #redis.call('XRANGE', stream, entry, entry) > 0 end

-- Streams number their entries each on its own, so one is only taken out of the intake if it names the request.
local function leave_intake()
  local found = entry and redis.call('XRANGE', intake, entry, entry)[1]
  if found and found[2][2] == id then
    redis.call('XACK', intake, SCHEDULERS, entry)
    redis.call('XDEL', intake, entry)
  end
end

local function give_up()
  bury_request(KEYS[17], record, body, id,
    state and "its record's state is '" .. string.sub(state, 1, 40) .. "'" or 'its record says no state')
  redis.call('ZREM', waiting, id)
  if engine ~= '' then release(id, r.engine and entry, row, reservations, assigned) end
  if not r.engine then  -- it waited, or was to, and was counted so
    leave_intake()
    r.priority = r.priority or ''
    leave_queue(now, r, record, body, KEYS[12], KEYS[13], KEYS[14], KEYS[15])
  end
  local major, minor = next_position(output, attempt)
  end_request(now, record, body, output, counters, id, major, minor, 'dead', ARGV[5])
end

-- (Where another engine had it than the one at hand, the keeper will come for that one.)
if not is_state(state) and has_record(record) and (r.outcome or (r.engine or engine) == engine) then
  if r.outcome then
    redis.call('HSET', record, 'state', 'finished')
  else
    give_up()
    waits, holds = false, false
  end
  state = 'finished'
  repaired('unreadable')
end
if waits and state ~= 'waiting' then
  redis.call('ZREM', waiting, id)
  repaired('stray_in_waiting')
end
if holds and not here then
  release(id, nil, row, reservations, assigned)
  repaired('stray_reservation')
end
if not state then
  if #repairs > 0 then forget_lost(record, body, output, counters) end
elseif state == 'queued' and not there(intake) then
  local found = {'XADD', intake, '*', 'id', id}
  local names = {unpack(ARGV, 7, 6 + tonumber(ARGV[6]))}
  for i, value in ipairs(redis.call('HMGET', record, unpack(names))) do
    if value then found[#found + 1] = names[i]; found[#found + 1] = value end
  end
  redis.call('HSET', record, 'entry', redis.call(unpack(found)))
  repaired('lost_from_intake')
elseif state == 'waiting' and expired(now, r.arrived_ms, r.timeout_ms) then
  redis.call('ZREM', waiting, id)
  leave_queue(now, r, record, body, KEYS[12], KEYS[13], KEYS[14], KEYS[15])
  local major, minor = next_position(output, attempt)
  end_request(now, record, body, output, counters, id, major, minor, 'expired', ARGV[4])
  repaired('expired_waiting')
elseif state == 'waiting' and not waits then
  redis.call('ZADD', waiting, number(r.rank) and r.rank or ms(now), id)
  announce_any(freed, waiting, room)
  repaired('lost_from_waiting')
elseif here and (redis.call('HGET', row, 'worker') or '') == '' then
  if not holds then repaired('ownerless') end
elseif here and state == 'assigned' and not there(assigned) then
  release(id, nil, row, reservations, assigned)
  wait_again(now, id, record, body, r, waiting, redis.call('HGET', KEYS[15], 'epoch'), KEYS[16])
  -- Its worker may have thrown the entry away because it could not read it: another one goes first.
  exclude(now, record, redis.call('HGET', record, 'excluded'), engine)
  announce_any(freed, waiting, room)
  repaired('lost_from_assigned')
elseif here and not holds then
  redis.call('HSET', reservations, id, 0)  -- what it holds of the KV cache is not known any more
  repaired('lost_reservation')
end
write_backlog(KEYS[12])
write_virtual_time()
if #repairs > 0 and engine ~= '' then
  announce(freed, waiting, engine, (note_room(now, room, engine, row, reservations)))
end
send_published()
return repairs
