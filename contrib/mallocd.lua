-- A Wireshark dissector for mallocd, both protocols of docs/protocol.md: each field, each of several
-- requests in a datagram, each request with its reply and the time between them, and what is refused,
-- malformed or sent again, as expert information. Copy it to the folder that Help > About > Folders
-- calls "Personal Lua Plugins", or:
--
--     tshark -X lua_script:mallocd.lua -i lo -f "udp port 8081"
--
-- Statistics > mallocd counts requests, refusals and times by method; tshark does so at the end of a
-- capture with -o mallocd.statistics:TRUE, and -q leaves only that.
--
-- Filters: mallocd.status != 0, mallocd.time > 0.001, mallocd.method == "read" && !mallocd.reply_in

local mallocd = Proto("mallocd", "mallocd, malloc over UDP")
mallocd.prefs.port = Pref.uint("UDP port", 8081, "The port that mallocd listens on")
mallocd.prefs.statistics = Pref.bool("Statistics at the end", false,
  "Lets tshark count requests, refusals and times by method, and print that at the end")

local STATUSES = {
  [0] = "ok", [1] = "EPERM", [2] = "ENOENT", [5] = "EIO", [8] = "ENOEXEC", [11] = "EAGAIN", [12] = "ENOMEM", [13] = "EACCES", [14] = "EFAULT", [22] = "EINVAL", [28] = "ENOSPC", [38] = "ENOSYS",
  [62] = "ETIME", [66] = "EREMOTE", [90] = "EMSGSIZE", [116] = "ESTALE", [125] = "ECANCELED",
}

-- By opcode: what follows the word of a request, and what the body of its reply is.
local METHODS = {
  [0] = { name = "malloc", request = { "length" }, reply = { "pointer" } },
  [1] = { name = "free", request = { "pointer" }, reply = {} },
  [2] = { name = "read", request = { "pointer", "length" }, reply = { "data" } },
  [3] = { name = "write", request = { "pointer", "length", "data" }, reply = {} },
  [4] = { name = "realloc", request = { "pointer", "length" }, reply = { "pointer" } },
  [5] = { name = "cas", request = { "pointer", "expected", "desired" }, reply = { "old" } },
  [6] = { name = "add", request = { "pointer", "delta" }, reply = { "old" } },
  [7] = { name = "hello", request = {}, reply = { "epoch", "base", "size", "largest", "version" },
    session = { "token", "share" }, cluster = { "range", "fence", "ranges" } },
  [8] = { name = "install", request = { "pointer", "length" }, reply = { "handle" } },
  [9] = { name = "call", request = { "handle", "length", "data" }, reply = { "result" } },
  [10] = { name = "uninstall", request = { "handle" }, reply = {} },
  [11] = { name = "stats", request = { "what" }, reply = { "data" } },
  [12] = { name = "sync", request = { "number" }, reply = { "number", "done" } },
  [13] = { name = "snapshot", request = { "number" }, reply = { "number", "done" } },
}
-- What a request with the session flag has after its word.
local SESSION = { "epoch", "token" }
-- What the body of a reply is that says who has a range of the cluster.
local EREMOTE, OWNER = 66, { "owner", "owner_port" }
-- What it is of one that says why a module is refused.
local ENOEXEC, REASON = 8, { "reason" }
local STATS = 11
local LAST_CLASSIC = UInt64(3)

