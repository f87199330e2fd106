-- What the scripts share: it stands before each of them.
-- Every key begins with KEYS[1]; the braces in it keep all of them in one slot.

local function key(...)
  return KEYS[1] .. ':' .. table.concat({...}, ':')
end

-- Seconds by which the clock may advance at once: less than a lease lasts. Who was cut off together with everybody
-- else has time to renew its own.
local LONGEST_STEP = 5

-- The clock of all machines. It follows the server's, but never goes back, and makes no long step: neither when
-- somebody sets the server's clock, nor when another server takes over, nor when nobody was there to look at it.
local function now(at_least)
  local time = redis.call('TIME')
  local wall = time[1] + time[2] / 1000000
  local clock = redis.call('HMGET', key('clock'), 'now', 'wall')
  local step = math.max(0, math.min(LONGEST_STEP, wall - (tonumber(clock[2]) or wall)))
  local shown = math.max((tonumber(clock[1]) or wall) + step, tonumber(at_least or 0))
  redis.call('HSET', key('clock'), 'now', string.format('%.6f', shown), 'wall', string.format('%.6f', wall))
  return string.format('%.6f', shown)
end

local function is_alive(holder)
  local until_then = redis.call('ZSCORE', key('holders'), holder)
  return until_then and tonumber(until_then) > tonumber(now())
end

local function record_of(name)
  local flat, record = redis.call('HGETALL', name), {}
  for place = 1, #flat, 2 do
    record[flat[place]] = flat[place + 1]
  end
  return record
end

local function write_record(name, record)
  for field, value in pairs(record) do
    redis.call('HSET', name, field, value)
  end
end

-- Extents, as Python writes them: [[0,5],[7,9]]. Lua's numbers are exact up to 2^53 only, so they stay text.

local function is_below(one, other)
  if #one ~= #other then
    return #one < #other
  end
  return one < other
end

