-- KEYS: what the names of the hashes begin with. ARGV: seconds that one is written to, id.
local period = math.floor(redis.call('TIME')[1] / ARGV[1])
return redis.call('HGET', KEYS[1] .. ':' .. period, ARGV[2]) or redis.call('HGET', KEYS[1] .. ':' .. (period - 1), ARGV[2])
