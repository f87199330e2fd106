-- The running hash that was remembered. ARGV: upload id.
local kept = redis.call('HMGET', key('digest', ARGV[1]), 'position', 'state', 'era')
return kept[3] == era() and {kept[1], kept[2]}
