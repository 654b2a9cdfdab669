-- Ten messages of a connection pass, the eleventh is refused; a second connection is counted by itself, and this one
-- stays refused after ABORT.
local function open()
    local conn = mt.connect(SOCKET, 40, 0.25)
    assert(conn, "no connection")
    assert(mt.conninfo(conn, "mx.example", "192.0.2.7") == nil)
    assert(mt.helo(conn, "mx.example") == nil)
    return conn
end
local function mail(conn, expected)
    assert(mt.mailfrom(conn, "<a@example.com>") == nil)
    assert(mt.getreply(conn) == expected, "reply " .. string.char(mt.getreply(conn) // 1 | 0))
end
local function message(conn)
    mail(conn, SMFIR_CONTINUE)
    assert(mt.rcptto(conn, "<b@example.org>") == nil)
    assert(mt.eom(conn) == nil)
    assert(mt.getreply(conn) == SMFIR_CONTINUE)
end
local first = open()
for _ = 1, 10 do message(first) end
mail(first, SMFIR_REPLYCODE)
local second = open()
message(second)
assert(mt.abort(first) == nil)
mail(first, SMFIR_REPLYCODE)
message(second)
mt.disconnect(first)
mt.disconnect(second)
