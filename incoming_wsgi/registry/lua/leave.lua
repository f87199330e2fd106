-- A process goes. ARGV: holder.
redis.call('ZREM', key('holders'), ARGV[1])
