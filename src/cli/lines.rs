//! Log lines from files or stdin, as `parse` and `simulate` read them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use jiff::Timestamp;

use super::Stop;

/// Longer lines are cut, as the gateway cuts them at most.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Gives `take` every line of the files, `-` or none being stdin, with the time at which its file was opened. Returns how
/// many were cut.
pub(crate) fn for_each(
    files: &[PathBuf],
    mut take: impl FnMut(&[u8], Timestamp) -> Result<(), Stop>,
) -> Result<u64, Stop> {
    let (mut truncated, mut line) = (0, Vec::new());
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin[..] } else { files };
    for file in files {
        let unreadable = |error: io::Error| Stop::Say(format!("{}: {error}", file.display()));
        let input: Box<dyn Read> = match file.as_os_str() == "-" {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(file).map_err(unreadable)?),
        };
        let mut input = BufReader::with_capacity(256 << 10, input);
        let opened = Timestamp::now();
        while let Some(line) = next(&mut input, &mut line, &mut truncated).map_err(unreadable)? {
            take(line, opened)?;
        }
    }
    Ok(truncated)
}

/// Reads a line; of one that is too long, its begin.
fn next<'l>(input: &mut impl BufRead, line: &'l mut Vec<u8>, truncated: &mut u64) -> io::Result<Option<&'l [u8]>> {
    line.clear();
    if (&mut *input).take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') && line.len() == LINE_BYTES_MAX {
        *truncated += 1;
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let text = format!("{}\nb\n", "a".repeat(LINE_BYTES_MAX + 5));
        let (mut input, mut line, mut truncated) = (text.as_bytes(), Vec::new(), 0);
        let mut lengths = Vec::new();
        while let Some(line) = next(&mut input, &mut line, &mut truncated).expect("a slice is readable") {
            lengths.push(line.len());
        }
        assert_eq!((lengths, truncated), (vec![LINE_BYTES_MAX, 2], 1));
    }
}
