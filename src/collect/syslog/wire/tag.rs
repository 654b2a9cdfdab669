//! The program's name in front of a text, and what stands between it and the text.

use super::{Message, Pri, cisco, known};

/// Longer first words are text, not a program's name.
const TAG_BYTES_MAX: usize = 255;

pub(super) struct Tag<'a> {
    pub(super) app: &'a [u8],
    pub(super) procid: Option<&'a [u8]>,
    pub(super) text: &'a [u8],
}

/// Takes the program's name off a text, if it has one.
pub(super) fn tag_and_text<'a>(rest: &'a [u8], m: &mut Message<'a>) {
    let rest = skip_blanks(rest);
    // Cisco ASA sets its host off with ` : `.
    let rest = rest.strip_prefix(b": ").map_or(rest, skip_blanks);
    m.message = rest;
    if known::is_payload(rest) {
        return;
    }
    if relayed_cisco(rest, m) {
        return;
    }
    let Some(t) = tag(rest, true) else {
        let other = known::snare(rest).or_else(|| leveled(rest, m)).or_else(|| tag(rest, false));
        return other.iter().for_each(|t| set(t, m));
    };
    let inner = if t.app.contains(&b',') && known::is_unifi(t.app) { tag(t.text, true) } else { None };
    match inner {
        Some(inner) => {
            m.keep_raw |= m.hostname.is_some();
            m.hostname = m.hostname.or(Some(t.app));
            set(&inner, m);
        }
        None => set(&t, m),
    }
}

/// Cisco's count and time behind a relay's header: the relay's time stands.
fn relayed_cisco<'a>(rest: &'a [u8], m: &mut Message<'a>) -> bool {
    if !matches!(rest, [b'0'..=b'9' | b'*' | b'.' | b':', ..]) {
        return false;
    }
    let Some(h) = cisco::header(rest).filter(|h| is_mnemonic(h.rest)) else {
        return false;
    };
    m.keep_raw |= h.text.is_some() || h.hostname.is_some() || h.keep_raw;
    m.sequence = h.sequence;
    match tag(h.rest, true) {
        Some(t) => set(&t, m),
        None => m.message = h.rest,
    }
    true
}

pub(super) fn set<'a>(t: &Tag<'a>, m: &mut Message<'a>) {
    m.app = Some(t.app);
    m.procid = t.procid;
    m.message = t.text;
    if let [b'[', b'I', b'D', ..] = t.text {
        solaris_id(m);
    }
}

/// `app[procid]: ` or `app: `. Where a host may stand (`strict`), `a:b` is not a tag.
pub(super) fn tag(rest: &[u8], strict: bool) -> Option<Tag<'_>> {
    let window = &rest[..rest.len().min(TAG_BYTES_MAX)];
    let end = memchr::memchr3(b' ', b':', b'[', window)?;
    let (app, after) = (&rest[..end], &rest[end..]);
    // Where a host may stand, this is the host of nearly every line.
    if app.is_empty() || after[0] == b' ' && app[0] != b'%' {
        return None;
    }
    if !app.iter().all(|c| TAG_BYTES[usize::from(*c)]) {
        return None;
    }
    match after {
        [b'[', inside @ ..] => {
            let close = memchr::memchr2(b']', b' ', &inside[..inside.len().min(64)])?;
            let procid = &inside[..close];
            if procid.is_empty() || inside[close] != b']' {
                return None;
            }
            let text = match &inside[close + 1..] {
                [b':', b' ', text @ ..] | [b':' | b' ', text @ ..] => text,
                [] => &[],
                _ => return None,
            };
            Some(Tag { app, procid: Some(procid), text })
        }
        [b':', b' ', text @ ..] => Some(Tag { app, procid: None, text }),
        [b':'] => Some(Tag { app, procid: None, text: &[] }),
        // "fe80::1", "http://": the colon belongs to the word.
        [b':', b':' | b'/', ..] => None,
        [b':', text @ ..] if !strict && app[0] != b'%' && !is_ipv6(rest) => Some(Tag { app, procid: None, text }),
        // Cisco ACI: nothing but a blank behind the mnemonic.
        [b' ', text @ ..] if app[0] == b'%' && is_mnemonic(app) => Some(Tag { app, procid: None, text }),
        _ => None,
    }
}

/// What a program's name can be made of; keeps JSON, `key="value"` and prose from being one.
const TAG_BYTES: [bool; 256] = {
    let mut table = [true; 256];
    let mut c = 0;
    while c <= 0x7F {
        table[c] =
            c > 0x20 && c != 0x7F && !matches!(c as u8, b'{' | b'}' | b'"' | b'\'' | b'<' | b'>' | b'=' | b';' | b'`');
        c += 1;
    }
    table
};

/// `%SYS-5-CONFIG_I`, at the start of `s`.
pub(super) fn is_mnemonic(s: &[u8]) -> bool {
    let word = &s[..s.iter().take(64).take_while(|c| !matches!(c, b' ' | b':')).count()];
    matches!(word, [b'%', b'A'..=b'Z', ..]) && word.windows(3).any(|w| matches!(w, [b'-', b'0'..=b'7', b'-']))
}

/// `notice tmsh[16322]: text` (F5) and `auth|security:info sshd[12]: text` (AIX): facility
/// and severity once more. What the PRI does not say stays in the raw message.
fn leveled<'a>(rest: &'a [u8], m: &mut Message<'a>) -> Option<Tag<'a>> {
    let end = memchr::memchr(b' ', &rest[..rest.len().min(32)])?;
    let (word, after) = (&rest[..end], &rest[end + 1..]);
    let colon = memchr::memchr(b':', word);
    let first = |names: &'a [u8]| names.split(|c| *c == b'|').next().unwrap_or_default();
    let severity = Pri::severity_of(first(&word[colon.map_or(0, |n| n + 1)..]))?;
    let t = tag(after, true)?;
    let said = match (colon, m.pri) {
        (None, Some(pri)) => pri.0 & 7 == severity,
        (None, None) => false,
        (Some(n), pri) => {
            let spelt = Pri::of(Pri::facility_of(first(&word[..n]))?, severity);
            m.pri = pri.or(spelt);
            m.pri == spelt
        }
    };
    m.keep_raw |= !said;
    Some(t)
}

/// Takes `[ID 801593 mail.info] ` off the text.
fn solaris_id(m: &mut Message<'_>) {
    let Some(after) = m.message.strip_prefix(b"[ID ") else {
        return;
    };
    let digits = after.iter().take_while(|c| c.is_ascii_digit()).count();
    let Some(rest) = after[digits..].strip_prefix(b" ") else {
        return;
    };
    let Some(end) = memchr::memmem::find(rest, b"] ").filter(|n| *n <= 20) else {
        return;
    };
    let Some(pri) = Pri::from_keywords(&rest[..end]) else {
        return;
    };
    if digits == 0 {
        return;
    }
    m.msgid = Some(&after[..digits]);
    m.keep_raw |= m.pri.is_some_and(|header| header != pri);
    m.pri = m.pri.or(Some(pri));
    m.message = &rest[end + 2..];
}

fn is_ipv6(rest: &[u8]) -> bool {
    let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
    let word = &rest[..end];
    word.iter().filter(|c| **c == b':').count() > 1
        && word.iter().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.' | b'%'))
}

pub(super) fn skip_blanks(mut s: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = s {
        s = rest;
    }
    s
}
