-- An upload that was not there a moment ago. ARGV: its id, the apps that it may be of.
-- Answers nothing where uploads of one of them may be missing: see lost.lua.
local id = ARGV[1]
local upload = upload_of(id)
for place = 2, upload and 1 or #ARGV do
  if redis.call('SISMEMBER', key('whole'), ARGV[place]) == 0 then
    return false
  end
end
return reply(uploads_of({id}))
