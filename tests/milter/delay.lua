-- config: limit = 1
-- config: step = "3s"
-- The first message over the limit is refused, the answer to the next one waits a step. Lua's clock counts seconds.
local conn = mt.connect(SOCKET, 40, 0.25)
assert(conn, "no connection")
mt.set_timeout(120)
assert(mt.conninfo(conn, "mx.example", "192.0.2.7") == nil)
local function mail(expected)
    local began = os.time()
    assert(mt.mailfrom(conn, "<a@example.com>") == nil)
    assert(mt.getreply(conn) == expected)
    return os.time() - began
end
mail(SMFIR_CONTINUE)
assert(mt.abort(conn) == nil)
mail(SMFIR_REPLYCODE)
assert(mail(SMFIR_REPLYCODE) >= 2, "not held")
mt.disconnect(conn)
