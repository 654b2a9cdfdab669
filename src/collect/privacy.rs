//! `[privacy]`: records without the names in front of the `@`.
//!
//! A local part is replaced by the first 16 hexadecimal digits of HMAC-SHA256(key, local part), with ASCII letters in
//! lower case and without quotes, so that `Alice@example.com` and `"alice"@example.com` are one; the domain stays. The
//! same key gives the same digits in every kind of record and on every node, so joins still work; without the key,
//! guesses cannot be tried. Among a million different local parts, the chance that any two have the same digits is
//! 1 in 37 million; among a thousand million it is 1 in 37.
//!
//! An address without a domain (`root`, `|prog`, `/file`) is replaced whole. The null sender stays empty.

use greypit_pipeline::{Error, Result};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;

/// Shorter keys could be guessed.
const KEY_CHARS_MIN: usize = 16;

/// What stands in place of a key wherever one would be shown.
const HIDDEN: &str = "***";

/// Of the 64 digits of the hash.
const HASH_BYTES: usize = 8;

/// The `[privacy]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether local parts are replaced by a keyed hash.
    pub hash_local_part: bool,
    /// The key.
    pub key: Secret,
}

/// A text that is never shown: neither by `{:?}` nor by what `greypit check` prints.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Secret {
    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { HIDDEN }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Secret, D::Error> {
        // serde's own error would quote what is no text.
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Secret(text)),
            _ => Err(serde::de::Error::custom("a key is a text in quotes")),
        }
    }
}

impl Config {
    /// Checks the key.
    ///
    /// # Errors
    /// [`Error::Config`] names it.
    pub fn validate(&self) -> Result<()> {
        let problem = |problem: String| Err(Error::Config { key: "privacy.key".to_owned(), problem });
        if !self.hash_local_part {
            return Ok(());
        }
        if self.key.0 == HIDDEN {
            return problem(format!(
                "'{HIDDEN}' is what `greypit check` prints in place of a key; write the key itself"
            ));
        }
        let chars = self.key.0.chars().count();
        if chars < KEY_CHARS_MIN {
            return problem(format!(
                "{chars} characters are too few to hash local parts, at least {KEY_CHARS_MIN} are needed; write for \
                 example \"${{GREYPIT_PRIVACY_KEY}}\" and set that to the output of `openssl rand -hex 32`"
            ));
        }
        Ok(())
    }

    /// What hides local parts, if they are to be hidden.
    #[must_use]
    pub fn privacy(&self) -> Option<Privacy> {
        self.hash_local_part.then(|| Privacy::new(self.key.0.as_bytes()))
    }
}

/// Hides local parts. Cheap to clone.
#[derive(Clone)]
pub struct Privacy {
    /// With the key taken in.
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Privacy")
    }
}

impl Privacy {
    fn new(key: &[u8]) -> Privacy {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Privacy { mac }
    }

    /// Appends an address with its local part hidden. Keeps angle brackets, a source route and the domain.
    pub(super) fn address(&self, out: &mut Vec<u8>, address: &[u8]) {
        let (open, inner) = address.strip_prefix(b"<").map_or((&b""[..], address), |inner| (b"<", inner));
        let (inner, close) = inner.strip_suffix(b">").map_or((inner, &b""[..]), |inner| (inner, b">"));
        let (route, mailbox) = inner.split_at(route(inner));
        let (local, domain) = mailbox.split_at(at(mailbox).unwrap_or(mailbox.len()));
        out.extend_from_slice(open);
        out.extend_from_slice(route);
        self.local_part(out, local);
        out.extend_from_slice(domain);
        out.extend_from_slice(close);
    }

