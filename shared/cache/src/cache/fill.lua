-- Stores what was loaded under a lease, unless the lease is gone: then what was loaded may be older than an invalidation.
-- KEYS: value, lease. ARGV: token, value, fresh for (ms), kept for (ms), cost of the load (ms).
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], string.format('%.0f %d ', now + ARGV[3], ARGV[5]) .. ARGV[2], 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
return 1
