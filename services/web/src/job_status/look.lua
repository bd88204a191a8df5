-- What is kept of a job, and the ticket of whoever now asks the database.
-- KEYS: the job, the epoch. ARGV: a random text, the life of a ticket (ms).
-- Returns the epoch, the ticket, how long the copy has left to live (ms), and its fields. The copy of an epoch that has ended is
-- none; but one of a job that may not be in the database yet is shown as old.
local epoch = redis.call('GET', KEYS[2])
if not epoch then
    epoch = ARGV[1]
    redis.call('SET', KEYS[2], epoch)
end
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'ticket', 'version')
if kept[1] == epoch then
    return {epoch, kept[2], redis.call('PTTL', KEYS[1]), redis.call('HGETALL', KEYS[1])}
end
if kept[1] and kept[3] == '0' then
    return {epoch, kept[2], 0, redis.call('HGETALL', KEYS[1])}
end
if kept[1] or not kept[2] then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'ticket', ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {epoch, ARGV[1], 0, {}}
end
return {epoch, kept[2], 0, {}}
