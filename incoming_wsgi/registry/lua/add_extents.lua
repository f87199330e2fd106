-- Merge ranges into what has arrived. ARGV: id, session, the ranges as JSON, whether they are synced, boot.
local id, session, ranges, is_synced, boot = unpack(ARGV)
local upload = upload_of(id)
if not upload or upload.session ~= session or not OPEN[upload.state] then
  return false
end
upload.extents = merged(trusted(upload), ranges)
upload.boot_id = era()
upload.active_at = now()
if is_synced == '1' then
  upload.synced = merged(upload.synced, ranges)
else
  redis.call('ZADD', key('boots'), upload.active_at, boot)
end
redis.call('HSET', key('upload', id), 'extents', upload.extents, 'synced', upload.synced,
  'boot_id', upload.boot_id, 'active_at', upload.active_at)
list(upload)
if upload.length == '' then
  count(id, upload)
end
return reply({upload})
