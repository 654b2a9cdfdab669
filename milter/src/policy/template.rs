//! What the sender reads: a reply of one line with names in braces, checked and taken apart at start.
//!
//! `{client_addr}` is the client's address (`unknown` where it has none), `{limit}` the limit that was reached, `{rule}`
//! which one it was, `{node}` this machine.
//!
//! sendmail takes a filter's reply for a format: where a `%` stands alone it drops the whole text. So every `%` is sent
//! doubled, as libmilter asks of filters, and both sendmail and Postfix make one of it again. In the config it is
//! written once.

use std::fmt::Write;

use greypit_pipeline::Result;

use super::{Decision, Subject};
use crate::config::problem;

/// A reply line with its CR LF (RFC 5321 section 4.5.3.1.5).
const LINE_BYTES_MAX: usize = 512;

/// What the placeholders take at most: an IPv6 address, a `u32`, a node (as `check_node` has it).
const ADDR_BYTES_MAX: usize = 39;
const LIMIT_BYTES_MAX: usize = 10;
const NODE_BYTES_MAX: usize = 128;

/// The longest of the rules that are always there.
const RULE_BYTES_MIN: usize = "connection".len();

/// Which reply it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Leaves the connection open.
    Refuse,
    /// Ends it.
    Close,
}

#[derive(Debug)]
enum Part {
    Text(String),
    ClientAddr,
    Limit,
    Rule,
}

/// A reply taken apart.
#[derive(Debug)]
pub(super) struct Template(Vec<Part>);

impl Template {
    /// `label_bytes_max`: the longest `{rule}` of the config.
    pub(super) fn new(key: &str, text: &str, kind: Kind, node: &str, label_bytes_max: usize) -> Result<Template> {
        let wrong = |why: &str| problem(key, format!("'{}' {why}", text.escape_default()));
        check_code(text, kind).map_err(wrong)?;
        if text.bytes().any(|byte| !matches!(byte, b' '..=b'~')) {
            return Err(wrong("has characters that no reply may have; use printable ASCII, on one line"));
        }
        let (mut parts, mut bytes, mut rest) = (Vec::new(), 0, text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| wrong("has a '{' without '}'"))?;
            bytes += before.len();
            parts.push(literal(before));
            let (part, bytes_max) = match name {
                "client_addr" => (Part::ClientAddr, ADDR_BYTES_MAX),
                "limit" => (Part::Limit, LIMIT_BYTES_MAX),
                "rule" => (Part::Rule, label_bytes_max.max(RULE_BYTES_MIN)),
                "node" => (literal(node), NODE_BYTES_MAX),
                _ => return Err(wrong("may fill in only {client_addr}, {limit}, {rule} and {node}")),
            };
            bytes += bytes_max;
            parts.push(part);
            rest = after;
        }
        bytes += rest.len() + "\r\n".len();
        parts.push(literal(rest));
        if bytes > LINE_BYTES_MAX {
            let why = format!("may become {bytes} bytes with all filled in; a reply has at most {LINE_BYTES_MAX}");
            return Err(wrong(&why));
        }
        Ok(Template(parts))
    }

    /// Appends the reply, every `%` doubled.
    pub(super) fn fill(&self, decision: &Decision<'_>, subject: &Subject<'_>, out: &mut Vec<u8>) {
        let mut out = Ascii(out);
        for part in &self.0 {
            let written = match (part, subject.addr) {
                (Part::Text(text), _) => out.write_str(text),
                (Part::ClientAddr, Some(addr)) => write!(out, "{}", addr.to_canonical()),
                (Part::ClientAddr, None) => out.write_str("unknown"),
                (Part::Limit, _) => write!(out, "{}", decision.limit),
                (Part::Rule, _) => out.write_str(decision.rule),
            };
            debug_assert!(written.is_ok(), "a Vec takes everything");
        }
    }
}

/// Text that stands as it is, ready to be sent.
fn literal(text: &str) -> Part {
    Part::Text(text.replace('%', "%%"))
}

/// Formats into bytes.
struct Ascii<'v>(&'v mut Vec<u8>);

