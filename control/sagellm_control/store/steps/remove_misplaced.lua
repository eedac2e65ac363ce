-- remove_misplaced: keys that somebody has made into another type stop every step that touches them. They are deleted:
-- what they held is gone already, and is derived again from the records.
--
-- KEYS[1] the first key, then all others   ARGV[1] number of keys, then the type of each, as TYPE names it
-- Output: pairs of the number of a key that was deleted, and the type that it had

local found = {}
for i = 1, tonumber(ARGV[1]) do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= ARGV[1 + i] then
    redis.call('DEL', KEYS[i])
    found[#found + 1] = i
    found[#found + 1] = kind
  end
end
return found
