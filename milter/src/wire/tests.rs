use super::*;

fn packet(command: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = (data.len() as u32 + 1).to_be_bytes().to_vec();
    bytes.push(command);
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn frames_are_whole_partial_empty_or_too_long() {
    let bytes = packet(b'H', b"mx\0");
    for end in 0..bytes.len() {
        assert_eq!(frame(&bytes[..end], 100), Frame::Partial, "{end}");
    }
    assert_eq!(frame(&bytes, 100), Frame::Packet { command: b'H', data: b"mx\0", used: 8 });
    assert_eq!(frame(&bytes, 4), Frame::Packet { command: b'H', data: b"mx\0", used: 8 });
    assert_eq!(frame(&bytes, 3), Frame::TooLong { command: Some(b'H'), bytes: 8 });
    assert_eq!(frame(&[0, 0, 0, 0, 9], 100), Frame::Empty);
    assert_eq!(frame(&[255; 4], 100), Frame::TooLong { command: None, bytes: (1 << 32) + 3 });
}

#[test]
fn commands_are_read() {
    let parse = Command::parse;
    let offer = [0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255];
    assert_eq!(parse(b'O', &offer), Ok(Command::Negotiate { version: 6, actions: 0x1ff, steps: 0x1f_ffff }));
    assert_eq!(
        parse(b'C', b"mx.example.org\x004\x01\xbb192.0.2.1\0"),
        Ok(Command::Connect { name: b"mx.example.org", addr: Some([192, 0, 2, 1].into()) })
    );
    for (data, addr) in [
        (&b"h\x006\0\x19IPv6:2001:db8::1\0"[..], Some("2001:db8::1".parse().unwrap())),
        (b"h\x006\0\x19::ffff:192.0.2.1\0", Some([192, 0, 2, 1].into())),
        (b"h\0L\0\0/run/x\0", None),
        (b"h\0U", None),
    ] {
        assert_eq!(parse(b'C', data), Ok(Command::Connect { name: b"h", addr }));
    }
    let Ok(Command::Mail { path, args }) = parse(b'M', b"<a@b>\0SIZE=5\0BODY=8BITMIME\0") else { panic!("MAIL") };
    assert_eq!((path, args.collect::<Vec<_>>()), (&b"<a@b>"[..], vec![&b"SIZE=5"[..], b"BODY=8BITMIME"]));
    let Ok(Command::Macros { stage, macros }) = parse(b'D', b"Mi\0abc\0{auth_authen}\0\0odd\0") else { panic!("D") };
    assert_eq!(stage, Stage::Mail);
    assert_eq!(macros.pairs().collect::<Vec<_>>(), [(&b"i"[..], &b"abc"[..]), (b"{auth_authen}", b"")]);
    let Ok(Command::Macros { macros, .. }) = parse(b'D', b"H") else { panic!("an empty packet of macros") };
    assert_eq!(macros.pairs().count(), 0);
    assert_eq!(parse(b'L', b"Subject\0hi\0"), Ok(Command::Header { name: b"Subject", value: b"hi" }));
    assert_eq!(parse(b'z', b""), Ok(Command::Other(b'z')));
}

#[test]
fn bad_data_is_named() {
    for (command, data, error) in [
        (b'O', &b"\0\0\0\x06"[..], WireError::Short),
        (b'D', b"", WireError::Short),
        (b'C', b"h\0", WireError::Short),
        (b'C', b"h\x004", WireError::Short),
        (b'C', b"h\x004\0\x19192.0.2.1", WireError::Unterminated),
        (b'C', b"h\x004\0\x19192.0.2.256\0", WireError::Address),
        (b'H', b"mx", WireError::Unterminated),
        (b'M', b"", WireError::Unterminated),
        (b'L', b"Subject\0hi", WireError::Unterminated),
    ] {
        assert_eq!(Command::parse(command, data), Err(error));
    }
}

#[test]
fn replies_are_packets() {
    let emitted = |reply: Reply<'_>| {
        let mut out = b"before".to_vec();
        reply.emit(&mut out);
        out.split_off(6)
    };
    assert_eq!(emitted(Reply::Continue), packet(b'c', b""));
    assert_eq!(emitted(Reply::Answer(b"451 4.7.1 x")), packet(b'y', b"451 4.7.1 x\0"));
    let negotiate =
        Reply::Negotiate { version: 6, actions: 0x100, steps: 0x10, macros: &[(MacroStage::Eom, "i {msg_id}")] };
    let data = [&[0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 5][..], b"i {msg_id}\0"].concat();
    assert_eq!(emitted(negotiate), packet(b'O', &data));
}
