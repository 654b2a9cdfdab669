-- Mail servers that go without QUIT, at every stage: those that come after are served.
local stages = {
    function(conn) assert(mt.conninfo(conn, "mx.example", "192.0.2.7") == nil) end,
    function(conn) assert(mt.helo(conn, "mx.example") == nil) end,
    function(conn) assert(mt.mailfrom(conn, "<a@example.com>") == nil) end,
    function(conn) assert(mt.rcptto(conn, "<b@example.org>") == nil) end,
    function(conn) assert(mt.eom(conn) == nil) end,
}
for last = 0, #stages do
    local conn = mt.connect(SOCKET, 40, 0.25)
    assert(conn, "no connection")
    assert(mt.negotiate(conn, nil, nil, nil) == nil)
    for stage = 1, last do stages[stage](conn) end
    mt.disconnect(conn, false)
end
local conn = mt.connect(SOCKET, 40, 0.25)
for stage = 1, #stages do stages[stage](conn) end
assert(mt.getreply(conn) == SMFIR_CONTINUE)
mt.disconnect(conn)
