-- End an incarnation for good.  KEYS: lease, owned, log, load.  ARGV: epoch.  Returns 'ok', 'fenced' or 'lost'.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'lost' end
if epoch ~= ARGV[1] then return 'fenced' end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return 'ok'
