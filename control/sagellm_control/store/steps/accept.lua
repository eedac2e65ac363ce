-- accept: requests enter the queue, each once per request id.
--
-- KEYS[1] waiting   KEYS[2] room   KEYS[3] counters   KEYS[4..8] intake streams, most urgent first
-- then for each request: record, body
-- ARGV[1] now   ARGV[2] most that may wait in the pool   ARGV[3] '1': accept without a READY engine
-- ARGV[4] for how long (ms) the result is kept   ARGV[5] wire version   ARGV[6] number of requests
-- then for each request: id, priority, inbox, ticket, fingerprint, kind, body, number of optional fields,
--   then that many names and values (tenant, model, stream, timeout_ms, slo_ms, …)
-- Output, for each request: {'accepted', arrived_ms} | {'exists', state, fingerprint, tenant, ticket}
--   | {'full', number waiting} | {'no_engine'}

-- What makes up the entry of the intake stream: all that scheduling needs, and no prompt.
local SCHEDULING = {tenant = true, model = true, slo_ms = true, timeout_ms = true, prompt_tokens = true,
  max_tokens = true}

local waiting, room, counters = KEYS[1], KEYS[2], KEYS[3]
local now = clock(ARGV[1])
local most, anyway, keep, version = tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4], ARGV[5]
local depth = redis.call('ZCARD', waiting)
for level = 0, 4 do depth = depth + redis.call('XLEN', KEYS[4 + level]) end
local served = anyway or redis.call('ZCARD', room) > 0

local answers = {}
local at = 7
for i = 1, tonumber(ARGV[6]) do
  local record, body = KEYS[7 + 2 * i], KEYS[8 + 2 * i]
  local id, priority, inbox, ticket, fingerprint = unpack(ARGV, at, at + 4)
  local kind, content, optional = ARGV[at + 5], ARGV[at + 6], tonumber(ARGV[at + 7])
  local first = at + 8
  at = first + 2 * optional
  local known = redis.call('HMGET', record, 'state', 'fingerprint', 'tenant', 'ticket')
  if known[1] then
    answers[i] = {'exists', known[1], known[2] or '', known[3] or '', known[4] or ''}
  elseif not served then
    answers[i] = {'no_engine'}
  elseif depth >= most then
    answers[i] = {'full', depth}
  else
    -- A microsecond apart, so that requests of one batch keep their order.
    local arrived = ms(now + (i - 1) / 1000)
    local intake = KEYS[4 + tonumber(priority)]
    local entry = {'XADD', intake, '*', 'id', id, 'priority', priority, 'arrived_ms', arrived}
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
    redis.call('HINCRBY', counters, 'accepted', 1)
    answers[i] = {'accepted', arrived}
  end
end
return answers
