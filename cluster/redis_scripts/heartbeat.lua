-- Renew a lease and everything that lives as long as it does.
-- KEYS: lease, owned, log, load.  ARGV: epoch, ttl in ms, lease, load.  Returns 'ok', 'fenced' or 'lost'.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'lost' end
if epoch ~= ARGV[1] then return 'fenced' end
redis.call('HSET', KEYS[1], 'lease', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], ARGV[4], 'PX', ARGV[2])
return 'ok'
