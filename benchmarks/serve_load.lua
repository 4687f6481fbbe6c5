-- For wrk: one picture over and over; at the end one line of JSON with what came back. With a second
-- argument each connection pauses so many milliseconds between requests, on average.
local counts = {}
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = "image/jpeg"
  file:close()
  if args[2] then
    math.randomseed(34)
    delay = function() return math.floor(-math.log(1 - math.random()) * tonumber(args[2])) end
  end
  ok, busy, other = 0, 0, 0
end

function response(status)
  if status == 200 then ok = ok + 1 elseif status == 503 then busy = busy + 1 else other = other + 1 end
end

function done(summary, latency)
  local ok, busy, other = 0, 0, 0
  for _, thread in ipairs(threads) do
    ok, busy, other = ok + thread:get("ok"), busy + thread:get("busy"), other + thread:get("other")
  end
  local errors = summary.errors
  io.write(string.format(
    '{"seconds": %.3f, "200": %d, "503": %d, "other": %d, "lost": %d, "p50_ms": %.2f, "p95_ms": %.2f, "p99_ms": %.2f}\n',
    summary.duration / 1e6, ok, busy, other, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