local function ranges_of(text)
  local ranges = {}
  for first, last in string.gmatch(text, '(%d+),(%d+)') do
    ranges[#ranges + 1] = {first, last}
  end
  return ranges
end

local function text_of(ranges)
  local pieces = {}
  for place, range in ipairs(ranges) do
    pieces[place] = '[' .. range[1] .. ',' .. range[2] .. ']'
  end
  return '[' .. table.concat(pieces, ',') .. ']'
end

local function merged(one, other)
  local left, right, result = ranges_of(one), ranges_of(other), {}
  local l, r = 1, 1
  while left[l] or right[r] do
    local range
    if right[r] and (not left[l] or is_below(right[r][1], left[l][1])) then
      range, r = right[r], r + 1
    else
      range, l = left[l], l + 1
    end
    local before = result[#result]
    if not before or is_below(before[2], range[1]) then
      result[#result + 1] = range
    elseif is_below(before[2], range[2]) then
      before[2] = range[2]
    end
  end
  return text_of(result)
end

-- Uploads

local OPEN = {waiting = true, receiving = true, paused = true}
local ENDING_BY_LENGTH = {incoming = true, tus = true}

local function era()
  return redis.call('GET', key('era')) or ''
end

-- What can be trusted of an upload: nothing that was not synced when a machine went down.
local function trusted(upload)
  return upload.boot_id == era() and upload.extents or upload.synced
end

local function upload_of(id)
  local upload = record_of(key('upload', id))
  return upload.id and upload
end

local function is_all_here(upload)
  local all = upload.length == '0' and '[]' or '[[0,' .. upload.length .. ']]'
  local ends_by_length = ENDING_BY_LENGTH[upload.protocol] and upload.part_of == ''
  return OPEN[upload.state] and ends_by_length and upload.extents == all
end

-- Keep an upload where it is looked for.
local function list(upload, state_before)
  if state_before and state_before ~= upload.state then
    redis.call('ZREM', key('state', state_before), upload.id)
  end
  redis.call('ZADD', key('state', upload.state), upload.active_at, upload.id)
  redis.call(is_all_here(upload) and 'SADD' or 'SREM', key('all_here'), upload.id)
end

-- The era, and each upload as JSON.
local function reply(uploads)
  local rows = {era()}
  for _, upload in ipairs(uploads) do
    rows[#rows + 1] = cjson.encode(upload)
  end
  return rows
end

local function uploads_of(ids)
  local uploads = {}
  for _, id in ipairs(ids) do
    uploads[#uploads + 1] = upload_of(id) or nil
  end
  return uploads
end

-- Quotas: for each scope the number of open uploads, and their bytes. What an upload counts for is remembered with it:
-- it is taken away as it was added. Sums are text, or of HINCRBY; comparisons only are of Lua's numbers.

-- Bytes that one upload counts for at most, 1 PiB: the sum of thousands of them is still a number for HINCRBY.
local MOST_COUNTED = '1125899906842624'

local function received(upload)
  local sum = 0
  for _, range in ipairs(ranges_of(trusted(upload))) do
    sum = sum + tonumber(range[2]) - tonumber(range[1])
  end
  return string.format('%.0f', sum)
end

local function use_of(upload)
  if not upload or not OPEN[upload.state] then
    return {uploads = '0', bytes = '0'}
  end
  local bytes = upload.length ~= '' and upload.length or received(upload)
  return {uploads = upload.part_of == '' and '1' or '0', bytes = is_below(MOST_COUNTED, bytes) and MOST_COUNTED or bytes}
end

local function scope_of(app, scope, whose)
  return cjson.encode({app, scope, whose})
end

local function add_to(field, number)
  if number ~= '0' and redis.call('HINCRBY', key('usage'), field, number) == 0 then
    redis.call('HDEL', key('usage'), field)
  end
end

local function negative(number)
  return number == '0' and number or '-' .. number
end

-- Count an upload as it is now; without the second argument, no more.
local function count(id, upload)
  local counted = redis.call('HGET', key('counted'), id)
  if counted then
    local before = cjson.decode(counted)
    for _, scope in ipairs(before.scopes) do
      add_to(scope .. 'uploads', negative(before.uploads))
      add_to(scope .. 'bytes', negative(before.bytes))
    end
    redis.call('HDEL', key('counted'), id)
  end
  if not upload or not OPEN[upload.state] then
    return
  end
  local use = use_of(upload)
  use.scopes = {scope_of(upload.app, 'app', '')}
  for _, name in ipairs({'owner', 'client'}) do
    if upload[name] and upload[name] ~= '' then
      use.scopes[#use.scopes + 1] = scope_of(upload.app, name, upload[name])
    end
  end
  for _, scope in ipairs(use.scopes) do
    add_to(scope .. 'uploads', use.uploads)
    add_to(scope .. 'bytes', use.bytes)
  end
  redis.call('HSET', key('counted'), id, cjson.encode(use))
end

-- A line of what has happened to an upload, where a call has one.
local function note(call, id)
  if call.entry then
    redis.call('RPUSH', key('trail', id), now() .. ' ' .. call.entry)
    redis.call('LTRIM', key('trail', id), -call.longest_trail, -1)
  end
end

-- Note when the time of an upload is over. What is closed has none.
local function note_expiry(upload)
  local at = tonumber(upload.expires_at or 0)
  if at > 0 and OPEN[upload.state] then
    redis.call('ZADD', key('expiring'), at, upload.id)
  else
    redis.call('ZREM', key('expiring'), upload.id)
  end
end

local function usage(app, scope, whose)
  local name = scope_of(app, scope, whose)
  return redis.call('HMGET', key('usage'), name .. 'uploads', name .. 'bytes')
end

-- What says that a change would exceed a quota; nothing where it does not.
local function exceeded(quotas, before, after)
  for place, quota in ipairs(quotas or {}) do
    local used = usage(quota.app, quota.scope, quota.whose)
    local function use(upload)
      local counts = upload and upload.app == quota.app and (quota.scope == 'app' or upload[quota.scope] == quota.whose)
      return use_of(counts and upload or nil)
    end
    local was, will_be = use(before), use(after)
    for at, what in ipairs({'uploads', 'bytes'}) do
      local limit, more = tonumber(quota[what]), tonumber(will_be[what]) - tonumber(was[what])
      if limit > 0 and more > 0 and tonumber(used[at] or 0) + more > limit then
        return {false, place - 1, what}
      end
    end
  end
end

-- The outbox

local function due(delivery)
  return key('due', delivery.handler, delivery.app)
end

local function delivery_of(event_id)
  local delivery = record_of(key('delivery', event_id))
  return delivery.event_id and delivery
end

local function drop_delivery(event_id)
  local delivery = delivery_of(event_id)
  if delivery then
    redis.call('ZREM', due(delivery), event_id)
    redis.call('SREM', key('deliveries', delivery.upload_id), event_id)
    redis.call('DEL', key('delivery', event_id))
  end
end

local function put_delivery(delivery)
  drop_delivery(delivery.event_id)
  write_record(key('delivery', delivery.event_id), delivery)
  redis.call('ZADD', due(delivery), delivery.due_at, delivery.event_id)
  redis.call('SADD', key('deliveries', delivery.upload_id), delivery.event_id)
end
