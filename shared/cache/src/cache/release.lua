-- Gives a lease back without a value. Where an older value stands, nobody loads again for a while; else whoever waits does.
-- KEYS: value, lease. ARGV: token, pause (ms).
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return 0
end
if redis.call('EXISTS', KEYS[1]) == 1 then
    redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
else
    redis.call('DEL', KEYS[2])
end
return 1
