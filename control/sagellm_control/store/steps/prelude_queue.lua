-- What the steps share that put requests into the queue or take them out: what waits is counted, tenants are charged,
-- engines are filled. The loader treats it like prelude.lua, which stands above it.

-- What waits, by class and by tenant: requests and bytes. Gathered, so that each field is written once.
local backlog_changes = {}
local counted_as = {}  -- a class or a tenant -> the names of its two fields

local function count(kind, name, sign, bytes)
  local names = counted_as[kind .. name]
  if not names then
    names = {kind .. 'requests/' .. name, kind .. 'bytes/' .. name}
    counted_as[kind .. name] = names
  end
  backlog_changes[names[1]] = (backlog_changes[names[1]] or 0) + sign
  backlog_changes[names[2]] = (backlog_changes[names[2]] or 0) + sign * bytes
end

local function count_waiting(sign, priority, tenant, bytes)
  count('', priority, sign, bytes)
  if tenant and tenant ~= '' then count('tenant_', tenant, sign, bytes) end
end

local function write_backlog(backlog)
  for name, change in pairs(backlog_changes) do
    if change ~= 0 and increase(backlog, name, change) <= 0 then redis.call('HDEL', backlog, name) end
  end
end

-- The clock of fair queueing: the pool's virtual time (ms) and each flow's next start; the rules are those of
-- scheduler/tenant_clock.py. A flow is a tenant, or what the charge names. Read where it is needed, written once.
local fair = {}

-- `credit`: how far before the virtual time (ms) those start that had nothing waiting; only where some may be admitted
local function read_virtual_time(now, key, tenants, backlog, credit)
  if not fair.now then
    local known = redis.call('GET', key)
    fair.credit = credit
    fair.key, fair.tenants, fair.backlog, fair.next = key, tenants, backlog, {}
    fair.now = number(known, now)
  end
end

-- Whether a request was ranked in an earlier epoch, on another clock (see set_policy): it neither moves that of now nor
-- gets anything back from it.
local function is_outdated(record, settings)
  if not fair.epoch then fair.epoch = redis.call('HGET', settings, 'epoch') or '0' end
  return (redis.call('HGET', record, 'epoch') or '0') ~= fair.epoch
end

local function flow_of(tenant, charge)
  return string.match(charge or '', '%S+ %S+ %S+ (%S+)') or tenant or ''
end

-- A request that has a start begins to wait, or does so no more.
local function count_ranked(sign, flow)
  local name = 'ranked/' .. flow
  backlog_changes[name] = (backlog_changes[name] or 0) + sign
end

local function known_start(flow)
  return fair.next[flow] or tonumber(redis.call('ZSCORE', fair.tenants, flow) or nil)
end

-- Who has nothing waiting is lifted to the virtual time less the credit. Who has, keeps its lead.
local function start_after(flow, charge)
  local start, name = known_start(flow), 'ranked/' .. flow
  local ranked = number(redis.call('HGET', fair.backlog, name), 0) + (backlog_changes[name] or 0)
  if not start or ranked <= 0 then start = math.max(fair.now - fair.credit, start or 0) end
  fair.next[flow] = start + charge
  return start
end

-- A flow was served more (or less) than it was charged for. Never behind the virtual time: a mistake is no credit.
local function settle_charge(flow, difference)
  local next = known_start(flow)
  if next then fair.next[flow] = math.max(math.min(fair.now, next), next + difference) end
end

-- The charge as it stands in a record: in all, the output tokens expected, and for each of those; then its flow, where
-- that is not the tenant.
local function read_charge(text)
  local all, tokens, each = string.match(text or '', '(%S+) (%S+) (%S+)')
  return number(all), number(tokens), number(each)
end

local FEW_TENANTS = 64  -- no more than that are kept whatever they do
local FORGET_TRIES = 8  -- tenants that are looked at in a call, besides one for each that it has charged

local function write_virtual_time()
  if not fair.now then return end
  redis.call('SET', fair.key, ms(fair.now))
  local tries = FORGET_TRIES
  for tenant, start in pairs(fair.next) do
    redis.call('ZADD', fair.tenants, ms(start), tenant)
    tries = tries + 1
  end
  -- Whose credit is whole again would start there anyway. Only who knows the credit can tell, and adds tenants.
  if not fair.credit or redis.call('ZCARD', fair.tenants) <= FEW_TENANTS then return end
  for _, tenant in ipairs(redis.call('ZRANDMEMBER', fair.tenants, tries)) do
    if tonumber(redis.call('ZSCORE', fair.tenants, tenant)) <= fair.now - fair.credit
      and redis.call('HEXISTS', fair.backlog, 'ranked/' .. tenant) == 0 then
      redis.call('ZREM', fair.tenants, tenant)
    end
  end
