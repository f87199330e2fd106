-- Take the next delivery that is due. ARGV: this call's name, the holder's, the time, the app, handlers …
-- A call that is repeated under its name, since its answer was lost, gets what it has got.
local request, holder, time, app = unpack(ARGV)
local found = {}
for place = 5, #ARGV do
  local listed = redis.call('ZRANGEBYSCORE', key('due', ARGV[place], app), '-inf', time, 'WITHSCORES', 'LIMIT', 0, 1000)
  for at = 1, #listed, 2 do
    found[#found + 1] = {listed[at], tonumber(listed[at + 1])}
  end
end
table.sort(found, function(one, other) return one[2] < other[2] end)

for _, event in ipairs(found) do
  if redis.call('HGET', key('delivery', event[1]), 'request') == request then
    local delivery = delivery_of(event[1])
    delivery.attempt = tostring(delivery.attempt - 1)
    return cjson.encode(delivery)
  end
end
for _, event in ipairs(found) do
  local delivery = delivery_of(event[1])
  if delivery.holder == '' or not is_alive(delivery.holder) then
    -- Counted now: an attempt in which the holder dies was one, too.
    redis.call('HSET', key('delivery', event[1]), 'holder', holder, 'request', request,
      'attempt', delivery.attempt + 1)
    return cjson.encode(delivery)
  end
end
return false
