-- Brings copies up to what the database has become, and tells whoever waits.
-- KEYS: the jobs. ARGV: a copy's life (ms), channel; then for each job its id, the number before, the version, 1 if what it caused
-- is to be asked for again, how many of the following are its fields and values, and these.
-- A copy that lacks something between is dropped, and with it the tickets of those who may have read the database before.
local at = 3
for i, key in ipairs(KEYS) do
    local before, new, count = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 4])
    local version = tonumber(redis.call('HGET', key, 'version') or nil)
    if count > 0 and version and math.floor(version / 2) == before then
        redis.call('HSET', key, 'version', new, unpack(ARGV, at + 5, at + 4 + count))
        if ARGV[at + 3] == '1' then redis.call('HDEL', key, 'chain') end
        redis.call('PEXPIRE', key, ARGV[1])
    elseif not version or version < new then
        redis.call('DEL', key)
    end
    redis.call('PUBLISH', ARGV[2], ARGV[at])
    at = at + 5 + count
end
return 1
