-- A process comes. ARGV: the schema that it knows, the boot of its machine, a name for a new era, when it came (by an
-- earlier answer; empty at first), seconds of patience.
-- Answers: the schema, the time, and the era as soon as it is known.
--
-- An era ends when a machine may have gone down with bytes that were not synced. Known are the boots of those that have
-- recorded such bytes. Another boot can be a further machine, or one that is back: it is a further one only if all that
-- are known are heard of after it has come.
local schema, boot, new_era, came, patience = unpack(ARGV)
redis.call('SETNX', key('schema'), schema)
local theirs = redis.call('GET', key('schema'))
local time = now()
if tonumber(theirs) > tonumber(schema) then
  return {theirs, time, false}
end
redis.call('SETNX', key('era'), new_era)
if not redis.call('ZSCORE', key('boots'), boot) then
  came = came ~= '' and came or time
  local silent = redis.call('ZRANGEBYSCORE', key('boots'), '-inf', came)
  if #silent > 0 then
    if time - came < tonumber(patience) then
      return {theirs, came, false}
    end
    redis.call('SET', key('era'), new_era)
    redis.call('ZREM', key('boots'), unpack(silent))
  end
end
return {theirs, time, era()}
