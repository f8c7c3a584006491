-- Which commands this user may not run: tried on keys that are there for as long as this script runs.
-- KEYS: a hash, a set, a sorted set, a stream and a string.  ARGV: prefix of channels.
-- Returns what Redis says of each that it refuses for want of rights, and nothing of other errors.
local hash, set, sorted, stream, text = unpack(KEYS)
local refused = {}
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local why = type(answer) == 'table' and answer.err or ''
  if string.find(why, 'ACL') or string.find(why, 'user executing') then
    refused[#refused + 1] = command .. ' ' .. why
  end
end
try('HSET', hash, 'a', '1')
try('HSETNX', hash, 'a', '1')
try('HINCRBY', hash, 'a', '1')
try('HGET', hash, 'a')
try('HMGET', hash, 'a')
try('HGETALL', hash)
try('HDEL', hash, 'b')
try('SADD', set, 'a')
try('SMEMBERS', set)
try('SSCAN', set, '0')
try('SCARD', set)
try('SREM', set, 'b')
try('ZADD', sorted, '0', 'a')
try('ZRANGE', sorted, '0', '-1')
try('ZREM', sorted, 'b')
try('XADD', stream, '*', 'a', '1')
try('XRANGE', stream, '-', '+')
try('XREVRANGE', stream, '+', '-')
try('XTRIM', stream, 'MAXLEN', '0')
try('SET', text, '1', 'PX', '10000')
try('GET', text)
try('EXISTS', text)
try('PTTL', text)
try('EXPIRE', hash, '10')
try('PEXPIRE', set, '10000')
try('PUBLISH', ARGV[1] .. ':rights', '')
try('TIME')
try('DEL', text)
try('UNLINK', hash, set, sorted, stream)
return refused
