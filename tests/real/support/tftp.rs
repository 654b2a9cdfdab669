//! The clients of TFTP, tftp-hpa and atftp, on a host of a [`Wire`](super::netns::Wire).

use super::netns::Host;
use super::{Folder, boot};
use std::fs;
use std::process::Command;

/// tftp-hpa fetches a file in mode `octet` or `netascii`. It asks for no options.
pub(crate) fn hpa(host: &Host, server: &str, mode: &str, name: &str) -> Result<Vec<u8>, String> {
    let folder = Folder::new("tftp");
    let mut command = host.command(boot("usr/bin/tftp"));
    command.args(["-m", mode, server, "-c", "get", name]).arg(folder.join("file"));
    fetched(&mut command, &folder)
}

/// atftp fetches a file with options such as `blksize 1468`, `tsize 0`,
/// `timeout 2`, `windowsize 16`.
pub(crate) fn atftp(host: &Host, server: &str, name: &str, options: &[&str]) -> Result<Vec<u8>, String> {
    let folder = Folder::new("atftp");
    let mut command = host.command(boot("usr/bin/atftp"));
    command.args(options.iter().flat_map(|option| ["--option", option]));
    command.args(["--get", "--remote-file", name, "--local-file"]).arg(folder.join("file")).arg(server);
    fetched(&mut command, &folder)
}

/// The file, or what the client says: the exit code of neither tells.
fn fetched(command: &mut Command, folder: &Folder) -> Result<Vec<u8>, String> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let complains = said.contains("rror");
    fs::read(folder.join("file")).ok().filter(|_| !complains).ok_or(said)
}
