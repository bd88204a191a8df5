-- KEYS: what the names of the hashes begin with. ARGV: seconds that one is written to, claims that it may have, id, payload.
local period = math.floor(redis.call('TIME')[1] / ARGV[1])
local hash = KEYS[1] .. ':' .. period
local known = redis.call('HGET', hash, ARGV[3]) or redis.call('HGET', KEYS[1] .. ':' .. (period - 1), ARGV[3])
if known then return known == ARGV[4] and 'same' or 'other' end
local claims = redis.call('HLEN', hash)
if claims >= tonumber(ARGV[2]) then return 'full' end
redis.call('HSET', hash, ARGV[3], ARGV[4])
-- From its first claim on, so that it is there for the whole of the next period.
if claims == 0 then redis.call('EXPIRE', hash, 2 * ARGV[1]) end
return 'new'
