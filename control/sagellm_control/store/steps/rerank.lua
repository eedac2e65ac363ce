-- rerank: requests that wait get the rank that they have under the pool's policy of now.
--
-- KEYS[1] waiting   KEYS[2] settings   KEYS[3] reranking   KEYS[4] misranked   KEYS[5] virtual time   KEYS[6] tenants
-- KEYS[7] backlog   then for each request: record
-- ARGV[1] now   ARGV[2] epoch of the policy   ARGV[3] the credit (ms; see start_after) where it is fair, so that ranks
--   are handicaps on a start; '': it is not
-- ARGV[4] name of the piece (see next_misranked)   ARGV[5] number of requests, then for each: id, rank, charge
-- Output: how many got a new rank; false: the policy has changed again, nothing was done

local waiting, reranking, misranked = KEYS[1], KEYS[3], KEYS[4]
local now, epoch, by_start = clock(ARGV[1]), ARGV[2], ARGV[3] ~= ''
if redis.call('HGET', KEYS[2], 'epoch') ~= epoch then return false end
if by_start then read_virtual_time(now, KEYS[5], KEYS[6], KEYS[7], tonumber(ARGV[3])) end
local number, done = tonumber(ARGV[5]), {}
local reranked = 0
for i = 1, number do
  local id, rank, charge = unpack(ARGV, 3 + 3 * i, 5 + 3 * i)
  local r = redis.call('HMGET', KEYS[7 + i], 'state', 'epoch', 'tenant', 'start', 'charge')
  if r[1] == 'waiting' and r[2] ~= epoch then
    if by_start then
      local flow = flow_of(r[3], charge)
      if r[4] then count_ranked(-1, flow_of(r[3], r[5])) end
      local start = start_after(flow, read_charge(charge))
      count_ranked(1, flow)
      rank = ms(start + tonumber(rank))
      redis.call('HSET', KEYS[7 + i], 'rank', rank, 'epoch', epoch, 'start', ms(start), 'charge', charge)
    else
      redis.call('HSET', KEYS[7 + i], 'rank', rank, 'epoch', epoch)
      redis.call('HDEL', KEYS[7 + i], 'start', 'charge')
      if r[4] then count_ranked(-1, flow_of(r[3], r[5])) end
    end
    redis.call('ZADD', waiting, 'XX', rank, id)
    reranked = reranked + 1
  end
  done[i] = id
end
if number > 0 then redis.call('SREM', misranked, unpack(done)) end
if redis.call('HDEL', reranking, 'piece/' .. ARGV[4]) == 1 then
  redis.call('HSET', reranking, 'touched_ms', ms(now))
end
write_backlog(KEYS[7])
write_virtual_time()
return reranked
