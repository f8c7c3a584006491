-- Write an entry of one owner, and drop the oldest ones beyond a number.
-- KEYS: the entry, the owner's index. ARGV: value, lifetime in seconds, the first bytes that the entry must
-- have now or "", time, most entries. Returns 1 when written.
if ARGV[3] ~= "" and redis.call("GETRANGE", KEYS[1], 0, #ARGV[3] - 1) ~= ARGV[3] then
  return 0
end
redis.call("SET", KEYS[1], ARGV[1], "EX", ARGV[2])
redis.call("ZADD", KEYS[2], ARGV[4], KEYS[1])
redis.call("EXPIRE", KEYS[2], ARGV[2])
redis.call("ZREMRANGEBYSCORE", KEYS[2], "-inf", ARGV[4] - ARGV[2])
local over = redis.call("ZCARD", KEYS[2]) - ARGV[5]
if over > 0 then
  local oldest = redis.call("ZPOPMIN", KEYS[2], over)
  for place = 1, #oldest, 2 do
    redis.call("UNLINK", oldest[place])
  end
end
return 1
