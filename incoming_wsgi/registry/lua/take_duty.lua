-- Take a duty, unless somebody has it. ARGV: duty, token, seconds.
local duty, token, lease = key('duty', ARGV[1]), ARGV[2], ARGV[3]
local taken = redis.call('GET', duty) or token
if taken == token then
  redis.call('SET', duty, token, 'PX', lease * 1000)
end
return taken == token and 1 or 0
