-- A sign of life. ARGV: holder, boot, seconds that leases last, the time that the process knows, a name for a new era
-- (for a server that has lost everything), duties and tokens …
-- Answers: the time, the era.
local holder, boot, lease, at_least, new_era = unpack(ARGV)
local time = now(at_least)
redis.call('ZREMRANGEBYSCORE', key('holders'), '-inf', time)
redis.call('ZADD', key('holders'), time + lease, holder)
redis.call('ZADD', key('boots'), 'XX', time, boot)
redis.call('SETNX', key('era'), new_era)
for place = 6, #ARGV, 2 do
  local duty = key('duty', ARGV[place])
  if redis.call('GET', duty) == ARGV[place + 1] then
    redis.call('PEXPIRE', duty, lease * 1000)
  end
end
return {time, era()}
