-- Delete an upload and all that belongs to it. ARGV: id.
local id = ARGV[1]
local upload = upload_of(id)
if upload then
  redis.call('ZREM', key('state', upload.state), id)
  redis.call('SREM', key('all_here'), id)
  redis.call('SREM', key('parts', upload.part_of), id)
end
for _, event_id in ipairs(redis.call('SMEMBERS', key('deliveries', id))) do
  drop_delivery(event_id)
end
count(id)
redis.call('ZREM', key('expiring'), id)
redis.call('DEL', key('upload', id), key('digest', id), key('trail', id))
