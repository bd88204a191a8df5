-- What stands in an entry, and who is to load it. docs/cache.md has the fields.
-- ARGV: token, lease (ms), early (a drawn number of load costs), the soft expiry of a value that the caller cannot read, or ''.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call('HMGET', KEYS[1], 'v', 'u')
local stored, leased_until = entry[1], tonumber(entry[2] or 0)
local expiry, cost = string.match(stored or '', '^(%d+) (%d+) ')
local readable = expiry and expiry ~= ARGV[4]
if readable and now + cost * ARGV[3] < tonumber(expiry) then
    return {'take', now, stored}
end
if leased_until > now then
    return readable and {'take', now, stored} or {'wait', now, false}
end
redis.call('HSET', KEYS[1], 't', ARGV[1], 'u', now + ARGV[2])
if not stored then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return readable and {'refresh', now, stored} or {'load', now, false}
