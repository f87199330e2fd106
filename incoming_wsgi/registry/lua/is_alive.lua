-- Whether a holder has shown a sign of life lately. ARGV: holder.
return is_alive(ARGV[1]) and 1 or 0
