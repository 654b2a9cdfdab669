//! A mail log as a busy relay writes it, any number of lines, the same every time.

/// Appends `messages` messages, about 2.3 lines each, as RFC 3164 lines ended by LF.
pub(crate) fn write(messages: usize, out: &mut Vec<u8>) {
    use std::io::Write;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for n in 0..messages {
        let second = n / 200;
        let stamp = format!("Nov 20 {:02}:{:02}:{:02}", 8 + second / 3600 % 12, second / 60 % 60, second % 60);
        let server = ["mx1", "mx2", "mx3", "relay"][random.below(4) * random.below(4) / 3 % 4];
        let pid = 2000 + random.below(60_000);
        let queue_id = random.word(14, b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ");
        let (user, domain) = (random.below(5000), random.below(400));
        let (size, net, host) = (600 + random.below(90_000), random.below(250), random.below(250));
        let msgid = random.word(22, b"0123456789abcdefghijklmnopqrstuvwxyz.");
        // Writing to a Vec cannot fail.
        let _ = writeln!(
            out,
            "<22>{stamp} {server}.example.org sendmail[{pid}]: 5AK{queue_id}: from=<user{user}@d{domain}.example.com>, size={size}, \
             class=0, nrcpts=1, msgid=<{msgid}@d{domain}.example.com>, bodytype=8BITMIME, proto=ESMTPS, daemon=MTA, \
             relay=out{host}.d{domain}.example.com [192.0.{net}.{host}]"
        );
        let rcpt = random.below(300) * random.below(300) / 300;
        let (delay, mx) = (random.below(60), random.below(9));
        let (dsn, stat) = match random.below(20) {
            0 => ("4.7.1", "Deferred: 451 4.7.1 Greylisting in action, please come back later".to_owned()),
            1 => ("5.1.1", "User unknown".to_owned()),
            _ => ("2.0.0", format!("Sent (Ok: queued as {})", random.word(10, b"0123456789ABCDEF"))),
        };
        let _ = writeln!(
            out,
            "<22>{stamp} {server}.example.org sendmail[{}]: 5AK{queue_id}: to=<person{rcpt}@customer{}.example.net>, \
             delay=00:00:{delay:02}, xdelay=00:00:{:02}, mailer=esmtp, pri={}, relay=mx{mx}.customer{}.example.net. [198.51.100.{rcpt}], \
             dsn={dsn}, stat={stat}",
            pid + 2,
            rcpt % 90,
            delay / 2,
            30_000 + size,
            rcpt % 90
        );
        if n % 3 == 0 {
            let _ = writeln!(
                out,
                "<22>{stamp} {server}.example.org sendmail[{pid}]: STARTTLS=server, relay=out{host}.d{domain}.example.com [192.0.{net}.{host}], \
                 version=TLSv1.3, verify=NO, cipher=TLS_AES_256_GCM_SHA384, bits=256/256"
            );
        }
    }
}

/// xorshift: variety, not secrets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn word(&mut self, len: usize, letters: &[u8]) -> String {
        (0..len).map(|_| letters[self.below(letters.len())] as char).collect()
    }
}
