-- Charges the leases of closed holders on one account in full: the rule of `forfeit` in ledger.rs.
-- KEYS[1]  the account; see account.lua
-- ARGV     holders
-- Answer   units that were charged so
local key, lost = KEYS[1], 0

local function text(number) return string.format('%.0f', number) end

for _, holder in ipairs(ARGV) do
  local lease = redis.call('HGET', key, 'l:' .. holder)
  local granted, used, held = string.match(lease or '', '^%d+/(%d+)/(%d+)/(%d+)/%d+$')
  if granted then
    local row = redis.call('HMGET', key, 'settled', 'held', 'forfeited')
    local units = math.max(0, tonumber(granted) - tonumber(used))
    redis.call('HSET', key, 'settled', text(tonumber(row[1] or 0) + units), 'held', text(math.max(0, tonumber(row[2] or 0) - tonumber(held))),
      'forfeited', text(tonumber(row[3] or 0) + units))
    redis.call('HDEL', key, 'l:' .. holder)
    lost = lost + units
  end
end
return lost
