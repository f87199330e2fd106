-- The parts of an upload, in any order. ARGV: its id.
return reply(uploads_of(redis.call('SMEMBERS', key('parts', ARGV[1]))))
