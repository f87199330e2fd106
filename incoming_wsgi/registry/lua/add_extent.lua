-- Merge a range into what has arrived. ARGV: id, session, the range as JSON, whether it is synced.
local id, session, range, is_synced = unpack(ARGV)
local upload = upload_of(id)
if not upload or upload.session ~= session or not OPEN[upload.state] then
  return false
end
upload.extents = merged(trusted(upload), range)
if is_synced == '1' then
  upload.synced = merged(upload.synced, range)
end
upload.boot_id = era()
upload.active_at = now()
redis.call('HSET', key('upload', id), 'extents', upload.extents, 'synced', upload.synced,
  'boot_id', upload.boot_id, 'active_at', upload.active_at)
list(upload)
return reply({id})
