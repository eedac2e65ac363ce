-- note_orphan: all who listened to a request are gone; a keeper looks at it again when its grace is over.
--
-- KEYS[1] orphans
-- ARGV[1] id   ARGV[2] when its grace is over (ms)
-- Output: 1, or 0 if it was noted already

return redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
