-- The uploads of an app are all here again, unless everything was lost once more since they were sought.
-- ARGV: the app, the era in which that began.
local app, sought_in = unpack(ARGV)
if sought_in ~= '' and era() == sought_in then
  redis.call('SADD', key('whole'), app)
  redis.call('HDEL', key('lost'), app)
end