end

-- Engines among which this call chooses. Each is read once; its reservations and its note in the room are written
-- once, at the end.
local looked_at = {}

local function look_at(number, id, row, reservations, assigned)
  local engine = looked_at[number]
  if not engine then
    engine = read_room(row, reservations, id, assigned)
    looked_at[number] = engine
  end
  return engine
end

-- Reserves what was taken. Returns the free places of engines 1 to `count` (false for one that was not looked at), and
-- for those that a KV cache or a pace bounds as well: number, KV tokens held, closed until (ms), …
local function write_places(now, room, count)
  local places, bounds, notes = {}, {}, {'ZADD', room}
  for number = 1, count do
    local engine = looked_at[number]
    local note = engine and places_now(now, engine)
    places[number] = engine and (engine.free or 0) or false
    if engine and #engine.taken > 0 then
      redis.call('HSET', engine.reservations, unpack(engine.taken))
      if engine.kv_taken then increase(engine.row, 'kv_held', engine.kv_taken) end
      if engine.pace > 0 then redis.call('HSET', engine.row, 'paced_until_ms', ms(engine.paced_until)) end
    end
    if note then
      notes[#notes + 1] = note
      notes[#notes + 1] = engine.id
    elseif engine then redis.call('ZREM', room, engine.id) end
    if engine and (engine.kv_tokens > 0 or engine.pace > 0) then
      bounds[#bounds + 1] = number
      bounds[#bounds + 1] = engine.kv_held
      bounds[#bounds + 1] = ms(engine.paced_until)
    end
  end
  if #notes > 2 then redis.call(unpack(notes)) end
  return places, bounds
end

-- Which engine has been given which prefixes, for the schedulers' indexes; only where the placement asks for it.
local PLACED_KEPT = 20000  -- entries; a scheduler that was away for longer starts from what is left
local placed = {}

local function write_placed(placements)
  if #placed > 0 then redis.call('XADD', placements, 'MAXLEN', '~', PLACED_KEPT, '*', unpack(placed)) end
end

-- What is read of a record, in one go. (A field that is not there costs more than one that is: the record is searched
-- to its end. So what only those have that have been ranked, or on an engine, is read where there can be such.)
local QUEUED = {'state', 'entry', 'arrived_ms', 'timeout_ms', 'priority', 'attempt', 'kind', 'stream', 'tenant',
  'trace', 'stage', 'prefix'}
local ANY = {'state', 'entry', 'arrived_ms', 'timeout_ms', 'priority', 'attempt', 'kind', 'stream', 'tenant',
  'trace', 'stage', 'prefix', 'rank', 'start', 'charge', 'late', 'after'}

-- (What somebody has made into another type is none, so that it does not stop the others of this call.)
-- By number, in the order of the names above: a loop over them would run for each request.
local function read_fields(record, names)
  local r = redis.pcall('HMGET', record, unpack(names))
  return {state = r[1], entry = r[2], arrived_ms = r[3], timeout_at = timeout_at(r[3], r[4]), priority = r[5],
    attempt = math.floor(number(r[6], 0)), kind = r[7], stream = r[8], tenant = r[9], trace = r[10],
    stage = r[11], prefix = r[12]}, r
end

local function read_queued(record) return (read_fields(record, QUEUED)) end

local function read_record(record)
  local known, r = read_fields(record, ANY)
  known.rank, known.start, known.charge, known.late, known.after = r[13], number(r[14]) and r[14], r[15], r[16], r[17]
  return known
end

-- Fields of a record by their names; false for one that is not there. (A loop: only for steps that few requests take.)
local function read_named(record, names)
  local r, known = redis.call('HMGET', record, unpack(names)), {}
  for i, name in ipairs(names) do known[name] = r[i] end
  return known
end

-- One that somebody has made into another type has none.
local function body_length(body)
  local length = redis.pcall('STRLEN', body)
  return type(length) == 'number' and length or 0
end

-- A request that was on an engine waits again at its old rank.
-- `known`: rank, priority, tenant, start, charge and epoch, as the record has them   `epoch`: that of the pool's policy
local function wait_again(now, id, record, body, known, waiting, epoch, misranked)
  redis.call('HSET', record, 'state', 'waiting')
  redis.call('HDEL', record, 'engine', 'entry')
  redis.call('ZADD', waiting, number(known.rank) and known.rank or ms(now), id)
  count_waiting(1, known.priority, known.tenant, body_length(body))
  if known.start then count_ranked(1, flow_of(known.tenant, known.charge)) end
  -- Its rank is of a policy that holds no longer: a scheduler will give it a new one.
  if epoch and known.epoch ~= epoch then redis.call('SADD', misranked, id) end
end

-- A request leaves the queue without having run: it counts as waiting no more, and its flow is not charged for it.
local function leave_queue(now, known, record, body, backlog, virtual_time, tenants, settings)
  count_waiting(-1, known.priority, known.tenant, body_length(body))
  local charge = read_charge(known.charge)
  if charge then
    local flow = flow_of(known.tenant, known.charge)
    count_ranked(-1, flow)
    if is_outdated(record, settings) then return end
    read_virtual_time(now, virtual_time, tenants, backlog)
    local next = known_start(flow)
    if next then fair.next[flow] = next - charge end
  end
end

-- What all that one call assigns have in common. `placement`: its name   `logged`: '1' if prefixes are logged
local common = {}

local function begin_assigning(now, inline_bytes, placement, logged)
  common.now, common.moment, common.inline_bytes = now, ms(now), inline_bytes
  common.placement, common.logged = placement, logged == '1'
end

-- The entry of the assigned stream: one table for all, as one that is made anew grows five times.
local assignment = {'XADD', '', '*', 'id', '', 'attempt', '', 'kind', '', 'priority', '', 'arrived_ms', '',
  'assigned_ms', ''}
local assignment_length

local function add(name, value)
  if value and value ~= '' then
    assignment[assignment_length + 1], assignment[assignment_length + 2] = name, value
    assignment_length = assignment_length + 2
  end
end

-- Moves a request to an engine that has room for it (after begin_assigning); `rank` and `ranked_by` (fields of the
-- record, and their values) only where the record does not hold them yet.
-- `known`: what read_record gives; and its body as `content`, where that is at hand; and whether it is `outdated`
-- `kv`, `uncached`: KV tokens and uncached prompt tokens; numbers, or such as text
-- Returns the length of the body, as it waits no more (see count_waiting).
local function assign_to(id, record, body, known, engine, rank, kv, uncached, ranked_by)
  local attempt, moment, inline_bytes = known.attempt + 1, common.moment, common.inline_bytes
  assignment[2], assignment[5], assignment[7], assignment[9] = engine.assigned, id, attempt, known.kind
  assignment[11], assignment[13], assignment[15] = known.priority, known.arrived_ms, moment
  assignment_length = 15
  add('stream', known.stream)
  add('timeout_at_ms', known.timeout_at and ms(known.timeout_at))
  add('tenant', known.tenant)
  add('trace', known.trace)
  add('after', known.after)
  if tonumber(uncached) > 0 then add('uncached_tokens', uncached) end
  if known.stage then
    local handed = redis.call('HMGET', record, 'transfer', 'prefilled_ms')
    add('stage', known.stage)
    add('transfer', handed[1])
    add('prefilled_ms', handed[2])
  elseif engine.role == 'prefilling' and (known.kind == 'chat' or known.kind == 'completion') then
    add('stage', 'prefill')
  end
  -- The body travels along, so that the worker needs no second trip; a large one stays where it is.
  local content = known.content or redis.pcall('GETRANGE', body, 0, inline_bytes)
  if type(content) ~= 'string' then content = '' end
  local bytes = #content
  if bytes <= inline_bytes then
    add('body', content)
  elseif not known.content then
    bytes = body_length(body)
  end
  local entry_id = redis.call(unpack(assignment, 1, assignment_length))
  redis.call('HSET', record, 'state', 'assigned', 'engine', engine.id, 'entry', entry_id, 'assigned_ms', moment,
    'attempt', attempt, 'rank', rank or known.rank,
    'placed', string.format('%s %d %s', common.placement, engine.load, uncached), unpack(ranked_by))
  if common.logged and known.prefix then
    placed[#placed + 1] = #placed / 2 + 1
    placed[#placed + 1] = engine.id .. ' ' .. known.prefix
  end
  if known.start then
    if not known.outdated then fair.now = math.max(fair.now, tonumber(known.start)) end
    if known.state == 'waiting' then count_ranked(-1, flow_of(known.tenant, known.charge)) end
  end
  local held = engine.kv_tokens > 0 and tonumber(kv) or 0
  engine.taken[#engine.taken + 1] = id
  engine.taken[#engine.taken + 1] = held
  if held > 0 then engine.kv_taken = (engine.kv_taken or 0) + held; engine.kv_held = engine.kv_held + held end
  if engine.pace > 0 then
    engine.paced_until = math.max(common.now, engine.paced_until) + uncached / engine.pace * 1000
  end
  engine.free, engine.held, engine.load = engine.free - 1, engine.held + 1, engine.load + 1
  return bytes
end
