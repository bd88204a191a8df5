-- KEYS: what the names of the hashes begin with. ARGV: seconds that one is written to, entries that it may have, id, job.
local hash = KEYS[1] .. ':' .. math.floor(redis.call('TIME')[1] / ARGV[1])
if redis.call('HLEN', hash) >= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', hash, ARGV[3], ARGV[4])
redis.call('EXPIRE', hash, 2 * ARGV[1])
return 1