impl Write for Ascii<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// A temporary reply with an enhanced code of the same class (RFC 3463): Postfix wants both, and a permanent one would
/// make the sender give up its mail.
fn check_code(text: &str, kind: Kind) -> std::result::Result<(), &'static str> {
    let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
    let enhanced = rest.split(' ').next().unwrap_or_default();
    let is_temporary = matches!(code.as_bytes(), [b'4', b'0'..=b'5', b'0'..=b'9']);
    let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_enhanced = match *enhanced.split('.').collect::<Vec<_>>() {
        [class, subject, detail] => class == "4" && digits(subject) && digits(detail),
        _ => false,
    };
    match kind {
        Kind::Refuse if code == "421" => Err("would close the connection; 421 belongs into closing_answer"),
        Kind::Refuse if !is_temporary || !is_enhanced => {
            Err("must begin with a temporary code and its enhanced code, as \"451 4.7.1 \" does")
        }
        Kind::Close if code != "421" || !is_enhanced => Err("must begin with 421 and an enhanced code: \"421 4.7.1 \""),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::transaction::Ending;

    fn template(text: &str, kind: Kind) -> std::result::Result<Template, String> {
        Template::new("answer", text, kind, "mx1.example.com", 0).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_in_braces_is_filled_in() {
        let decision = Decision {
            verdict: Ending::Refuse,
            rule: "lists/client",
            strike: 1,
            limit: 100,
            delay: Duration::ZERO,
            counted_for_client: false,
        };
        let fill = |text: &str, addr: Option<&str>| {
            let subject = Subject { addr: addr.map(|addr| addr.parse().unwrap()), ..Subject::default() };
            let mut out = b"before".to_vec();
            template(text, Kind::Refuse).unwrap().fill(&decision, &subject, &mut out);
            String::from_utf8(out).unwrap()
        };
        let text = "450 4.7.0 {client_addr} {limit} {rule} {node} } 100%";
        assert_eq!(fill(text, Some("::1")), "before450 4.7.0 ::1 100 lists/client mx1.example.com } 100%%");
        assert_eq!(fill("451 4.7.1 {client_addr}", Some("::ffff:192.0.2.1")), "before451 4.7.1 192.0.2.1");
        assert_eq!(fill("451 4.7.1 {client_addr}", None), "before451 4.7.1 unknown");
        assert_eq!(fill("451 4.7.1", None), "before451 4.7.1");
    }

    #[test]
    fn what_a_mail_server_would_not_send_is_a_mistake() {
        let long = format!("451 4.7.1 {}", "x".repeat(501));
        let long_with_node = format!("451 4.7.1 {{node}}{}", "x".repeat(373));
        for (text, kind, why) in [
            ("", Kind::Refuse, "must begin with a temporary code"),
            ("451", Kind::Refuse, "must begin with a temporary code"),
            ("451 try later", Kind::Refuse, "must begin with a temporary code"),
            ("451-4.7.1 x", Kind::Refuse, "must begin with a temporary code"),
            ("550 5.7.1 x", Kind::Refuse, "must begin with a temporary code"),
            ("451 5.7.1 x", Kind::Refuse, "must begin with a temporary code"),
            ("451 4.7 x", Kind::Refuse, "must begin with a temporary code"),
            ("499 4.7.1 x", Kind::Refuse, "must begin with a temporary code"),
            ("421 4.7.1 x", Kind::Refuse, "421 belongs into closing_answer"),
            ("451 4.7.1 x", Kind::Close, "must begin with 421"),
            ("421 x", Kind::Close, "must begin with 421"),
            ("451 4.7.1 a\r\n250 b", Kind::Refuse, "printable ASCII"),
            ("451 4.7.1 später", Kind::Refuse, "printable ASCII"),
            ("451 4.7.1 {helo}", Kind::Refuse, "may fill in only"),
            ("451 4.7.1 {limit", Kind::Refuse, "has a '{' without '}'"),
            (&long, Kind::Refuse, "may become 513 bytes"),
            (&long_with_node, Kind::Refuse, "may become 513 bytes"),
        ] {
            let error = template(text, kind).unwrap_err();
            assert!(error.starts_with("milter.answer: '") && error.contains(why), "{text}: {error}");
            assert!(!error.contains(['\n', '\r']), "{error}");
        }
        assert!(template(&long[..510], Kind::Refuse).is_ok());
        assert!(template("421 4.7.0 {node}: bye", Kind::Close).is_ok());
    }
}
