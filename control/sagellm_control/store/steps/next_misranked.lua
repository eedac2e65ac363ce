-- next_misranked: after a change of policy a scheduler takes the next piece of what has to be ranked anew. Any number
-- of schedulers share the work; a piece whose taker was lost is done again.
--
-- KEYS[1] waiting   KEYS[2] settings   KEYS[3] reranking   KEYS[4] misranked
-- ARGV[1] now   ARGV[2] epoch of the policy that the scheduler follows   ARGV[3] name of the piece, new for each call
-- ARGV[4] most requests
-- Output: {'changed'} (the epoch is another) | {'done'} | {'busy'} (others are at it) | {'piece', request ids…} (the
--   same ones if this name has been given a piece before: the reply was lost)

local waiting, reranking, misranked = KEYS[1], KEYS[3], KEYS[4]
local now, epoch, most = clock(ARGV[1]), ARGV[2], tonumber(ARGV[4])
local LOST_AFTER_MS = 10000  -- nobody has taken or brought back a piece for so long
if (redis.call('HGET', KEYS[2], 'epoch') or '0') ~= epoch then return {'changed'} end
if epoch == '0' then return {'done'} end

-- From the front of the line: fair starts are then given in the old order.
local function start_over()
  redis.call('DEL', reranking)
  redis.call('HSET', reranking, 'epoch', epoch, 'cursor', '-inf', 'touched_ms', ms(now))
end

local piece = 'piece/' .. ARGV[3]
local r = redis.call('HMGET', reranking, 'epoch', 'cursor', 'touched_ms', 'last', piece)
if r[1] == epoch and r[5] then return cjson.decode(r[5]) end
if r[1] ~= epoch then
  start_over()
  r = {epoch, '-inf', now}
end
local open = redis.call('HLEN', reranking) - (r[4] and 4 or 3)
if r[2] == 'end' and open > 0 then
  if now - tonumber(r[3]) < LOST_AFTER_MS then return {'busy'} end
  start_over()
  r = {epoch, '-inf', now}
end

local ids = {'piece'}
if r[2] == 'end' then
  -- All that waited has its new rank; what came back from an engine since, under an old one, is among these.
  for _, id in ipairs(redis.call('SRANDMEMBER', misranked, most)) do ids[#ids + 1] = id end
  return #ids > 1 and ids or {'done'}
end
-- Any number may share a rank, as the first requests of all tenants do. So it goes on behind the last of the piece
-- before; or, where that has its new rank by now, at the rank that it had.
local found
if r[4] and redis.call('ZSCORE', waiting, r[4]) == r[2] then
  local behind = redis.call('ZRANK', waiting, r[4]) + 1
  found = redis.call('ZRANGE', waiting, behind, behind + most - 1, 'WITHSCORES')
else
  found = redis.call('ZRANGEBYSCORE', waiting, r[2], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
end
if #found < 2 * most then
  redis.call('HSET', reranking, 'cursor', 'end')
else
  redis.call('HSET', reranking, 'cursor', found[#found], 'last', found[#found - 1])
end
for at = 1, #found, 2 do ids[#ids + 1] = found[at] end
if #ids == 1 then return open > 0 and {'busy'} or {'done'} end
redis.call('HSET', reranking, piece, cjson.encode(ids), 'touched_ms', ms(now))
return ids
