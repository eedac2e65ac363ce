-- What several steps share. The loader puts in front of a step the paragraphs (what is between empty lines) that define
-- something it uses.
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

-- A field as a number; `otherwise` where somebody has written something else into it.
local function number(text, otherwise)
  if not text then return otherwise end
  local n = tonumber(text)
  if n and n == n and n > -1e17 and n < 1e17 then return n end
  return otherwise
end

local function ms(number) return string.format('%.3f', number) end

-- Adds to a counter in a hash; one that is no number begins anew.
local function increase(hash, field, by)
  local count = redis.pcall('HINCRBY', hash, field, by)
  if type(count) == 'number' then return count end
  redis.call('HSET', hash, field, by)
  return by
end

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

-- An engine's room, from the reservations that requests own. `free`: places, nil if it takes nothing.
-- `id`, `assigned`: where something is to be assigned to it; `load` is what it held before, `taken` what it is given.
local function read_room(row, reservations, id, assigned)
  local r = redis.call('HMGET', row, 'state', 'slots', 'prefetch', 'kv_tokens', 'kv_held', 'pace_tps', 'paced_until_ms',
    'limit', 'role')
  local held = redis.call('HLEN', reservations)
  local places = number(r[2], 0) + number(r[3], 0)
  places = math.min(places, number(r[8], places))
  return {row = row, reservations = reservations, id = id, assigned = assigned, held = held, load = held, taken = {},
    free = r[1] == 'READY' and places - held or nil,
    kv_tokens = number(r[4], 0), kv_held = number(r[5], 0), pace = number(r[6], 0), paced_until = number(r[7], 0),
    role = r[9]}
end

-- An engine's note in the room: how many it takes now; or, if its pace keeps it closed, the time at which it opens, as
-- a negative number. An engine on which nothing runs takes one, however large.
local function places_now(now, engine)
  local free = engine.free
  if not free or free <= 0 or engine.held == 0 then return free end
  if engine.kv_tokens > 0 and engine.kv_held >= engine.kv_tokens then return 0 end
  if engine.pace > 0 and engine.paced_until > now then return -math.ceil(engine.paced_until) end
  return free
end

local function has_room_for(now, engine, kv)
  return (places_now(now, engine) or 0) > 0
    and (engine.held == 0 or engine.kv_tokens == 0 or engine.kv_held + kv <= engine.kv_tokens)
end

-- Writes the note; returns it, and what the reservations hold.
local function note_room(now, room, id, row, reservations)
  local engine = read_room(row, reservations)
  local places = places_now(now, engine)
  if places then redis.call('ZADD', room, places, id) else redis.call('ZREM', room, id) end
  return places, engine
end

-- The KV tokens that an engine's requests hold, from their reservations: heals whatever the running sum has lost.
local function reconcile_kv(row, reservations)
  local r = redis.call('HMGET', row, 'kv_tokens', 'kv_held')
  if not r[2] and number(r[1], 0) == 0 then return end
  local held = 0
  for _, tokens in ipairs(redis.call('HVALS', reservations)) do held = held + number(tokens, 0) end
  if held ~= tonumber(r[2]) then redis.call('HSET', row, 'kv_held', held) end
end

-- Tells one scheduler that an engine has places, if anybody waits for one.
local function announce(freed, waiting, engine, free)
  if free and free > 0 and redis.call('ZCARD', waiting) > 0 then
    redis.call('XADD', freed, 'MAXLEN', '~', FREED_KEPT, '*', 'engine', engine, 'free', free)
  end
end

-- The same for an engine of the pool that takes most: what waits may go to any, not only to the one that is free now.
local function announce_any(freed, waiting, room)
  local open = redis.call('ZREVRANGEBYSCORE', room, '+inf', 1, 'WITHSCORES', 'LIMIT', 0, 1)
  if open[1] then announce(freed, waiting, open[1], tonumber(open[2])) end
end

-- The same after a change of one engine. Where it takes nothing any more (`places`: nil), the others are told of: one
-- that has failed a request takes it again once there is no other.
local function announce_change(freed, waiting, room, engine, places)
  if places then announce(freed, waiting, engine, places) else announce_any(freed, waiting, room) end
end

-- Gives back the place that a request holds on an engine, and its KV tokens.
local function release(id, entry, row, reservations, assigned)
  local tokens = number(redis.call('HGET', reservations, id), 0)
  redis.call('HDEL', reservations, id)
  if tokens > 0 then increase(row, 'kv_held', -tokens) end
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
  if tonumber(major) >= number(attempt, 0) then return major, tonumber(minor) + 1 end
  return attempt, 1