    /// Appends a text in which others may quote addresses: each `local@domain` is hidden, and each of `own`, the
    /// addresses that the text is about, which need no domain. One of them is not looked for at the very start, where
    /// sendmail puts words of its own (`Sent`, `User unknown`) that users may be called too.
    pub(super) fn text<'a>(&self, out: &mut Vec<u8>, text: &[u8], own: impl Iterator<Item = &'a [u8]> + Clone) {
        let mut done = 0;
        let mut at = 0;
        while at < text.len() {
            let quoted = own.clone().filter(|own| at > 0 && stands_at(text, at, own)).max_by_key(|own| own.len());
            if let Some(own) = quoted {
                out.extend_from_slice(&text[done..at]);
                self.address(out, own);
                at += own.len();
                done = at;
                continue;
            }
            if text[at] == b'@' && domain_length(&text[at + 1..]) > 0 {
                let local = local_start(&text[done..at]) + done;
                if local < at {
                    out.extend_from_slice(&text[done..local]);
                    self.local_part(out, &text[local..at]);
                    done = at;
                }
            }
            at += 1;
        }
        out.extend_from_slice(&text[done..]);
    }

    /// Appends the hash, or nothing for nothing.
    fn local_part(&self, out: &mut Vec<u8>, local: &[u8]) {
        if local.is_empty() {
            return;
        }
        let begin = out.len();
        plain(out, local);
        let mut mac = self.mac.clone();
        mac.update(&out[begin..]);
        out.truncate(begin);
        for byte in &mac.finalize().into_bytes()[..HASH_BYTES] {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends a local part in the one spelling that is hashed.
fn plain(out: &mut Vec<u8>, local: &[u8]) {
    let quoted = local.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\""));
    let mut escaped = false;
    for byte in quoted.unwrap_or(local) {
        escaped = quoted.is_some() && *byte == b'\\' && !escaped;
        if !escaped {
            out.push(byte.to_ascii_lowercase());
        }
    }
}

/// The length of `@a,@b:` in front of an address (RFC 5321 section 4.1.2).
fn route(address: &[u8]) -> usize {
    if address.first() != Some(&b'@') {
        return 0;
    }
    let Some(colon) = memchr::memchr(b':', address) else { return 0 };
    let is_route = address[..colon].split(|c| *c == b',').all(|hop| matches!(hop, [b'@', hop @ ..] if is_domain(hop)));
    if is_route { colon + 1 } else { 0 }
}

/// Where the domain begins, its `@` included: what follows the last one, if it can be a domain and is not in quotes
/// that a cut has left open.
fn at(mailbox: &[u8]) -> Option<usize> {
    let is_closed = |local: &[u8]| !local.starts_with(b"\"") || local.len() > 1 && local.ends_with(b"\"");
    memchr::memrchr(b'@', mailbox).filter(|at| is_domain(&mailbox[at + 1..]) && is_closed(&mailbox[..*at]))
}

fn is_domain(text: &[u8]) -> bool {
    !text.is_empty() && domain_length(text) == text.len() && std::str::from_utf8(text).is_ok()
}

/// How many bytes at the start of `text` are a domain or an address in brackets.
fn domain_length(text: &[u8]) -> usize {
    if let Some(inside) = text.strip_prefix(b"[") {
        let length = inside.iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b':')).count();
        return if length > 0 && inside.get(length) == Some(&b']') { length + 2 } else { 0 };
    }
    text.iter().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_') || **c >= 0x80).count()
}

/// Where the local part that ends `text` begins.
fn local_start(text: &[u8]) -> usize {
    if let [inside @ .., b'"'] = text {
        // The quote that is not itself quoted; all of the text where there is none.
        let opens = |at: &usize| inside[..*at].iter().rev().take_while(|c| **c == b'\\').count() % 2 == 0;
        return memchr::memrchr_iter(b'"', inside).find(opens).unwrap_or(0);
    }
    text.len() - text.iter().rev().take_while(|c| is_local(**c)).count()
}

/// What may be in a local part without quotes (RFC 5322 dot-atom, RFC 6531).
fn is_local(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b".!#$%&'*+-/=?^_`{|}~".contains(&c) || c >= 0x80
}

