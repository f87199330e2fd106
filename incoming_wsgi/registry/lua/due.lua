-- A delivery of an upload. ARGV: upload id.
local events = redis.call('SMEMBERS', key('deliveries', ARGV[1]))
table.sort(events)
return events[1] and cjson.encode(delivery_of(events[1]))
