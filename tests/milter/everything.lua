-- A mail server that can leave nothing out: each command is answered with "continue", a body of 100,000 bytes too.
local conn = mt.connect(SOCKET, 40, 0.25)
assert(conn, "no connection")
-- Steps: leading blanks of headers (bit 20) alone.
assert(mt.negotiate(conn, 6, SMFIF_ADDHDRS, 0x100000) == nil)
assert(not mt.test_option(conn, SMFIP_NOBODY) and not mt.test_option(conn, SMFIP_NR_CONN))
local function continues(name, err)
    assert(err == nil, name)
    assert(mt.getreply(conn) == SMFIR_CONTINUE, name)
end
continues("connect", mt.conninfo(conn, "mx.example", "192.0.2.7"))
continues("unknown", mt.unknown(conn, "XFOO"))
continues("helo", mt.helo(conn, "mx.example"))
for _ = 1, 3 do
    continues("mail", mt.mailfrom(conn, "<a@example.com>", "SIZE=100000"))
    continues("rcpt", mt.rcptto(conn, "<b@example.org>", "NOTIFY=NEVER"))
    continues("rcpt", mt.rcptto(conn, "<c@example.org>"))
    continues("data", mt.data(conn))
    continues("header", mt.header(conn, "Subject", "one"))
    continues("header", mt.header(conn, "X-Empty", ""))
    continues("eoh", mt.eoh(conn))
    continues("body", mt.bodyrandom(conn, 100000))
    continues("eom", mt.eom(conn))
end
mt.disconnect(conn)
