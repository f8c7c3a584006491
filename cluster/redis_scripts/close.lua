-- End an incarnation for good.  KEYS: lease, owned, log, load.  ARGV: epoch, channel, announcement.
-- Returns 'ok', 'fenced' or 'lost'.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then return 'lost' end
if epoch ~= ARGV[1] then return 'fenced' end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 'ok'
