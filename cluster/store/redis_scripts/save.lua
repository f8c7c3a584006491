-- Add what one router has counted to the sums of an hour, once: harmless when repeated.
-- KEYS: sums.
-- ARGV: field with the router's last sequence, sequence, the sequence that must have come before, seconds to
-- live, then pairs of a field and a number.
-- Returns the sequence that was there: this one when it is repeated; it was added only to the one before.
local last = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if last == ARGV[3] then
  for i = 5, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return tonumber(last)
