/**
 * What runs inside Redis: a library of functions, each of which looks at the fence and does its work in one
 * step. The number in their names is that of the library: daemons of different versions bring their own.
 *
 * Each function declares every key that it touches and, as its last one, a key that never exists: while a
 * slot is being moved to another node, Redis then answers TRYAGAIN to all of them, where it would otherwise
 * begin one and abort it half done. In Redis 7.0 neither `string` nor `redis.call` is there while the
 * library loads, so nothing is made then.
 */

export const APPEND = "mallocd1_append";
export const CLAIM = "mallocd1_claim";
export const RENEW = "mallocd1_renew";
export const RELEASE = "mallocd1_release";
export const STORE = "mallocd1_store";
export const TRIM = "mallocd1_trim";

/** The first word of a refusal because the range has another owner now, or is gone. */
export const FENCED = "FENCED";
/** The first word of a refusal because the range is not what it was when it was looked at. */
export const CHANGED = "CHANGED";

export const LIBRARY = `#!lua name=mallocd1

local function fenced(head, fence)
  local now = redis.call('HGET', head, 'fence')
  if now == fence then return nil end
  if not now then return redis.error_reply('${FENCED} the range is gone') end
  local owner = redis.call('HGET', head, 'owner')
  return redis.error_reply('${FENCED} the range belongs to ' .. owner .. ' now, with fence ' .. now)
end

-- keys: head, log, never; args: fence, number, batch
-- What is there already is none the worse for being appended again, but it has to be a write all the same:
-- WAIT counts those of its own connection only.
local function append(keys, args)
  local refused = fenced(keys[1], args[1])
  if refused then return refused end
  local added = redis.pcall('XADD', keys[2], args[2] .. '-0', 'b', args[3])
  if type(added) == 'table' and added['err'] then
    if not string.find(added['err'], 'equal or smaller', 1, true) then return added end
    redis.call('HSET', keys[1], 'fence', args[1])
  end
  return redis.status_reply('OK')
end

-- keys: head, lease, never; args: epoch, or '' for a new range, owner, lease in ms, a number that is the
-- same if this is the same claim once more, fields and values
local function claim(keys, args)
  if redis.call('EXISTS', keys[2]) == 1 then
    if redis.call('HGET', keys[1], 'claim') == args[4] then
      return {1, tonumber(redis.call('HGET', keys[1], 'fence'))}
    end
    return {0, redis.call('HGET', keys[1], 'owner'), redis.call('PTTL', keys[2])}
  end
  local epoch = redis.call('HGET', keys[1], 'epoch')
  if (epoch or '') ~= args[1] then return redis.error_reply('${CHANGED} the range is another one') end
  if not epoch then
    for i = 5, #args, 2 do redis.call('HSET', keys[1], args[i], args[i + 1]) end
  end
  local fence = redis.call('HINCRBY', keys[1], 'fence', 1)
  redis.call('HSET', keys[1], 'owner', args[2], 'claim', args[4])
  redis.call('SET', keys[2], fence, 'PX', args[3])
  return {1, fence}
end

-- keys: head, lease, never; args: fence, lease in ms
local function renew(keys, args)
  local refused = fenced(keys[1], args[1])
  if refused then return refused end
  return redis.call('SET', keys[2], args[1], 'PX', args[2])
end

-- keys: head, lease, never; args: fence
local function release(keys, args)
  local refused = fenced(keys[1], args[1])
  if refused then return refused end
  return redis.call('DEL', keys[2])
end

-- keys: head, the new snapshot, never; args: the old position, how long it is kept in ms, chunk's number, chunk
-- Somebody else may have made the same snapshot the range's meanwhile, which must not expire any more.
local function store(keys, args)
  if (redis.call('HGET', keys[1], 'snapshot') or '') ~= args[1] then
    return redis.error_reply('${CHANGED} there is another snapshot')
  end
  redis.call('HSET', keys[2], args[3], args[4])
  return redis.call('PEXPIRE', keys[2], args[2])
end

-- keys: head, log, the new snapshot, the one before, never; args: the old position, the new one, chunks
local function trim(keys, args)
  if (redis.call('HGET', keys[1], 'snapshot') or '') ~= args[1] then
    return redis.error_reply('${CHANGED} there is another snapshot')
  end
  if redis.call('PERSIST', keys[3]) == 0 then return redis.error_reply('${CHANGED} it has expired') end
  redis.call('HSET', keys[1], 'snapshot', args[2], 'chunks', args[3])
  redis.call('UNLINK', keys[4])
  return redis.call('XTRIM', keys[2], 'MINID', tostring(tonumber(args[2]) + 1) .. '-0')
end

redis.register_function('${APPEND}', append)
redis.register_function('${CLAIM}', claim)
redis.register_function('${RENEW}', renew)
redis.register_function('${RELEASE}', release)
redis.register_function('${STORE}', store)
redis.register_function('${TRIM}', trim)
`;
