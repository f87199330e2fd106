-- Compare and set. ARGV: JSON of
--   id, request: of the upload; of this call, so that a repetition after a lost answer is known
--   before: fields that must still be so; arrived: the extents, if they must be so, too
--   quotas: that the change must not exceed; entry, longest_trail: for the trail
--   changes; back_to_synced; all_came: the extents, if these bytes have come with this move; settle: event id; enqueue: delivery
local call = cjson.decode(ARGV[1])
local name = key('upload', call.id)
local upload = upload_of(call.id)
if not upload then
  return false
end
if upload.request == call.request then
  return reply({upload})
end
for field, value in pairs(call.before) do
  if upload[field] ~= value then
    return false
  end
end
if call.arrived and trusted(upload) ~= call.arrived then
  return false
end
local state_before = upload.state
local changes = call.changes
if call.back_to_synced then
  changes.extents = upload.synced
  changes.taken_back = tostring(upload.taken_back + 1)
  redis.call('DEL', key('digest', call.id))
end
if call.all_came then
  changes.extents, changes.synced, changes.boot_id = call.all_came, call.all_came, era()
end
if next(changes) then
  local after = {}
  for field, value in pairs(upload) do
    after[field] = value
  end
  for field, value in pairs(changes) do
    after[field] = value
  end
  local refusal = exceeded(call.quotas, upload, after)
  if refusal then
    return refusal
  end
  changes.version = tostring(upload.version + 1)
  for field, value in pairs(changes) do
    upload[field] = value
  end
  write_record(name, changes)
  list(upload, state_before)
  count(call.id, upload)
  note_expiry(upload)
  note(call, call.id)
  redis.call('PUBLISH', key('changed'), call.id)
end
redis.call('HSET', name, 'request', call.request)
if call.settle then
  drop_delivery(call.settle)
end
if call.enqueue then
  put_delivery(call.enqueue)
end
return reply({upload})