local fields = {
  tag = ProtoField.uint32("mallocd.tag", "Tag", base.DEC),
  status = ProtoField.uint16("mallocd.status", "Status", base.DEC, STATUSES),
  flags = ProtoField.uint8("mallocd.flags", "Flags", base.HEX),
  opcode = ProtoField.uint8("mallocd.opcode", "Opcode", base.DEC),
  method = ProtoField.string("mallocd.method", "Method"),
  body_length = ProtoField.uint64("mallocd.body_length", "Body length", base.DEC),
  pointer = ProtoField.uint64("mallocd.pointer", "Pointer", base.HEX),
  length = ProtoField.uint64("mallocd.length", "Length", base.DEC),
  data = ProtoField.bytes("mallocd.data", "Data"),
  expected = ProtoField.uint64("mallocd.expected", "Expected", base.DEC_HEX),
  desired = ProtoField.uint64("mallocd.desired", "Desired", base.DEC_HEX),
  delta = ProtoField.int64("mallocd.delta", "Delta", base.DEC),
  old = ProtoField.uint64("mallocd.old", "Old value", base.DEC_HEX),
  handle = ProtoField.uint64("mallocd.handle", "Handle", base.HEX),
  result = ProtoField.uint64("mallocd.result", "Result", base.DEC_HEX),
  reason = ProtoField.string("mallocd.reason", "Reason"),
  epoch = ProtoField.uint64("mallocd.epoch", "Boot epoch", base.HEX),
  number = ProtoField.uint64("mallocd.number", "Number", base.DEC),
  done = ProtoField.uint64("mallocd.done", "Done", base.DEC),
  what = ProtoField.uint64("mallocd.what", "What", base.DEC, { [0] = "values", [1] = "names" }),
  names = ProtoField.string("mallocd.names", "Names"),
  value = ProtoField.uint64("mallocd.value", "Value", base.DEC),
  base = ProtoField.uint64("mallocd.base", "Heap base", base.HEX),
  size = ProtoField.uint64("mallocd.size", "Heap size", base.DEC),
  largest = ProtoField.uint64("mallocd.largest", "Largest datagram", base.DEC),
  version = ProtoField.uint64("mallocd.version", "Protocol version", base.DEC),
  token = ProtoField.uint64("mallocd.token", "Token", base.HEX),
  share = ProtoField.uint64("mallocd.share", "Share of the cache", base.DEC),
  range = ProtoField.uint64("mallocd.range", "Range", base.DEC),
  fence = ProtoField.uint64("mallocd.fence", "Fence", base.DEC),
  ranges = ProtoField.uint64("mallocd.ranges", "Ranges", base.DEC),
  owner = ProtoField.ipv6("mallocd.owner", "Owner"),
  owner_port = ProtoField.uint64("mallocd.owner_port", "Port of the owner", base.DEC),
  reply_in = ProtoField.framenum("mallocd.reply_in", "Reply in", base.NONE, frametype.RESPONSE),
  request_in = ProtoField.framenum("mallocd.request_in", "Request in", base.NONE, frametype.REQUEST),
  repeat_of = ProtoField.framenum("mallocd.repeat_of", "Repeat of", base.NONE, frametype.RETRANS_PREV),
  time = ProtoField.relative_time("mallocd.time", "Time since request"),
}
mallocd.fields = fields

local function notice(name, text, group, severity)
  return ProtoExpert.new("mallocd." .. name, text, expert.group[group], expert.severity[severity])
end

local notices = {
  refused = notice("refused", "Refused", "RESPONSE_CODE", "WARN"),
  malformed = notice("malformed", "Malformed", "MALFORMED", "ERROR"),
  repeated = notice("repeated", "Sent before", "SEQUENCE", "NOTE"),
  unasked = notice("unasked", "Reply to no request that was seen", "SEQUENCE", "NOTE"),
}
mallocd.experts = notices

-- What is known of requests and replies. It is found out when frames are first seen, in order, and only
-- looked up when one is seen again. A request is { opcode, tag, length, frame, sent, reply, repeat_of };
-- the length of one for stats is what it asks for. A classic one has no tag, and is kept under CLASSIC.
local waiting -- by client and tag: the requests that have no reply yet, in order
local latest -- by client and tag: the latest request
local found -- by frame: the requests that its messages are, or answer, in order
local figures -- by client: the names of the figures that stats tells, in order
local CLASSIC = "classic"
local REMEMBERED = 60 -- seconds that the daemon remembers a tag

