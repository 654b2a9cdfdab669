-- What miltertest offers by default is used: no body, no headers, no step that is not looked at, and no answer but to
-- MAIL and the end of the message.
local conn = mt.connect(SOCKET, 40, 0.25)
assert(conn, "no connection")
assert(mt.negotiate(conn, nil, nil, nil) == nil)
local function agreed(wanted, options)
    for name, option in pairs(options) do
        assert(mt.test_option(conn, option) == wanted, name .. " is not " .. tostring(wanted))
    end
end
agreed(true, {
    NOBODY = SMFIP_NOBODY, NOHDRS = SMFIP_NOHDRS, NOEOH = SMFIP_NOEOH, NODATA = SMFIP_NODATA,
    NOUNKNOWN = SMFIP_NOUNKNOWN, NR_CONN = SMFIP_NR_CONN, NR_HELO = SMFIP_NR_HELO, NR_RCPT = SMFIP_NR_RCPT,
})
agreed(false, {
    NOCONNECT = SMFIP_NOCONNECT, NOHELO = SMFIP_NOHELO, NOMAIL = SMFIP_NOMAIL, NORCPT = SMFIP_NORCPT,
    NR_MAIL = SMFIP_NR_MAIL,
})
mt.disconnect(conn)
