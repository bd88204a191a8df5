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
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
    return readable and {'refresh', now, stored} or {'load', now, false}
end
return readable and {'take', now, stored} or {'wait', now, false}
