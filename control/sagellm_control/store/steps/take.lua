-- take: a scheduler takes the next arrivals, from the most urgent stream down with the credit that is left, and the
-- announcements of free room. (One XREADGROUP over several streams would give up to COUNT from each.)
--
-- KEYS[1..5] intake streams, most urgent first   KEYS[6] freed
-- ARGV[1] consumer   ARGV[2] most arrivals   ARGV[3] most announcements
-- Output: for each of the six streams its entries {id, {field, value, …}}

local function read(stream, count)
  if count <= 0 then return {} end
  local answer = redis.call('XREADGROUP', 'GROUP', SCHEDULERS, ARGV[1], 'COUNT', count, 'STREAMS', stream, '>')
  return answer and answer[1] and answer[1][2] or {}
end

local credit = tonumber(ARGV[2])
local taken = {}
for level = 1, 5 do
  taken[level] = read(KEYS[level], credit)
  credit = credit - #taken[level]
end
taken[6] = read(KEYS[6], tonumber(ARGV[3]))
return taken
