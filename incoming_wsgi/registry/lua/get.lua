-- Uploads as they are. ARGV: their ids.
return reply(uploads_of(ARGV))