function mallocd.init()
  waiting, latest, found, figures = {}, {}, {}, {}
end

-- A client's conversation with a daemon.
local function client_of(address, port, daemon, daemon_port)
  return ("%s %d %s %d"):format(address, port, daemon, daemon_port)
end

-- all[a][b], made if it does not exist.
local function entry(all, a, b)
  all[a] = all[a] or {}
  all[a][b] = all[a][b] or {}
  return all[a][b]
end

-- The request that message `index` of this frame is.
local function note_request(pinfo, client, index, opcode, tag, length)
  local here = found[pinfo.number]
  if pinfo.visited then return here[index] end
  local request = { opcode = opcode, tag = tag, length = length, frame = pinfo.number }
  request.sent = pinfo.rel_ts
  here[index] = request
  local name = METHODS[opcode] and METHODS[opcode].name
  if tag then
    local before = entry(latest, client, tag)
    local recent = before.sent and request.sent - before.sent < REMEMBERED
    if recent and before.opcode == opcode and name ~= "hello" then
      request.repeat_of = before.repeat_of or before.frame
    end
    latest[client][tag] = request
  end
  if tag or name == "malloc" or name == "read" then
    table.insert(entry(waiting, client, tag or CLASSIC), request)
  end
  return request
end

-- The request that message `index` of this frame answers: the first that waits and fits. The replies to
-- those before it must have been lost.
local function note_reply(pinfo, client, index, tag, fits)
  local here = found[pinfo.number]
  if pinfo.visited then return here[index] end
  local queue = entry(waiting, client, tag or CLASSIC)
  for i, request in ipairs(queue) do
    if fits(request) then
      for _ = 1, i do table.remove(queue, 1) end
      request.reply = pinfo.number
      here[index] = request
      return request
    end
  end
end

local function link_request(item, request)
  if request.reply then item:add(fields.reply_in, request.reply):set_generated() end
  if not request.repeat_of then return end
  item:add(fields.repeat_of, request.repeat_of):set_generated()
  item:add_proto_expert_info(notices.repeated)
end

local function link_reply(item, request, pinfo)
  if not request then return item:add_proto_expert_info(notices.unasked) end
  item:add(fields.request_in, request.frame):set_generated()
  local seconds = pinfo.rel_ts - request.sent
  local whole = math.floor(seconds)
  local time = NSTime.new(whole, math.floor((seconds - whole) * 1e9 + 0.5))
  item:add(fields.time, time):set_generated()
end

local function show(name, range)
  if name == "data" or name == "names" then return range:len() .. " bytes" end
  if name == "reason" then return range:string() end
  if name == "owner" then return tostring(range:ipv6()) end
  if name == "delta" then return tostring(range:int64()) end
  local value = range:uint64()
  if name ~= "pointer" and name ~= "base" and name ~= "epoch" and name ~= "token"
    and name ~= "handle" then return tostring(value) end
  return value == UInt64(0) and "NULL" or "0x" .. value:tohex():gsub("^0+", "")
end

-- These take all that is left, or as much as the length before them says.
local REST = { data = true, reason = true, names = true }

-- Adds the named parts from `at` to `finish`. Returns where they end, nil if they are cut short; their
-- texts; and the length among them.
local function add_parts(item, names, tvb, at, finish)
  local texts, length = {}, finish - at
  for _, name in ipairs(names) do
    local size = REST[name] and length or name == "owner" and 16 or 8
    if size > finish - at then return nil, texts, length end
    if size > 0 then
      local range = tvb(at, size)
      item:add(fields[name], range)
      table.insert(texts, show(name, range))
      if name == "length" or name == "what" then length = range:uint64():tonumber() end
    end
    at = at + size
  end
  return at, texts, length
end

