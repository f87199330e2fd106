-- Open uploads whose bytes are all here. ARGV: how many at most.
local ids = redis.call('SRANDMEMBER', key('all_here'), ARGV[1])
return reply(uploads_of(ids))
