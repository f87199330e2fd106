-- Uploads as they are. ARGV: their ids.
return reply(ARGV)