local function add_word(item, tvb, at, tagged)
  if tagged then
    item:add(fields.tag, tvb(at, 4))
    item:add(fields.status, tvb(at + 4, 2))
    item:add(fields.flags, tvb(at + 6, 1))
  end
  local opcode = tvb(at + 7, 1):uint()
  local method = METHODS[opcode]
  item:add(fields.opcode, tvb(at + 7, 1))
  if method then item:add(fields.method, method.name):set_generated() end
  local tag = tagged and tvb(at, 4):uint() or nil
  local title = (tag and ("#%d "):format(tag) or "") .. (method and method.name or "opcode " .. opcode)
  return opcode, tag, title
end

-- The flags 0x01 and 0x80 of the word at `at`.
local function is_tagged(tvb, at) return tvb(at + 6, 1):bitfield(7) == 1 end
local function has_session(tvb, at) return tvb(at + 6, 1):bitfield(6) == 1 end
local function is_reply(tvb, at) return tvb(at + 6, 1):bitfield(0) == 1 end

local function is_tagged_request(tvb, at)
  return tvb:len() - at >= 8 and is_tagged(tvb, at) and not is_reply(tvb, at)
end

local function is_classic_request(tvb)
  return tvb:len() >= 8 and tvb(0, 8):uint64() <= LAST_CLASSIC
end

local function is_tagged_reply(tvb, at)
  return tvb:len() - at >= 16 and is_tagged(tvb, at) and is_reply(tvb, at)
    and tvb(at + 8, 8):uint64():tonumber() <= tvb:len() - at - 16
end

-- Adds the request at `at`. Returns where it ends, or nil if that cannot be known, and its text.
local function add_request(root, tvb, at, index, tagged, pinfo, client)
  local item = root:add(tvb(at), "Request")
  local opcode, tag, title = add_word(item, tvb, at, tagged)
  local finish, texts, length
  if METHODS[opcode] then
    local start = at + 8
    if tagged and has_session(tvb, at) then start = add_parts(item, SESSION, tvb, start, tvb:len()) end
    texts = {}
    if start then
      finish, texts, length = add_parts(item, METHODS[opcode].request, tvb, start, tvb:len())
    end
    title = ("%s(%s)"):format(title, table.concat(texts, ", "))
  end
  if finish then
    item:set_len(finish - at)
  else
    item:add_proto_expert_info(notices.malformed, METHODS[opcode] and "Cut short" or "Unknown opcode")
  end
  item:append_text(": " .. title)
  link_request(item, note_request(pinfo, client, index, opcode, tag, length))
  return finish, title
end

