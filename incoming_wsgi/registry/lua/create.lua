-- Record a new upload. ARGV: JSON of
--   upload; entry, longest_trail: for its trail; quotas: that it must not exceed; rates: name, burst and interval of buckets that a token is taken from
-- Answers: nothing, place and what of the quota that stands against it; of a rate the seconds to wait. Else the upload.
local call = cjson.decode(ARGV[1])
local upload = call.upload
if upload_of(upload.id) then
  return reply({upload_of(upload.id)})
end
upload.boot_id = era()
local full_at, time = {}, tonumber(now())
for place, rate in ipairs(call.rates) do
  local before = tonumber(redis.call('GET', key('rate', rate.name)) or 0)
  local wait = math.max(time, before) - time - (rate.burst - 1) * rate.interval
  full_at[place] = math.max(time, before) + rate.interval
  if wait > 0 then
    return {false, place - 1, string.format('%.6f', wait)}
  end
end
local refusal = exceeded(call.quotas, nil, upload)
if refusal then
  return refusal
end
for place, rate in ipairs(call.rates) do
  local milliseconds = math.ceil((full_at[place] - time) * 1000)
  redis.call('SET', key('rate', rate.name), string.format('%.6f', full_at[place]), 'PX', milliseconds)
end
write_record(key('upload', upload.id), upload)
list(upload)
count(upload.id, upload)
note_expiry(upload)
note(call, upload.id)
if upload.part_of ~= '' then
  redis.call('SADD', key('parts', upload.part_of), upload.id)
end
return reply({upload})
