-- Record a new upload. ARGV: the upload as JSON.
local upload = cjson.decode(ARGV[1])
upload.boot_id = era()
write_record(key('upload', upload.id), upload)
list(upload)
if upload.part_of ~= '' then
  redis.call('SADD', key('parts', upload.part_of), upload.id)
end
return reply({upload})
