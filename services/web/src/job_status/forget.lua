-- Forgets what these jobs caused, so that it is asked for; and tells whoever waits.
-- KEYS: the jobs. ARGV: channel, a random text, the jobs' ids.
-- The ticket of whoever asked the database before may not bring it back. The rest of a copy stays.
for i, key in ipairs(KEYS) do
    if redis.call('EXISTS', key) == 1 then
        redis.call('HDEL', key, 'chain')
        redis.call('HSET', key, 'ticket', ARGV[2])
    end
    redis.call('PUBLISH', ARGV[1], ARGV[i + 2])
end
return 1
