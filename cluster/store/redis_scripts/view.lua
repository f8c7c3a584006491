-- Read a lease and the blocks that belong to it at one moment.
-- KEYS: lease.  ARGV: prefix of owned keys.  Returns nil, or epoch, sequence, lease and all owned keys as one string.
local found = redis.call('HMGET', KEYS[1], 'epoch', 'sequence', 'lease')
if not found[1] then return false end
return {found[1], found[2], found[3], table.concat(redis.call('SMEMBERS', ARGV[1] .. found[1]))}
