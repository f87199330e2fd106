-- Record that ranges survive a power cut. ARGV: id, how often bytes had been taken back, the ranges as JSON.
local id, taken_back, ranges = unpack(ARGV)
local upload = upload_of(id)
if upload and upload.taken_back == taken_back then
  redis.call('HSET', key('upload', id), 'synced', merged(upload.synced, ranges))
end
