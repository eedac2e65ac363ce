-- What several steps share. The loader puts this text in front of every step.
--
-- Arguments that are a time are in ms since the epoch; '0' stands for "the server's clock now".
-- An engine is passed as three keys: its row, its reservations, its assigned stream.
-- A request is passed as three keys: its record, its body, its output log.

local WORKERS = 'workers'
local SCHEDULERS = 'schedulers'
local DEAD_KEPT = 10000  -- entries of the dead stream
local FREED_KEPT = 10000  -- entries; more than one a free engine is of no use to anybody

local function clock(given)
  if given ~= '0' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end

local function ms(number) return string.format('%.3f', number) end

-- Output of this call, gathered so that each inbox gets one message.
local outgoing = {}

local function publish(inboxes, id, attempt, sequence, kind, payload)
  local frame = id .. ' ' .. attempt .. '-' .. sequence .. ' ' .. kind .. ' ' .. #payload .. '\n' .. payload .. '\n'
  for inbox in string.gmatch(inboxes or '', '%S+') do
    local frames = outgoing[inbox]
    if not frames then frames = {}; outgoing[inbox] = frames end
    frames[#frames + 1] = frame
  end
end

local function send_published()
  for inbox, frames in pairs(outgoing) do redis.call('PUBLISH', inbox, table.concat(frames)) end
end

-- Places left on an engine, from the reservations that requests own; nil: it takes nothing.
local function free_places(row, reservations)
  local engine = redis.call('HMGET', row, 'state', 'slots', 'prefetch', 'limit')
  if engine[1] ~= 'READY' then return nil end
  local places = tonumber(engine[2] or 0) + tonumber(engine[3] or 0)
  if engine[4] and engine[4] ~= '' then places = math.min(places, tonumber(engine[4])) end
  return places - redis.call('SCARD', reservations)
end

local function note_room(room, engine, row, reservations)
  local free = free_places(row, reservations)
  if free then redis.call('ZADD', room, free, engine) else redis.call('ZREM', room, engine) end
  return free
end

-- Tells one scheduler that an engine has places, if anybody waits for one.
local function announce(freed, waiting, engine, free)
  if free and free > 0 and redis.call('ZCARD', waiting) > 0 then
    redis.call('XADD', freed, 'MAXLEN', '~', FREED_KEPT, '*', 'engine', engine, 'free', free)
  end
end

-- Gives back the place that a request holds on an engine.
local function release(id, entry, reservations, assigned)
  redis.call('SREM', reservations, id)
  if entry and entry ~= '' then
    redis.call('XACK', assigned, WORKERS, entry)
    redis.call('XDEL', assigned, entry)
  end
end

-- The entry id for an event that no worker numbered: one after the last of the log.
local function next_position(output, attempt)
  local last = redis.call('XREVRANGE', output, '+', '-', 'COUNT', 1)[1]
  if not last then return attempt, 1 end
  local major, minor = string.match(last[1], '(%d+)-(%d+)')
  if tonumber(major) >= tonumber(attempt) then return major, tonumber(minor) + 1 end
  return attempt, 1
end

-- Records the one outcome of a request, tells its client, and lets it expire.
local function end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
  local known = redis.call('HMGET', record, 'inbox', 'keep_ms')
  redis.call('XADD', output, attempt .. '-' .. sequence, 'type', 'end', 'payload', payload)
  redis.call('HSET', record, 'state', 'finished', 'outcome', outcome, 'finished_ms', ms(now))
  redis.call('HDEL', record, 'entry', 'cancel')
  redis.call('DEL', body)
  local keep = known[2] or '600000'
  redis.call('PEXPIRE', record, keep)
  redis.call('PEXPIRE', output, keep)
  redis.call('HINCRBY', counters, outcome, 1)
  publish(known[1], id, attempt, sequence, 'end', payload)
end

-- Adds a line to a request's history: which attempt went wrong on which engine, and how.
local function note_error(record, attempt, engine, payload)
  local text = string.match(payload, '^[^\n]*')
  local ok, ending = pcall(cjson.decode, text)
  if ok and type(ending) == 'table' then text = (ending.code or '') .. ' (' .. (ending.message or '') .. ')' end
  local line = attempt .. ' ' .. engine .. ' ' .. string.sub(text, 1, 300)
  local known = redis.call('HGET', record, 'errors')
  redis.call('HSET', record, 'errors', known and (known .. '\n' .. line) or line)
end

-- Copies a request that is given up, with its whole record, so that it can be looked at and sent again later.
local function bury_request(dead, record, body, id, reason)
  local fields, copy = redis.call('HGETALL', record), {}
  for i = 1, #fields, 2 do copy[fields[i]] = fields[i + 1] end
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_KEPT, '*', 'reason', reason, 'request', id,
    'record', cjson.encode(copy), 'body', redis.call('GET', body) or '')
