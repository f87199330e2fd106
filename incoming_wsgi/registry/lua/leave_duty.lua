-- Give a duty back. ARGV: duty, token.
local duty = key('duty', ARGV[1])
if redis.call('GET', duty) == ARGV[2] then
  redis.call('DEL', duty)
end
