-- Put a delivery into the outbox. ARGV: it, as JSON.
put_delivery(cjson.decode(ARGV[1]))
