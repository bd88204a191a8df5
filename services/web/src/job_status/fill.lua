-- Keeps a job as the database had it, if nothing was dropped since the ticket was given, and nothing newer is kept.
-- KEYS: the job. ARGV: epoch and ticket, the copy's life (ms), channel, the job's id, version, its chain, fields and values. No chain
-- is kept where that is empty.
-- Returns whether the copy says something new. Under an epoch that has ended meanwhile it is kept, and never shown.
local kept = redis.call('HMGET', KEYS[1], 'ticket', 'version')
local version, new = tonumber(kept[2] or -1), tonumber(ARGV[6])
-- More fields than a script can hand on are not kept.
if kept[1] ~= ARGV[2] or version > new or #ARGV > 7000 then return 0 end
if version < new then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'ticket', ARGV[2], 'version', new, unpack(ARGV, 8))
    redis.call('PUBLISH', ARGV[4], ARGV[5])
end
if ARGV[7] ~= '' then
    redis.call('HSET', KEYS[1], 'chain', ARGV[7])
else
    redis.call('HDEL', KEYS[1], 'chain')
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return version < new and 1 or 0
