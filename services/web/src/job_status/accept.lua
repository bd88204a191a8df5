-- Begins the copy of a job that was accepted, unless there is one.
-- KEYS: the job, the epoch. ARGV: a random text, the copy's life (ms), the job, its chain: it has caused nothing yet.
local epoch = redis.call('GET', KEYS[2])
if not epoch then
    epoch = ARGV[1]
    redis.call('SET', KEYS[2], epoch)
end
if redis.call('HGET', KEYS[1], 'epoch') == epoch then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', epoch, 'ticket', ARGV[1], 'version', 0, 'job', ARGV[3], 'chain', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
