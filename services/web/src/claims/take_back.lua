-- KEYS: what the names of the hashes begin with. ARGV: seconds that one is written to, id, payload.
local period = math.floor(redis.call('TIME')[1] / ARGV[1])
for _, hash in ipairs({KEYS[1] .. ':' .. period, KEYS[1] .. ':' .. (period - 1)}) do
    if redis.call('HGET', hash, ARGV[2]) == ARGV[3] then redis.call('HDEL', hash, ARGV[2]) end
end
return 1
