-- Whether uploads of an app may be missing, since this registry has begun anew. ARGV: the app.
-- Answers: the era, which is empty until somebody has given it a name, and for how many seconds that has been known;
-- nothing where all are here.
local app, time = ARGV[1], now()
if redis.call('SISMEMBER', key('whole'), app) == 1 then
  return false
end
redis.call('HSETNX', key('lost'), app, time)
return {era(), string.format('%.6f', time - redis.call('HGET', key('lost'), app))}
