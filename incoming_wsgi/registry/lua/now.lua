-- The time. ARGV: the latest that the process knows of.
return now(ARGV[1])
