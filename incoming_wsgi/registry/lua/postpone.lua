-- Give a delivery back, to be tried again. ARGV: the holder's name, the delivery as JSON.
-- Who was cut off for so long that somebody else has it now changes nothing.
local later = cjson.decode(ARGV[2])
local delivery = delivery_of(later.event_id)
if delivery and (delivery.holder == ARGV[1] or delivery.holder == '') then
  redis.call('HSET', key('delivery', later.event_id), 'holder', '', 'request', '', 'attempt', later.attempt,
    'due_at', later.due_at, 'error', later.error)
  redis.call('ZADD', due(delivery), later.due_at, later.event_id)
end