end

-- Records the one outcome of a request, tells its client, and lets it expire.
local function end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
  local known = redis.call('HMGET', record, 'inbox', 'keep_ms')
  redis.call('XADD', output, attempt .. '-' .. sequence, 'type', 'end', 'payload', payload)
  redis.call('HSET', record, 'state', 'finished', 'outcome', outcome, 'finished_ms', ms(now))
  redis.call('HDEL', record, 'entry', 'cancel')
  redis.call('DEL', body)
  local keep = string.format('%d', math.max(1, number(known[2], 600000)))
  redis.call('PEXPIRE', record, keep)
  redis.call('PEXPIRE', output, keep)
  increase(counters, outcome, 1)
  publish(known[1], id, attempt, sequence, 'end', payload)
end

-- Whether a record's state is one that there is. A record with another word, or without one, was damaged: nothing tells
-- where its request belongs, and a keeper gives it up (mend).
local function is_state(word)
  return word == 'queued' or word == 'waiting' or word == 'assigned' or word == 'running' or word == 'finished'
end

-- What somebody has made into another type is no record.
local function has_record(record) return redis.call('TYPE', record).ok == 'hash' end

-- A request whose record is gone, and with it all that is known of it, counts as ended when its place is found. (One
-- whose record is there and says no state is not: see is_state.)
local function forget_lost(record, body, output, counters)
  if has_record(record) then return end
  increase(counters, 'lost', 1)
  redis.call('DEL', body)
  redis.call('PEXPIRE', output, 600000)
end

-- Adds a line to a request's history: which attempt went wrong on which engine, and how. `reason`: for operators,
-- instead of the message that is for the client ('': that one).
local function note_error(record, attempt, engine, payload, reason)
  local text = string.match(payload, '^[^\n]*')
  local ok, ending = pcall(cjson.decode, text)
  if ok and type(ending) == 'table' then
    text = (ending.code or '') .. ' (' .. (reason ~= '' and reason or ending.message or '') .. ')'
  end
  -- One line, whatever an engine says (a traceback, say).
  local line = attempt .. ' ' .. engine .. ' ' .. string.sub((string.gsub(text, '%s+', ' ')), 1, 300)
  local known = redis.call('HGET', record, 'errors')
  redis.call('HSET', record, 'errors', known and (known .. '\n' .. line) or line)
end

-- The payload of an ending; of a request that engines have asked to come later it also says what the last one answered,
-- so that its client can tell busy engines from a queue that hangs.
local function with_busy(record, payload)
  local status = number(redis.call('HGET', record, 'busy_status'))
  if not status then return payload end
  local header, body = string.match(payload, '^([^\n]*)(.*)$')
  local ending = cjson.decode(header)
  local message = string.gsub(ending.message or '', '%.$', '')
  ending.message = string.format('%s; the last busy engine answered %d.', message, status)
  return cjson.encode(ending) .. body
end

-- Notes that an engine has failed a request, and when. `known`: those that have, each once, the last one last.
local function exclude(now, record, known, engine)
  local names = {}
  for name in string.gmatch(known or '', '%S+') do
    if name ~= engine then names[#names + 1] = name end
  end
  names[#names + 1] = engine
  redis.call('HSET', record, 'excluded', table.concat(names, ' '), 'excluded_ms', ms(now))
end

-- Copies a request that is given up, with its whole record, so that it can be looked at and sent again later.
local function bury_request(dead, record, body, id, reason)
  local fields, copy = redis.call('HGETALL', record), {}
  for i = 1, #fields, 2 do copy[fields[i]] = fields[i + 1] end
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_KEPT, '*', 'reason', reason, 'request', id,
    'record', cjson.encode(copy), 'body', redis.call('GET', body) or '')
end

-- The outcome with which a request was asked to end; nil: it was not. Whatever else stands there asks for its end too.
local function asked_outcome(cancel) return cancel and (cancel == 'expired' and cancel or 'cancelled') or nil end

-- Whether a request waits for its first engine. One that an engine had may have been answered in part, and is owed
-- another try: however long it has waited, however late it is, whomever it keeps out. (See wire/attempts.py.)
local function is_untried(attempt) return number(attempt, 0) % 1000 == 0 end

-- When a request's time is over; nil: never.
local function timeout_at(arrived, timeout)
  arrived, timeout = number(arrived), number(timeout)
  return arrived and timeout and arrived + timeout
end

local function expired(now, arrived, timeout)
  local at = timeout_at(arrived, timeout)
  return at and now >= at
end
