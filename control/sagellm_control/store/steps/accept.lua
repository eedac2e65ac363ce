-- accept: requests enter the queue, each once per request id.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4..8] intake streams, most urgent first   KEYS[9] backlog
-- then for each request: record, body
-- ARGV[1] now   ARGV[2] '1': accept without a READY engine   ARGV[3] for how long (ms) the result is kept
-- ARGV[4] wire version   ARGV[5] bounds, with spaces between them (0: none): requests and bytes that may wait in the
--   pool, of one tenant, and of each of the five classes   ARGV[6] number of requests
-- then for each request: id, priority, inbox, ticket, fingerprint, kind, body, number of optional fields,
--   then that many names and values (tenant, model, stream, timeout_ms, slo_ms, …)
-- Output, for each request: {'accepted', arrived_ms} | {'exists', state, fingerprint, tenant, ticket}
--   | {'full', why (see Reason), number waiting, ids of some that are last in line…} | {'no_engine'}

-- What makes up the entry of the intake stream: all that scheduling needs, and no prompt.
local SCHEDULING = {tenant = true, model = true, slo_ms = true, tpot_slo_ms = true, timeout_ms = true,
  prompt_tokens = true, max_tokens = true, session = true, prefix = true, reject_late = true, weight = true,
  queue_ttl_ms = true, stage = true}
local LAST_IN_LINE = 16

local waiting, room, counters, backlog = KEYS[1], KEYS[2], KEYS[3], KEYS[9]
local now = clock(ARGV[1])
local anyway, keep, version = ARGV[2] == '1', ARGV[3], ARGV[4]
local bounds = {}
for bound in string.gmatch(ARGV[5], '%S+') do bounds[#bounds + 1] = tonumber(bound) end
local depth = redis.call('ZCARD', waiting)
for level = 0, 4 do depth = depth + redis.call('XLEN', KEYS[4 + level]) end
local served = anyway or redis.call('ZCARD', room) > 0

-- What waits under a name, this call's requests included.
local function waits(name)
  return number(redis.call('HGET', backlog, name), 0) + (backlog_changes[name] or 0)
end

local function pool_bytes()
  local sum = 0
  for level = 0, 4 do sum = sum + waits('bytes/' .. level) end
  return sum
end

-- Why a request cannot be taken; nil: it can.
local function no_room(priority, tenant, bytes)
  local class = 5 + 2 * tonumber(priority)
  if bounds[1] > 0 and depth >= bounds[1] then return 'queue_full' end
  if bounds[2] > 0 and pool_bytes() + bytes > bounds[2] then return 'queue_bytes_full' end
  if bounds[class] > 0 and waits('requests/' .. priority) >= bounds[class] then return 'class_full' end
  if bounds[class + 1] > 0 and waits('bytes/' .. priority) + bytes > bounds[class + 1] then
    return 'class_bytes_full'
  end
  if tenant == '' then return nil end
  if bounds[3] > 0 and waits('tenant_requests/' .. tenant) >= bounds[3] then return 'tenant_full' end
  if bounds[4] > 0 and waits('tenant_bytes/' .. tenant) + bytes > bounds[4] then return 'tenant_bytes_full' end
end

local answers = {}
local at = 7
for i = 1, tonumber(ARGV[6]) do
  local record, body = KEYS[8 + 2 * i], KEYS[9 + 2 * i]
  local id, priority, inbox, ticket, fingerprint = unpack(ARGV, at, at + 4)
  local kind, content, optional = ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 7])
  local first = at + 8
  at = first + 2 * optional
  local tenant = ''
  for j = first, at - 1, 2 do if ARGV[j] == 'tenant' then tenant = ARGV[j + 1] end end
  local known = redis.call('HMGET', record, 'state', 'fingerprint', 'tenant', 'ticket')
  local full = not known[1] and served and no_room(priority, tenant, #content)
  if known[1] then
    answers[i] = {'exists', known[1], known[2] or '', known[3] or '', known[4] or ''}
  elseif not served then
    answers[i] = {'no_engine'}
  elseif full then
    answers[i] = {'full', full, depth, unpack(redis.call('ZREVRANGE', waiting, 0, LAST_IN_LINE - 1))}
    increase(counters, full, 1)
  else
    -- A microsecond apart, so that requests of one batch keep their order.
    local arrived = ms(now + (i - 1) / 1000)
    local intake = KEYS[4 + tonumber(priority)]
    local entry = {'XADD', intake, '*', 'id', id, 'priority', priority, 'arrived_ms', arrived, 'kind', kind}
    local fields = {'HSET', record, 'v', version, 'state', 'queued', 'kind', kind, 'priority', priority,
      'arrived_ms', arrived, 'inbox', inbox, 'ticket', ticket, 'fingerprint', fingerprint, 'keep_ms', keep}
    for j = first, at - 1, 2 do
      fields[#fields + 1] = ARGV[j]
      fields[#fields + 1] = ARGV[j + 1]
      if SCHEDULING[ARGV[j]] then
        entry[#entry + 1] = ARGV[j]
        entry[#entry + 1] = ARGV[j + 1]
      end
    end
    fields[#fields + 1] = 'entry'
    fields[#fields + 1] = redis.call(unpack(entry))
    redis.call(unpack(fields))
    redis.call('SET', body, content)
    depth = depth + 1
    count_waiting(1, priority, tenant, #content)
    increase(counters, 'accepted', 1)
    answers[i] = {'accepted', arrived}
  end
end
write_backlog(backlog)
return answers
