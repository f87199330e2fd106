-- What open uploads take up: how many, and their bytes. ARGV: app, scope, whose.
return usage(unpack(ARGV))
