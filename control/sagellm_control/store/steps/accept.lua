-- accept: requests enter the queue, each once per request id. One that nobody is ahead of goes straight to the engine
-- that was proposed for it, if that has room; every other one enters its intake stream.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4..8] intake streams, most urgent first   KEYS[9] backlog
-- KEYS[10] settings   KEYS[11] virtual time   KEYS[12] tenants   KEYS[13] placements
-- then for each engine: row, reservations, assigned; then for each request: record, body
-- ARGV[1] now   ARGV[2] '1': accept without a READY engine   ARGV[3] for how long (ms) the result is kept
-- ARGV[4] wire version   ARGV[5] bounds, with spaces between them (0: none): requests and bytes that may wait in the
--   pool, of one tenant, and of each of the five classes
-- ARGV[6] epoch of the policy behind the proposals   ARGV[7] the credit (ms; see start_after) where it is fair, so that
--   ranks are handicaps on a start; '': it is not
-- ARGV[8] name of the placement   ARGV[9] '1': it wants to know who was given which prefixes
-- ARGV[10] bodies up to so many bytes travel along   ARGV[11] number of engines, then their ids
-- then the number of requests, and for each: id, priority, inbox, ticket, fingerprint, kind, body, number of the
--   proposed engine (0: none), rank, KV tokens, uncached prompt tokens, charge (see read_charge; '': none), number of
--   optional fields, then that many names and values (tenant, model, stream, timeout_ms, slo_ms, …)
-- Output: {for each request {'accepted', arrived_ms} | {'assigned', arrived_ms}
--     | {'exists', state, fingerprint, tenant, ticket, kind}
--     | {'full', why (see Reason), number waiting, bytes over the pool's bound, ids of some that are last in line…}
--     | {'no_engine'}},
--   number that were ahead of them all, {free places of each engine}, number waiting, number of engines with room,
--   {what else bounds engines, see write_places}

-- What makes up the entry of the intake stream: all that scheduling needs, and no prompt.
local SCHEDULING = {tenant = true, model = true, slo_ms = true, tpot_slo_ms = true, timeout_ms = true,
  prompt_tokens = true, max_tokens = true, session = true, prefix = true, reject_late = true, weight = true,
  queue_ttl_ms = true, stage = true}
local LAST_IN_LINE = 16

local waiting, room, counters, backlog = KEYS[1], KEYS[2], KEYS[3], KEYS[9]
local now = clock(ARGV[1])
local anyway, keep, version = ARGV[2] == '1', ARGV[3], ARGV[4]
local epoch, by_start = ARGV[6], ARGV[7] ~= ''
begin_assigning(now, tonumber(ARGV[10]), ARGV[8], ARGV[9])
local engines = tonumber(ARGV[11])
local request_keys, requests_at = 13 + 3 * engines, 12 + engines
local FIELDS = 13
local in_set = redis.call('ZCARD', waiting)
local depth = in_set
for level = 0, 4 do depth = depth + redis.call('XLEN', KEYS[4 + level]) end
local ahead = depth
-- Proposals of a policy that holds no longer are none. Of several under a fair order only the starts tell who is first:
-- that is for admit.
local proposed = engines > 0 and (redis.call('HGET', KEYS[10], 'epoch') or '0') == epoch
  and not (by_start and tonumber(ARGV[requests_at]) > 1)

-- What mostly only those ask for that have to wait. (One that nobody is ahead of can only be refused for its length, if
-- there are other bounds than the first.)
local served, bounds
local bounded = string.find(ARGV[5], ' %d*[1-9]')

local function is_served()
  if served == nil then served = anyway or redis.call('ZCARD', room) > 0 end
  return served
end

local function read_bounds()
  bounds = {}
  for bound in string.gmatch(ARGV[5], '%S+') do bounds[#bounds + 1] = tonumber(bound) end
end

-- What waits under a name, this call's requests included.
local function waits(name)
  return number(redis.call('HGET', backlog, name), 0) + (backlog_changes[name] or 0)
end

local function pool_bytes()
  local sum = 0
  for level = 0, 4 do sum = sum + waits('bytes/' .. level) end
  return sum
end

-- Why a request cannot wait; nil: it can.
local function no_room(priority, tenant, bytes)
  if not bounds then read_bounds() end
  local class = 5 + 2 * tonumber(priority)
  if bounds[class] > 0 and waits('requests/' .. priority) >= bounds[class] then return 'class_full' end
  if bounds[class + 1] > 0 and waits('bytes/' .. priority) + bytes > bounds[class + 1] then
    return 'class_bytes_full'
  end
  if tenant ~= '' then
    if bounds[3] > 0 and waits('tenant_requests/' .. tenant) >= bounds[3] then return 'tenant_full' end
    if bounds[4] > 0 and waits('tenant_bytes/' .. tenant) + bytes > bounds[4] then return 'tenant_bytes_full' end
  end
  -- Last: somebody may be made to go for one that only these keep out.
  local over = bounds[2] > 0 and math.max(0, pool_bytes() + bytes - bounds[2]) or 0
  if bounds[1] > 0 and depth >= bounds[1] then return 'queue_full', over end
  if over > 0 then return 'queue_bytes_full', over end
end

-- The engine that was proposed, if it is the request's turn and the engine has room.
local function engine_for(choice, kv, charge)
  if not proposed or choice == 0 or depth > 0 or (by_start and charge == '') then return nil end
  local engine = look_at(choice, ARGV[11 + choice], unpack(KEYS, 11 + 3 * choice, 13 + 3 * choice))
  return has_room_for(now, engine, kv) and engine
end

local answers, at = {}, requests_at + 1
for i = 1, tonumber(ARGV[requests_at]) do
  local record, body = KEYS[request_keys + 2 * i - 1], KEYS[request_keys + 2 * i]
  local id, priority, inbox, ticket, fingerprint, kind, content = unpack(ARGV, at, at + 6)
  local choice, rank, charge = tonumber(ARGV[at + 7]), ARGV[at + 8], ARGV[at + 11]
  local kv, uncached, optional = tonumber(ARGV[at + 9]), ARGV[at + 10], tonumber(ARGV[at + 12])
  local first, last = at + FIELDS, at + FIELDS + 2 * optional - 1
  at = last + 1
  local given = {state = 'queued', kind = kind, priority = priority}
  for j = first, last, 2 do given[ARGV[j]] = ARGV[j + 1] end
  local tenant = given.tenant or ''
  local known = redis.call('HMGET', record, 'state', 'fingerprint', 'tenant', 'ticket', 'kind')
  local engine = not known[1] and engine_for(choice, kv, charge)
  local full, over
  if not known[1] and (bounded or not engine) and is_served() then full, over = no_room(priority, tenant, #content) end
  if known[1] then
    answers[i] = {'exists', known[1], known[2] or '', known[3] or '', known[4] or '', known[5] or ''}
  elseif not engine and not is_served() then
    answers[i] = {'no_engine'}
  elseif full then
    answers[i] = {'full', full, depth, over or 0, unpack(redis.call('ZREVRANGE', waiting, 0, LAST_IN_LINE - 1))}
    increase(counters, full, 1)
  else
    -- A microsecond apart, so that requests of one batch keep their order.
    local arrived = ms(now + (i - 1) / 1000)
    local fields = {'v', version, 'kind', kind, 'priority', priority, 'arrived_ms', arrived, 'inbox', inbox,
      'ticket', ticket, 'fingerprint', fingerprint, 'keep_ms', keep}
    for j = first, last, 2 do
      if not engine or ARGV[j] ~= 'attempt' then  -- that of the assignment is another one
        fields[#fields + 1] = ARGV[j]
        fields[#fields + 1] = ARGV[j + 1]
      end
    end
    redis.call('SET', body, content)
    increase(counters, 'accepted', 1)
    if engine then
      given.arrived_ms, given.attempt, given.content = arrived, number(given.attempt, 0), content
      given.timeout_at = timeout_at(arrived, given.timeout_ms)
      if by_start or epoch ~= '0' then
        fields[#fields + 1] = 'epoch'
        fields[#fields + 1] = epoch
      end
      if by_start then
        read_virtual_time(now, KEYS[11], KEYS[12], backlog, tonumber(ARGV[7]))
        given.start = ms(start_after(flow_of(tenant, charge), read_charge(charge)))
        rank = ms(tonumber(given.start) + tonumber(rank))
        for _, text in ipairs({'start', given.start, 'charge', charge}) do fields[#fields + 1] = text end
      end
      assign_to(id, record, body, given, engine, rank, kv, uncached, fields)
      answers[i] = {'assigned', arrived}
    else
      local entry = {'XADD', KEYS[4 + tonumber(priority)], '*', 'id', id, 'priority', priority, 'arrived_ms', arrived,
        'kind', kind}
      for j = first, last, 2 do
        if SCHEDULING[ARGV[j]] then
          entry[#entry + 1] = ARGV[j]
          entry[#entry + 1] = ARGV[j + 1]
        end
      end
      redis.call('HSET', record, 'state', 'queued', 'entry', redis.call(unpack(entry)), unpack(fields))
      count_waiting(1, priority, tenant, #content)
      depth = depth + 1
      answers[i] = {'accepted', arrived}
    end
  end
end
write_backlog(backlog)
write_virtual_time()
write_placed(KEYS[13])
local places, others = write_places(now, room, engines)
return {answers, ahead, places, in_set, redis.call('ZCOUNT', room, 1, '+inf'), others}
