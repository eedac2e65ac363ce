-- finish: attempts end with the one outcome of their request; their places are free again and the schedulers know.
--
-- KEYS[1] engine row   KEYS[2] reservations   KEYS[3] assigned   KEYS[4] room   KEYS[5] waiting   KEYS[6] freed
-- KEYS[7] counters   KEYS[8] tenants   KEYS[9] virtual time   KEYS[10] lengths   KEYS[11] backlog   KEYS[12] settings
-- then for each request: record, body, output
-- ARGV[1] now   ARGV[2] engine id   ARGV[3] worker session   ARGV[4] number of requests
-- then for each: id, attempt, sequence, outcome, payload of the end event, output tokens ('': not known),
--   ms from the call of the engine to its first byte ('': it said nothing), for how long the worker had held it (ms)
-- Output, for each request: 'ok' (also where it was finished by this very attempt before) | 'lost'

local row, reservations, assigned, room, waiting, freed, counters = unpack(KEYS, 1, 7)
local now, engine = clock(ARGV[1]), ARGV[2]
local holds = redis.call('HGET', row, 'worker') == ARGV[3]
local results = {}
local MOST_WEIGHT = 64  -- answers that a mean remembers, roughly
local MOST_MEANS = 20000  -- one more tenant falls back on what all tenants of its model produce

-- How long an answer became: its flow is charged for what it was, and the next of its kind are expected to be alike.
-- The means are those of scheduler/estimates.py: `weight tokens` under model, bucket of max_tokens and tenant; under
-- model and bucket; under the model.
local function learn(tokens, outcome, record, tenant, charge, model, max_tokens)
  local _, expected, each = read_charge(charge)
  if expected and not is_outdated(record, KEYS[12]) then
    read_virtual_time(now, KEYS[9], KEYS[8], KEYS[11])
    settle_charge(flow_of(tenant, charge), (tokens - expected) * each)
  end
  if outcome ~= 'completed' then return end
  local _, bits = math.frexp(max_tokens)
  local bucket = model .. '\31' .. bits
  local names = {model, bucket, bucket .. '\31' .. tenant}
  local known, learned = redis.call('HMGET', KEYS[10], unpack(names)), {}
  for i, name in ipairs(names) do
    local weight, mean = string.match(known[i] or '', '(%S+) (%S+)')
    if weight or i < 3 or redis.call('HLEN', KEYS[10]) < MOST_MEANS then
      weight, mean = math.min(tonumber(weight or 0) + 1, MOST_WEIGHT), tonumber(mean or 0)
      learned[#learned + 1] = name
      learned[#learned + 1] = string.format('%.6g %.6g', weight, mean + (tokens - mean) / weight)
    end
  end
  redis.call('HSET', KEYS[10], unpack(learned))
end

for i = 1, tonumber(ARGV[4]) do
  local record, body, output = unpack(KEYS, 10 + 3 * i, 12 + 3 * i)
  local id, attempt, sequence, outcome, payload, tokens, first_ms, held_ms = unpack(ARGV, 8 * i - 3, 8 * i + 4)
  local r = redis.call('HMGET', record, 'state', 'engine', 'attempt', 'entry', 'tenant', 'charge', 'model',
    'max_tokens', 'slo_ms', 'arrived_ms', 'started_ms', 'assigned_ms')
  if not holds or r[2] ~= engine or r[3] ~= attempt then
    results[i] = 'lost'
  elseif r[1] == 'finished' then
    results[i] = 'ok'
  elseif r[1] == 'running' or r[1] == 'assigned' then
    -- No claim has said when it began: it has ended before.
    local started, assigned_at = number(r[11], 0), number(r[12], 0)
    if started <= assigned_at then
      started = assigned_at + tonumber(held_ms)
      redis.call('HSET', record, 'started_ms', ms(started))
    end
    release(id, r[4], row, reservations, assigned)
    if tokens ~= '' then learn(tonumber(tokens), outcome, record, r[5] or '', r[6], r[7] or '', tonumber(r[8] or 0)) end
    if r[9] and first_ms ~= '' then
      local ttft_ms = started + tonumber(first_ms) - tonumber(r[10])
      increase(counters, ttft_ms <= tonumber(r[9]) and 'slo_met' or 'slo_missed', 1)
    end
    end_request(now, record, body, output, counters, id, attempt, sequence, outcome, payload)
    results[i] = 'ok'
  else
    results[i] = 'lost'
  end
end
announce(freed, waiting, engine, (note_room(now, room, engine, row, reservations)))
write_virtual_time()
send_published()
return results
