-- One call of one holder on one account: the rule of ledger.rs, which a property test compares with this script.
-- KEYS[1]  the account, a hash; see valkey.rs for its fields
-- ARGV     holder, call, room (0 unknown, 1 ended, 2 open, 3 exact), cap, holders seen, now in ms, expiry in ms, then per
--          report: generation, used, held, overrun, target, minimum, charge, close (0 or 1)
-- Answer   {settled and overrun, recalled (0 or 1), {grant per report}, {holders to recall}, {holders with leases, if this one is short}}
-- All amounts are below 2^53, so that Lua's doubles are exact.
local key, holder = KEYS[1], ARGV[1]
local call, room, cap = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local holders, now, expiry = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local RECALL_MS = 5000
-- How soon holders of an account beyond its cap are told again: not by every call of everybody.
local AGAIN_MS = 1000
local REPORT = 8

local function text(number) return string.format('%.0f', number) end
local function minus(a, b) return math.max(0, a - b) end
local function read_lease(value)
  if not value then return nil end
  local g, granted, used, held, overrun = string.match(value, '^(%d+)/(%d+)/(%d+)/(%d+)/(%d+)$')
  return { generation = tonumber(g), granted = tonumber(granted), used = tonumber(used), held = tonumber(held),
    overrun = tonumber(overrun) }
end
local function unused(lease) return minus(lease.granted, lease.used + lease.held) end

local row = redis.call('HMGET', key, 'committed', 'settled', 'held', 'forfeited', 'overrun', 'over_grant', 'recalled',
  'l:' .. holder, 'c:' .. holder)
local account = { committed = tonumber(row[1] or 0), settled = tonumber(row[2] or 0), held = tonumber(row[3] or 0),
  forfeited = tonumber(row[4] or 0), overrun = tonumber(row[5] or 0), over_grant = tonumber(row[6] or 0) }
local recalled = tonumber(row[7] or 0)
local lease = read_lease(row[8])
local last_call = tonumber(row[9] or 0)

local function grant(units)
  account.committed = account.committed + units
  lease.granted = lease.granted + units
end

local function whole_charges(more, charge)
  if charge == 0 then return more end
  local total = unused(lease) + more
  return minus(total - total % charge, unused(lease))
end

local function prefetch(report, available)
  if room == 3 then return 0 end
  local share = math.floor((available + unused(lease)) / (2 * math.max(1, holders)))
  if share < 2 * report.charge then return 0 end
  return whole_charges(math.min(minus(report.target, lease.granted), minus(share, unused(lease))), report.charge)
end

-- Returns whether requests wait for units in other leases, and whether unused ones are beyond the cap.
local function raise(report)
  if room < 2 then return false, false end
  local available = minus(cap, account.committed + account.overrun)
  local wanted = minus(report.minimum, lease.granted)
  local waiting = wanted
  if wanted > available then waiting = whole_charges(available, report.charge) end
  grant(math.min(math.max(waiting, prefetch(report, available)), available))
  local spare = minus(minus(account.committed, account.settled), account.held)
  local waits = report.minimum > lease.granted and spare > unused(lease)
  return waits, account.committed + account.overrun > cap and spare > 0
end

local function charge(report)
  local used = math.max(lease.used, report.used)
  account.settled = account.settled + used - lease.used
  account.held = minus(account.held, lease.held) + report.held
  local overrun = math.max(lease.overrun, report.overrun)
  account.overrun = account.overrun + overrun - lease.overrun
  lease.used, lease.held, lease.overrun = used, report.held, overrun
  local beyond = minus(used + report.held, lease.granted)
  account.over_grant = account.over_grant + beyond
  grant(beyond)
end

local function forfeit(older)
  local lost = minus(older.granted, older.used)
  account.settled = account.settled + lost
  account.forfeited = account.forfeited + lost
  account.held = minus(account.held, older.held)
end

-- Returns the grant of the reported lease, and what `raise` says.
local function book(report)
  if lease and lease.generation > report.generation then return 0, false, false end
  if not lease or lease.generation < report.generation then
    if report.close or room == 0 then return 0, false, false end
    if lease then forfeit(lease) end
    lease = { generation = report.generation, granted = 0, used = 0, held = 0, overrun = 0 }
  end
  charge(report)
  if report.close then
    account.settled = account.settled + lease.held
    account.held = minus(account.held, lease.held)
    account.committed = minus(account.committed, unused(lease))
    lease = nil
    return 0, false, false
  end
  local freed = minus(lease.granted, math.max(report.target, report.minimum, lease.used + lease.held))
  account.committed = minus(account.committed, freed)
  lease.granted = lease.granted - freed
  local waits, exceeded = raise(report)
  local granted = lease.granted
  if granted + lease.used + lease.held + lease.overrun == 0 then lease = nil end
  return granted, waits, exceeded
end

local grants, recall, short, minimum = {}, false, false, 0
for at = 8, #ARGV, REPORT do
  local number = {}
  for offset = 0, REPORT - 1 do number[offset + 1] = tonumber(ARGV[at + offset]) end
  local report = { generation = number[1], used = number[2], held = number[3], overrun = number[4], target = number[5],
    minimum = number[6], charge = number[7], close = number[8] == 1 }
  minimum = report.minimum
  if call > last_call then
    local granted, waits, exceeded = book(report)
    grants[#grants + 1] = granted
    recall = recall or waits or (exceeded and now - recalled >= AGAIN_MS)
    short = short or (room >= 2 and not report.close and report.minimum > granted)
  else
    -- Repeated or late: the state as it is.
    grants[#grants + 1] = lease and lease.generation == report.generation and lease.granted or 0
  end
end

-- An account that is not known is not made either.
if room == 0 and not row[1] then return { 0, 0, grants, {}, {} } end

local others, holding = {}, {}
if call > last_call then
  if recall then recalled = now end
  if recall or short then
    local fields = redis.call('HGETALL', key)
    for at = 1, #fields, 2 do
      local other = string.match(fields[at], '^l:(.+)$')
      if other and other ~= holder then
        if short then holding[#holding + 1] = other end
        if recall and unused(read_lease(fields[at + 1])) > 0 then others[#others + 1] = other end
      end
    end
  end
  redis.call('HSET', key, 'committed', text(account.committed), 'settled', text(account.settled), 'held',
    text(account.held), 'forfeited', text(account.forfeited), 'overrun', text(account.overrun), 'over_grant',
    text(account.over_grant), 'recalled', text(recalled), 'c:' .. holder, text(call))
  if lease then
    redis.call('HSET', key, 'l:' .. holder, table.concat({ text(lease.generation), text(lease.granted), text(lease.used),
      text(lease.held), text(lease.overrun) }, '/'))
  else
    redis.call('HDEL', key, 'l:' .. holder)
  end
  redis.call('PEXPIREAT', key, expiry)
end
local mine = 0
-- Not what the caller's own requests wait for.
if lease and lease.granted > math.max(minimum, lease.used + lease.held) and now - recalled < RECALL_MS then mine = 1 end
return { account.settled + account.overrun, mine, grants, others, holding }
