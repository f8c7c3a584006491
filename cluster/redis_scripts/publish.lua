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

-- Lua's unpack() has a limited stack, so sets change in chunks.
local function change(command, packed)
  local keys = {}
  for i = 1, #packed, 8 do
    keys[#keys + 1] = string.sub(packed, i, i + 7)
    if #keys == 1000 then
      redis.call(command, KEYS[2], unpack(keys))
      keys = {}
    end
  end
  if #keys > 0 then redis.call(command, KEYS[2], unpack(keys)) end
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
