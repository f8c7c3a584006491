-- Renew a lease and everything that lives as long as it does.
-- KEYS: lease, owned, log, load.
-- ARGV: epoch, ttl in ms, lease, load, channel, announcement (empty: none), then one or two pairs of a sequence
-- and a number of owned keys. Redis must be at one of them: a failover can lose the last batches, and anybody
-- can delete a key, while the lease lives.
-- Returns 'ok', 'gap', 'fenced' or 'lost'.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if not lease[1] then return 'lost' end
if lease[1] ~= ARGV[1] then return 'fenced' end
local owned = redis.call('SCARD', KEYS[2])
local intact = false
for i = 7, #ARGV, 2 do
  intact = intact or (ARGV[i] == lease[2] and tonumber(ARGV[i + 1]) == owned)
end
if not intact then return 'gap' end
redis.call('HSET', KEYS[1], 'lease', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[2])
if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 'ok'
