-- Stores what was loaded under a lease, unless the lease is gone: then what was loaded may be older than an invalidation.
-- ARGV: token, value, fresh for (ms), kept for (ms), cost of the load (ms).
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'v', string.format('%.0f %d ', now + ARGV[3], ARGV[5]) .. ARGV[2])
redis.call('HDEL', KEYS[1], 't', 'u')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
