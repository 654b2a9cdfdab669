//! `tests/milter/matrix.txt`: what comes back for each command at each stage, as tables that are compared whole.
//!
//! A section begins with `## name`, a `config` and a `> OPTNEG` line say what holds in it; a row is a stage, a column a
//! command. When something differs the whole section is printed as it would be right.

use super::conn::{Conn, Cut};
use super::packet::{self, Reply};
use super::play::Target;
use super::script::{Line, Script, Step};

/// The columns: a name and the command.
fn commands(offer: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let packet = packet::packet;
    vec![
        ("OPTNEG", offer.to_vec()),
        ("MACRO", packet(b'D', b"Mi\0q1\0")),
        ("CONNECT", packet(b'C', b"mx.example\x004\x00\x19192.0.2.7\0")),
        ("HELO", packet(b'H', b"mx.example\0")),
        ("MAIL", packet(b'M', b"<a@example.com>\0")),
        ("RCPT", packet(b'R', b"<b@example.org>\0")),
        ("DATA", packet(b'T', b"")),
        ("HEADER", packet(b'L', b"Subject\0x\0")),
        ("EOH", packet(b'N', b"")),
        ("BODY", packet(b'B', b"x\r\n")),
        ("EOM", packet(b'E', b"")),
        ("ABORT", packet(b'A', b"")),
        ("UNKNOWN", packet(b'U', b"XFOO\0")),
        ("QUIT_NC", packet(b'K', b"")),
        ("QUIT", packet(b'Q', b"")),
        ("other", packet(b'z', b"x")),
        ("empty", vec![0; 4]),
    ]
}

/// The rows: a name and the commands that lead there from the negotiation on.
const STAGES: [(&str, &[&str]); 14] = [
    ("fresh", &[]),
    ("negotiated", &["OPTNEG"]),
    ("connected", &["OPTNEG", "CONNECT"]),
    ("greeted", &["OPTNEG", "CONNECT", "HELO"]),
    ("mail", &["OPTNEG", "CONNECT", "HELO", "MAIL"]),
    ("rcpt", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT"]),
    ("data", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "DATA"]),
    ("header", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER"]),
    ("eoh", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "EOH"]),
    ("body", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY"]),
    ("done", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY", "EOM"]),
    ("aborted", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "ABORT"]),
    ("second", &["OPTNEG", "CONNECT", "HELO", "MAIL", "RCPT", "EOM", "MAIL"]),
    ("next", &["OPTNEG", "CONNECT", "HELO", "QUIT_NC"]),
];

/// The client after that.
const NEXT: [&str; 6] = ["QUIT_NC", "CONNECT", "HELO", "MAIL", "RCPT", "EOM"];

/// Compares every section; gives those that differ as they are found.
pub(crate) fn check(text: &str) -> Vec<String> {
    let mut sections = text.split("\n## ");
    let _preface = sections.next();
    sections.filter_map(|section| check_section(section).err()).collect()
}

fn check_section(section: &str) -> Result<(), String> {
    let (name, body) = section.split_once('\n').ok_or("a section of one line")?;
    let script: String = body
        .lines()
        .filter(|line| line.starts_with("config ") || line.starts_with("> "))
        .fold("# a section\n".to_owned(), |text, line| text + line + "\n");
    let script = Script::parse(&script).map_err(|(_, problem)| format!("{name}: {problem}"))?;
    let expected: Vec<&str> = body.lines().filter(|line| line.starts_with('|')).collect();
    let found = measure(&script).map_err(|problem| format!("{name}: {problem}"))?;
    let same = expected.len() == found.len() && expected.iter().zip(&found).all(|(a, b)| a.trim_end() == b.trim_end());
    if same { Ok(()) } else { Err(format!("{name}: expected\n{}\nfound\n{}", expected.join("\n"), found.join("\n"))) }
}

fn measure(script: &Script) -> Result<Vec<String>, String> {
    let [Line { step: Step::Send(offer), .. }] = &script.lines[..] else {
        return Err("a section has one offer".to_owned());
    };
    let commands = commands(offer);
    let mut target = Target::start(&script.config)?;
    let head: Vec<String> = commands.iter().map(|(name, _)| format!("{name:<7}")).collect();
    let mut rows = vec![format!("| {:<10} | {} |", "", head.join(" | "))];
    for (stage, path) in STAGES {
        let mut row = Vec::new();
        for (command, bytes) in &commands {
            let at = |problem| format!("{stage}, {command}: {problem}");
            let mut conn = Conn::open(&target.socket, Cut::AsWritten)?;
            for bytes in named(path, &commands) {
                go(&mut conn, bytes).map_err(at)?;
            }
            row.push(format!("{:<7}", answers(conn, bytes, &named(&NEXT, &commands)).map_err(at)?));
        }
        rows.push(format!("| {stage:<10} | {} |", row.join(" | ")));
    }
    target.check_serves()?;
    target.end()?;
    Ok(rows)
}

fn named<'c>(names: &[&str], commands: &'c [(&str, Vec<u8>)]) -> Vec<&'c [u8]> {
    let bytes = |name: &&str| commands.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice());
    names.iter().map(|name| bytes(name).expect("a stage is made of commands")).collect()
}

/// One step on the way, whose answer is not looked at but read.
fn go(conn: &mut Conn, bytes: &[u8]) -> Result<(), String> {
    conn.send(bytes);
    if conn.agreed.answers(bytes[4]) {
        conn.read()?;
    }
    Ok(())
}

/// Everything that comes back for a command, as letters, and `x` where the filter does not go on to serve the `next`
/// client.
fn answers(mut conn: Conn, bytes: &[u8], next: &[&[u8]]) -> Result<String, String> {
    conn.send(bytes);
    conn.send(&next.concat());
    conn.eof();
    let mut letters = String::new();
    loop {
        match conn.read()? {
            Reply::Closed => break,
            reply => letters.push(reply.letter()),
        }
    }
    let served = next.iter().filter(|bytes| conn.agreed.answers(bytes[4])).count();
    match letters.len().checked_sub(served) {
        Some(count) if letters[count..].bytes().all(|letter| letter == b'c') => letters.truncate(count),
        Some(_) => return Err(format!("the next client got {letters}")),
        None => letters.push('x'),
    }
    Ok(if letters.is_empty() { "-".to_owned() } else { letters })
}
