-- Begin a new incarnation of a replica: what the old one owned is dead with this one write.
-- KEYS: lease.  ARGV: lease, ttl in ms, prefix of owned keys, prefix of log keys.  Returns the new epoch.
-- Epochs come from Redis' clock, so they grow even when Redis has lost everything it knew.
local time = redis.call('TIME')
local epoch = time[1] * 1000 + math.floor(time[2] / 1000)
local old = redis.call('HGET', KEYS[1], 'epoch')
if old then
  epoch = math.max(epoch, tonumber(old) + 1)
  redis.call('UNLINK', ARGV[3] .. old, ARGV[4] .. old)
end
epoch = string.format('%.0f', epoch)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', '0', 'lease', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return epoch
