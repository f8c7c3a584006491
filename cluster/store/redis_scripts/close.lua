-- End an incarnation for good.
-- KEYS: lease, owned, log, load, farewell.  ARGV: epoch, channel, announcement, seconds that the farewell stays.
-- Returns 'ok', 'fenced', or 'lost' when there was no lease any more: that is said good-bye to all the same.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch and epoch ~= ARGV[1] then return 'fenced' end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[5], '1', 'EX', ARGV[4])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return epoch and 'ok' or 'lost'
