//! Words of a line: separated by blanks, quoted where they hold one, with `\r \n \t \0 \" \\ \xHH`, repeated by `"a"*100`.

use super::script::number;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) bytes: Vec<u8>,
    quoted: bool,
}

impl Word {
    pub(crate) fn is(&self, text: &str) -> bool {
        !self.quoted && self.bytes == text.as_bytes()
    }

    pub(crate) fn text(&self) -> Result<String, String> {
        String::from_utf8(self.bytes.clone()).map_err(|error| error.to_string())
    }

    pub(crate) fn number(&self) -> Result<u32, String> {
        number(&self.text()?)
    }

    /// Bytes as hexadecimal digits, or quoted as text.
    pub(crate) fn raw(&self) -> Result<Vec<u8>, String> {
        if self.quoted {
            return Ok(self.bytes.clone());
        }
        let text = self.text()?;
        let digits = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes = (0..text.len()).step_by(2).map(digits).collect::<Option<Vec<u8>>>();
        bytes.ok_or_else(|| format!("'{text}' are no bytes"))
    }
}

pub(crate) fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut rest = line.trim_start();
    let mut words = Vec::new();
    while !rest.is_empty() {
        let (word, behind) = next_word(rest)?;
        words.push(word);
        rest = behind.trim_start();
    }
    Ok(words)
}

/// A quote may stand anywhere in a word: `_="mx [192.0.2.7]"`.
fn next_word(line: &str) -> Result<(Word, &str), String> {
    let mut word = Word { bytes: Vec::new(), quoted: line.starts_with('"') };
    let mut rest = line;
    while let Some(char) = rest.chars().next().filter(|char| *char != ' ') {
        rest = &rest[char.len_utf8()..];
        if char == '"' {
            let (quoted, behind) = unquote(rest)?;
            let (times, behind) = times(behind)?;
            word.bytes.extend(quoted.repeat(times));
            rest = behind;
        } else {
            word.bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok((word, rest))
}

/// Up to the closing quote, and what is behind it.
fn unquote(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    loop {
        let at = rest.find(['"', '\\']).ok_or("no closing quote")?;
        bytes.extend(&rest.as_bytes()[..at]);
        let (mark, behind) = rest[at..].split_at(1);
        if mark == "\"" {
            return Ok((bytes, behind));
        }
        let (byte, length) = match behind.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [byte @ (b'"' | b'\\'), ..] => (*byte, 1),
            [b'x', ..] => {
                let digits = behind.get(1..3).ok_or("\\x takes two digits")?;
                (u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?, 3)
            }
            _ => return Err("an unknown character behind \\".to_owned()),
        };
        bytes.push(byte);
        rest = &behind[length..];
    }
}

/// `*100` behind a quote.
fn times(text: &str) -> Result<(usize, &str), String> {
    let Some(behind) = text.strip_prefix('*') else { return Ok((1, text)) };
    let end = behind.find(' ').unwrap_or(behind.len());
    Ok((number(&behind[..end])? as usize, &behind[end..]))
}

/// Whether the text is the pattern, where `*` stands for anything.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => {
            let Some(behind) = text.strip_prefix(start) else { return false };
            (0..=behind.len()).any(|at| behind.is_char_boundary(at) && glob(rest, &behind[at..]))
        }
    }
}
