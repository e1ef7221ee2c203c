-- wrk's requests: ranges of 256 KiB anywhere in one file, every other one on a boundary of its length.
-- Arguments: bytes of the file.

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

function init(args)
  bytes, length, sent = tonumber(args[1]), 262144, 0
  math.randomseed(seed)
  head = "GET " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nRange: bytes="
end

function request()
  local from = math.random(0, bytes - length)
  if sent % 2 == 0 then from = from - from % length end
  sent = sent + 1
  return head .. string.format("%d-%d\r\n\r\n", from, from + length - 1)
end

function done(summary)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.timeout + e.status
  print(string.format("counted %d %d %d %d", summary.requests, summary.bytes, summary.duration, failed))
end