/// Whether `own` stands at `at` as a whole word.
fn stands_at(text: &[u8], at: usize, own: &[u8]) -> bool {
    let Some(there) = text.get(at..at + own.len()) else { return false };
    let joined =
        |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_') || *c >= 0x80);
    !own.is_empty()
        && there.eq_ignore_ascii_case(own)
        && !joined(at.checked_sub(1).and_then(|before| text.get(before)))
        && !joined(text.get(at + own.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privacy() -> Privacy {
        Privacy::new(b"0123456789abcdef")
    }

    fn hidden(address: &str) -> String {
        let mut out = b"kept ".to_vec();
        privacy().address(&mut out, address.as_bytes());
        String::from_utf8(out).expect("ASCII").split_off(5)
    }

    fn text(text: &str, own: &[&str]) -> String {
        let mut out = Vec::new();
        privacy().text(&mut out, text.as_bytes(), own.iter().map(|own| own.as_bytes()));
        String::from_utf8(out).expect("UTF-8")
    }

    // printf alice | openssl dgst -sha256 -hmac 0123456789abcdef
    const ALICE: &str = "fdbf8b1cacd3d578";

    #[test]
    fn the_hash_is_what_openssl_says() {
        assert_eq!(hidden("alice"), ALICE);
    }

    #[test]
    fn the_local_part_is_hidden_and_nothing_else() {
        for (address, expected) in [
            ("alice@example.com", "A@example.com"),
            ("ALICE@Example.COM", "A@Example.COM"),
            ("<alice@example.com>", "<A@example.com>"),
            ("<alice@example.com", "<A@example.com"),
            ("\"alice\"@example.com", "A@example.com"),
            ("\"al\\ice\"@example.com", "A@example.com"),
            ("@a.example,@b.example:alice@example.com", "@a.example,@b.example:A@example.com"),
            ("alice@[192.0.2.1]", "A@[192.0.2.1]"),
            ("alice@[IPv6:2001:db8::1]", "A@[IPv6:2001:db8::1]"),
            ("alice@münchen.example", "A@münchen.example"),
            ("alice@localhost", "A@localhost"),
            ("alice", "A"),
            ("", ""),
            ("<>", "<>"),
        ] {
            assert_eq!(hidden(address), expected.replace('A', ALICE), "{address}");
        }
    }

    #[test]
    fn what_is_no_plain_address_is_hidden_whole() {
        for address in [
            "|/bin/prog alice@example.com arg",
            "\"alice@example.com",
            "/var/mail/alice",
            "example!alice",
            "alice@",
            "alice@ex ample.com",
            "@a,b:alice",
            "alice@[192.0.2.1",
            "Alice <alice@example.com> x",
        ] {
            let hidden = hidden(address);
            assert!(
                hidden.len() == 2 * HASH_BYTES && hidden.bytes().all(|c| c.is_ascii_hexdigit()),
                "{address}: {hidden}"
            );
        }
        // The last @ counts.
        assert!(hidden("alice@home@example.com").ends_with("@example.com"));
        assert!(!hidden("|prog -f alice@home@example.com").contains("alice"));
    }

    #[test]
    fn addresses_quoted_in_a_text_are_hidden() {
        for (given, own, expected) in [
            ("550 5.1.1 <alice@example.com>: unknown", &[][..], "550 5.1.1 <A@example.com>: unknown"),
            ("Sent (alice@example.com, Alice@example.net.)", &[], "Sent (A@example.com, A@example.net.)"),
            ("alice@[192.0.2.1] and \"alice\"@localhost", &[], "A@[192.0.2.1] and A@localhost"),
            ("alice@home", &["alice@home"], "A@home"),
            ("550 alice... User unknown", &["alice"], "550 A... User unknown"),
            ("550 malice, alice-b, alice: no", &["alice"], "550 malice, alice-b, A: no"),
            ("550 alice@example.com.", &["alice", "alice@example.com"], "550 A@example.com."),
            // sendmail's own word first, whatever users are called.
            ("alice; alice", &["alice"], "alice; A"),
            ("a @ b, @example.com, mail@, 5@ ", &[], "a @ b, @example.com, mail@, 5@ "),
            ("", &["", "alice"], ""),
        ] {
            assert_eq!(text(given, own), expected.replace('A', ALICE), "{given}");
        }
        let joined = text("rcpt=alice@example.com \"a b\"@example.com", &[]);
        assert!(!joined.contains("alice") && !joined.contains("a b"), "{joined}");
    }

    #[test]
    fn a_key_has_its_length() {
        let config = |key: &str| Config { hash_local_part: true, key: key.into() };
        config("0123456789abcdef").validate().unwrap();
        assert!(config("0123456789abcde").validate().is_err());
        Config { hash_local_part: false, ..config("x") }.validate().unwrap();
        assert!(Config::default().privacy().is_none());
        assert_eq!(format!("{:?} {:?}", config("secret").key, privacy()), "*** Privacy");
    }
}
