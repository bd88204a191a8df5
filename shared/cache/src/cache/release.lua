-- Gives a lease back without a value. Where an older value stands, nobody loads again for a while; else whoever waits does.
-- ARGV: token, pause (ms).
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then
    return 0
end
redis.call('HDEL', KEYS[1], 't', 'u')
if redis.call('HEXISTS', KEYS[1], 'v') == 1 then
    local time = redis.call('TIME')
    redis.call('HSET', KEYS[1], 'u', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
end
return 1
