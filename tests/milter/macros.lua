-- config: limit = 1
-- config: allow.daemons = ["MSA"]
-- Macros decide: an authenticated user and the submission listener are not held to the limit, others are.
local function session(connect, mail, expected)
    local conn = mt.connect(SOCKET, 40, 0.25)
    assert(conn, "no connection")
    mt.macro(conn, SMFIC_CONNECT, table.unpack(connect))
    assert(mt.conninfo(conn, "mx.example", "192.0.2.7") == nil)
    for number = 1, 2 do
        mt.macro(conn, SMFIC_MAIL, table.unpack(mail))
        assert(mt.mailfrom(conn, "<a@example.com>") == nil)
        local reply = number == 1 and SMFIR_CONTINUE or expected
        assert(mt.getreply(conn) == reply, "message " .. number)
        if reply == SMFIR_CONTINUE then
            assert(mt.eom(conn) == nil)
        end
    end
    mt.disconnect(conn)
end
session({ "j", "mx1", "{daemon_name}", "MTA" }, { "i", "q1" }, SMFIR_REPLYCODE)
session({ "j", "mx1", "{daemon_name}", "MTA" }, { "i", "q1", "{auth_authen}", "alice" }, SMFIR_CONTINUE)
session({ "j", "mx1", "{daemon_name}", "MSA" }, { "i", "q1" }, SMFIR_CONTINUE)
