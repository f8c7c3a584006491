-- Apply one batch of ownership changes: fenced by epoch, ordered by sequence, harmless when repeated.
-- KEYS: lease, owned, log.
-- ARGV: epoch, sequence, ttl in ms, log length, channel, batch, cleared (0 or 1), stored keys, removed keys.
-- Returns 'ok', 'repeated', 'gap', 'fenced' or 'lost'.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'sequence')
if not lease[1] then return 'lost' end
if lease[1] ~= ARGV[1] then return 'fenced' end
local sequence, last = tonumber(ARGV[2]), tonumber(lease[2])
if sequence <= last then return 'repeated' end
if sequence > last + 1 then return 'gap' end

-- Lua's unpack() has a limited stack, so sets change in pieces; 200 keys (1,600 bytes) were the fastest.
local function change(command, packed)
  for first = 1, #packed, 1600 do
    local keys, count = {}, 0
    for i = first, math.min(first + 1599, #packed), 8 do
      count = count + 1
      keys[count] = string.sub(packed, i, i + 7)
    end
    redis.call(command, KEYS[2], unpack(keys))
  end
end

if ARGV[7] == '1' then redis.call('UNLINK', KEYS[2]) end
change('SREM', ARGV[9])
change('SADD', ARGV[8])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], ARGV[2] .. '-0', 'batch', ARGV[6])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
redis.call('HSET', KEYS[1], 'sequence', ARGV[2])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 'ok'