local function add_requests(root, tvb, pinfo, client)
  local tagged = is_tagged_request(tvb, 0)
  if not tagged and not is_classic_request(tvb) then
    root:add_proto_expert_info(notices.malformed, "Not a request")
    return "not a request"
  end
  local titles, at = {}, 0
  repeat
    at, titles[#titles + 1] = add_request(root, tvb, at, #titles + 1, tagged, pinfo, client)
  until not tagged or not at or not is_tagged_request(tvb, at)
  return table.concat(titles, "; ")
end

-- Adds what stats tells: names, and after them the values of these. Returns its text.
local function add_stats(item, tvb, at, finish, what, client)
  local names = figures[client] or {}
  if what == 1 then
    names = {}
    for name in tvb(at, finish - at):string():gmatch("(%S+)[^\n]*") do table.insert(names, name) end
    figures[client] = names
    add_parts(item, { "names" }, tvb, at, finish)
    return #names .. " names"
  end
  local count = math.floor((finish - at) / 8)
  for i = 1, count do
    local range = tvb(at + (i - 1) * 8, 8)
    local field = i == 1 and fields.epoch or fields.value -- it is the first of them
    item:add(field, range):prepend_text(names[i] and i > 1 and names[i] .. ", " or "")
  end
  return count .. " values"
end

-- Adds the reply at `at`. Returns where it ends, and its text.
local function add_tagged_reply(root, tvb, at, request, pinfo, client)
  local finish = at + 16 + tvb(at + 8, 8):uint64():tonumber()
  local item = root:add(tvb(at, finish - at), "Reply")
  local opcode, _, title = add_word(item, tvb, at, true)
  item:add(fields.body_length, tvb(at + 8, 8))
  local status = tvb(at + 4, 2):uint()
  local method = METHODS[opcode] or { reply = {} }
  local names = status == EREMOTE and OWNER or status == ENOEXEC and REASON or method.reply
  local rest, texts
  if opcode == STATS and status == 0 and request then
    texts = { add_stats(item, tvb, at + 16, finish, request.length, client) }
  else
    rest, texts = add_parts(item, names, tvb, at + 16, finish)
  end
  local extra = has_session(tvb, at) and { method.session, method.cluster } or {}
  for _, more in ipairs(extra) do
    if rest and rest < finish then
      rest, more = add_parts(item, more, tvb, rest, finish)
      for _, text in ipairs(more) do table.insert(texts, text) end
    end
  end
  local result = #texts > 0 and table.concat(texts, ", ") or STATUSES[status] or "status " .. status
  if status == EREMOTE or status == ENOEXEC and #texts > 0 then result = STATUSES[status] .. " " .. result end
  if status ~= 0 then item:add_proto_expert_info(notices.refused, result) end
  title = title .. " = " .. result
  item:append_text(": " .. title)
  link_reply(item, request, pinfo)
  return finish, title
end

-- Adds a bare pointer, bare data or, if there is no range, nothing: only the request tells which.
local function add_classic_reply(item, range, pinfo, client)
  local size = range and range:len() or 0
  local request = note_reply(pinfo, client, 1, nil, function(request)
    if METHODS[request.opcode].name == "malloc" then return size == 8 end
    return size == 0 or size == request.length
  end)
  local method = request and METHODS[request.opcode]
  local part = method and method.reply[1] or "data"
  if method then item:add(fields.method, method.name):set_generated() end
  if range then item:add(fields[part], range) end
  local text = range and show(part, range) or "0 bytes"
  if text == "NULL" or part == "data" and request and size < request.length then
    item:add_proto_expert_info(notices.refused)
  end
  link_reply(item, request, pinfo)
  return (method and method.name or "reply") .. " = " .. text
end

local function add_replies(root, tvb, pinfo, client)
  local here, titles, at = found[pinfo.number], {}, 0
  while not here.is_classic and is_tagged_reply(tvb, at) do
    local opcode = tvb(at + 7, 1):uint()
    local request = note_reply(pinfo, client, #titles + 1, tvb(at, 4):uint(), function(request)
      return request.opcode == opcode
    end)
    -- Unasked for, it may be what a classic read found in the heap.
    if at == 0 and not request and #entry(waiting, client, CLASSIC) > 0 then
      here.is_classic = true
    else
      at, titles[#titles + 1] = add_tagged_reply(root, tvb, at, request, pinfo, client)
    end
  end
  if at > 0 then return table.concat(titles, "; ") end
  return add_classic_reply(root:add(tvb(), "Reply"), tvb(), pinfo, client)
end

function mallocd.dissector(tvb, pinfo, tree)
  if pinfo.in_error_pkt then return end
  if not pinfo.visited then found[pinfo.number] = {} end
  pinfo.cols.protocol = "mallocd"
  local root = tree:add(mallocd, tvb())
  if pinfo.dst_port == pinfo.match_uint then
    local client = client_of(pinfo.src, pinfo.src_port, pinfo.dst, pinfo.dst_port)
    pinfo.cols.info = add_requests(root, tvb, pinfo, client)
  else
    local client = client_of(pinfo.dst, pinfo.dst_port, pinfo.src, pinfo.src_port)
    pinfo.cols.info = add_replies(root, tvb, pinfo, client)
  end
end

-- Wireshark gives dissectors no empty datagram, but that is how a classic read is refused. This one is
-- called for every frame, after all others.
local empty = Proto("mallocd_empty", "mallocd, empty replies")
local UDP = 3

function empty.dissector(_, pinfo, tree)
  local here = found[pinfo.number]
  if pinfo.port_type ~= UDP or here and not here.is_empty then return end
  local client = client_of(pinfo.dst, pinfo.dst_port, pinfo.src, pinfo.src_port)
  if not waiting[client] then return end
  found[pinfo.number] = here or { is_empty = true }
  pinfo.cols.protocol = "mallocd"
  pinfo.cols.info = add_classic_reply(tree:add(mallocd), nil, pinfo, client)
end
register_postdissector(empty)

local udp_ports, port = DissectorTable.get("udp.port"), nil

local function register()
  if port then udp_ports:remove(port, mallocd) end
  port = mallocd.prefs.port
  udp_ports:add(port, mallocd)
end
mallocd.prefs_changed = register
register()

-- The statistics tap.
local method_of, status_of = Field.new("mallocd.method"), Field.new("mallocd.status")
local notice_of = Field.new("_ws.expert.message")
local time_of, reply_to, repeat_of = Field.new("mallocd.time"), Field.new("mallocd.request_in"), Field.new("mallocd.repeat_of")

-- Counts the messages of some frames, by method; `text` tells of them.
local function new_counts()
  local rows, order = {}, {}
  local function row(method)
    if not rows[method] then
      rows[method] = { requests = 0, replies = 0, refused = 0, repeats = 0, times = {} }
      table.insert(order, method)
    end
    return rows[method]
  end
  local counts = {}

  function counts.clear() rows, order = {}, {} end

  -- The fields of several messages come in their order. A reply has a time if its request was seen.
  function counts.add()
    local methods, statuses, times = { method_of() }, { status_of() }, { time_of() }
    local is_reply = #{ reply_to() } > 0
    for i, method in ipairs(methods) do
      local r = row(method.value)
      if is_reply then
        r.replies = r.replies + 1
        -- A classic reply has no status, but is noticed.
        local refused = not statuses[i] and #{ notice_of() } > 0
        if refused or statuses[i] and statuses[i].value ~= 0 then r.refused = r.refused + 1 end
        if times[i] and #times == #methods then table.insert(r.times, tonumber(tostring(times[i].value))) end
      else
        r.requests = r.requests + 1
      end
    end
    local repeats = #{ repeat_of() }
    if repeats > 0 and methods[1] then row(methods[1].value).repeats = row(methods[1].value).repeats + repeats end
  end

  function counts.text()
    local lines = { ("%-10s %9s %9s %9s %9s %10s %10s %10s"):format("mallocd", "requests", "replies", "refused",
      "repeats", "p50 ms", "p99 ms", "max ms") }
    table.sort(order)
    for _, method in ipairs(order) do
      local r = rows[method]
      table.sort(r.times)
      local function at(share)
        if #r.times == 0 then return "-" end
        return ("%.3f"):format(r.times[math.max(1, math.ceil(share * #r.times))] * 1000)
      end
      table.insert(lines, ("%-10s %9d %9d %9d %9d %10s %10s %10s"):format(method, r.requests, r.replies, r.refused,
        r.repeats, at(0.5), at(0.99), at(1)))
    end
    return table.concat(lines, "\n")
  end
  return counts
end

if gui_enabled() then
  register_menu("mallocd", function()
    local window, tap, counts = TextWindow.new("mallocd"), Listener.new(nil, "mallocd"), new_counts()
    window:set_atclose(function() tap:remove() end)
    tap.packet, tap.reset = counts.add, counts.clear
    function tap.draw() window:set(counts.text()) end
    retap_packets()
  end, MENU_STAT_UNSORTED)
else
  local tap, counts = Listener.new(nil, "mallocd"), new_counts()
  tap.packet, tap.reset = counts.add, counts.clear
  function tap.draw()
    if mallocd.prefs.statistics then print(counts.text()) end
  end
end
