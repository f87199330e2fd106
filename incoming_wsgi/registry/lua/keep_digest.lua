-- Remember a running hash. ARGV: upload id, how often bytes had been taken back, position, state.
local id, taken_back, position, state = unpack(ARGV)
local upload = upload_of(id)
if upload and upload.taken_back == taken_back then
  redis.call('HSET', key('digest', id), 'position', position, 'state', state, 'era', era())
end
