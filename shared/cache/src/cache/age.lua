-- Has values be loaded anew while they are given on, and refuses what is being loaded for them: that may be older.
-- KEYS: value and lease, of each entry.
for number = 1, #KEYS, 2 do
    redis.call('DEL', KEYS[number + 1])
    local stored = redis.call('GET', KEYS[number])
    local rest = string.match(stored or '', '^%d+( %d+ .*)$')
    if not rest or string.match(rest, '^ %d+ \16$') then
        -- Nothing, or that there is nothing: that has no grace.
        redis.call('DEL', KEYS[number])
    else
        -- Its soft expiry is long over, on every clock; it goes when it would have gone.
        redis.call('SET', KEYS[number], '0' .. rest, 'KEEPTTL')
    end
end
return 1