end

local function expired(now, arrived, timeout)
  return timeout and timeout ~= '' and now >= tonumber(arrived) + tonumber(timeout)
end

-- Engines among which this call chooses. Each is read once; its reservations and its note in the room are written
-- once, at the end.
local looked_at = {}

local function look_at(number, id, row, reservations, assigned)
  local engine = looked_at[number]
  if not engine then
    engine = {id = id, reservations = reservations, assigned = assigned, free = free_places(row, reservations),
      taken = {}}
    looked_at[number] = engine
  end
  return engine
end

-- Reserves what was taken. Returns the places left on engines 1 to `count`; -1 for one that was not looked at.
local function write_places(room, count)
  local places = {}
  for number = 1, count do
    local engine = looked_at[number]
    places[number] = engine and (engine.free or 0) or -1
    if engine and #engine.taken > 0 then redis.call('SADD', engine.reservations, unpack(engine.taken)) end
    if engine and engine.free then redis.call('ZADD', room, engine.free, engine.id)
    elseif engine then redis.call('ZREM', room, engine.id) end
  end
  return places
end

-- What admit and assign read of a record, in one go.
local function read_record(record)
  local r = redis.call('HMGET', record, 'state', 'entry', 'arrived_ms', 'timeout_ms', 'priority', 'attempt', 'kind',
    'stream', 'tenant', 'trace_id', 'traceparent', 'rank', 'after')
  return {state = r[1], entry = r[2], arrived_ms = r[3], timeout_ms = r[4], priority = r[5], attempt = r[6] or 0,
    kind = r[7], stream = r[8], tenant = r[9], trace_id = r[10], traceparent = r[11], rank = r[12], after = r[13]}
end

-- Moves a request to an engine that has a place for it; `rank` only where the record does not hold it yet.
local function assign_to(now, id, record, body, known, engine, rank, inline_bytes)
  local attempt, moment = known.attempt + 1, ms(now)
  local entry = {'XADD', engine.assigned, '*', 'id', id, 'attempt', attempt, 'kind', known.kind,
    'priority', known.priority, 'arrived_ms', known.arrived_ms, 'assigned_ms', moment}
  local function add(name, value)
    if value and value ~= '' then entry[#entry + 1] = name; entry[#entry + 1] = value end
  end
  add('stream', known.stream)
  if known.timeout_ms and known.timeout_ms ~= '' then
    add('timeout_at_ms', ms(tonumber(known.arrived_ms) + tonumber(known.timeout_ms)))
  end
  add('tenant', known.tenant)
  add('trace_id', known.trace_id)
  add('traceparent', known.traceparent)
  add('after', known.after)
  -- The body travels along, so that the worker needs no second trip; a large one stays where it is.
  if redis.call('STRLEN', body) <= inline_bytes then add('body', redis.call('GET', body)) end
  local entry_id = redis.call(unpack(entry))
  engine.taken[#engine.taken + 1] = id
  redis.call('HSET', record, 'state', 'assigned', 'engine', engine.id, 'entry', entry_id, 'assigned_ms', moment,
    'attempt', attempt, 'rank', rank or known.rank)
  engine.free = engine.free - 1
end
