-- Begin a new incarnation of a replica: what the old one owned is dead with this one write.
-- KEYS: lease, farewell.  ARGV: lease, ttl in ms, prefix of owned keys, prefix of log keys, the agent's last epoch,
-- channel, announcement.  Returns the new epoch.
-- Epochs come from Redis' clock, so they grow even when Redis has lost everything it knew. After a failover
-- that clock may be behind; then they grow from the agent's last one.
local time = redis.call('TIME')
local epoch = math.max(time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[5]) + 1)
local old = redis.call('HGET', KEYS[1], 'epoch')
if old then
  epoch = math.max(epoch, tonumber(old) + 1)
  redis.call('UNLINK', ARGV[3] .. old, ARGV[4] .. old)
end
epoch = string.format('%.0f', epoch)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'sequence', '0', 'lease', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('UNLINK', KEYS[2])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return epoch
