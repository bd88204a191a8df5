-- What stands in an entry, and who is to load it. docs/cache.md has the keys.
-- KEYS: value, lease. ARGV: token, lease (ms), early (a drawn number of load costs), the soft expiry of a value that the caller
-- cannot read, or ''.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('GET', KEYS[1])
local expiry, cost = string.match(stored or '', '^(%d+) (%d+) ')
local readable = expiry and expiry ~= ARGV[4]
if readable and now + cost * ARGV[3] < tonumber(expiry) then
    return {'take', now, stored}
end
-- A lease whose holder is heard of no more, because it has died, is nobody's. A server that does not tell says nothing of the dead.
local holder = string.match(redis.call('GET', KEYS[2]) or '', '^%x+ (.+)$')
if holder and redis.pcall('PUBSUB', 'NUMSUB', holder)[2] == 0 then
    redis.call('DEL', KEYS[2])
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return readable and {'refresh', now, stored} or {'load', now, false}
end
return readable and {'take', now, stored} or {'wait', now, false}
