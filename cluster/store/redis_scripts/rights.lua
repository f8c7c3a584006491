-- Which commands this user may not run: tried on keys that are there for as long as this script runs.
-- KEYS: a hash, a set, a sorted set, a stream and a string.  ARGV: prefix of channels.
-- Returns what Redis says of each that it refuses for want of rights, and nothing of other errors.
local h, s, z, x, t = unpack(KEYS)
local refused = {}
for _, call in ipairs({
  {'HSET', h, 'a', '1'}, {'HSETNX', h, 'a', '1'}, {'HINCRBY', h, 'a', '1'},
  {'HGET', h, 'a'}, {'HMGET', h, 'a'}, {'HGETALL', h}, {'HDEL', h, 'b'},
  {'SADD', s, 'a'}, {'SMEMBERS', s}, {'SSCAN', s, '0'}, {'SCARD', s}, {'SREM', s, 'b'},
  {'ZADD', z, '0', 'a'}, {'ZRANGE', z, '0', '-1'}, {'ZREM', z, 'b'}, {'ZCARD', z}, {'ZPOPMIN', z},
  {'ZREMRANGEBYSCORE', z, '0', '0'},
  {'XADD', x, '*', 'a', '1'}, {'XRANGE', x, '-', '+'}, {'XREVRANGE', x, '+', '-'}, {'XTRIM', x, 'MAXLEN', '0'},
  {'SET', t, '1', 'PX', '10000'}, {'GET', t}, {'GETEX', t, 'PX', '10000'}, {'GETRANGE', t, '0', '0'},
  {'EXISTS', t}, {'PTTL', t}, {'EXPIRE', h, '10'}, {'PEXPIRE', s, '9000'},
  {'PUBLISH', ARGV[1] .. ':rights', ''}, {'TIME'}, {'DEL', t}, {'UNLINK', h, s, z, x},
}) do
  local answer = redis.pcall(unpack(call))
  local why = type(answer) == 'table' and answer.err or ''
  if string.find(why, 'ACL') or string.find(why, 'user executing') then
    refused[#refused + 1] = call[1] .. ' ' .. why
  end
end
return refused
