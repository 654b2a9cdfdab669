//! The machine that a mail server of a test believes in: private mount, host
//! name and process namespaces (see tests/parts/sendmail/enter.sh) on this
//! machine's loopback. In there /mnt is the server's folder, /opt the unpacked
//! packages and /run/greypit the folder `greypit/` of the server's, if it has
//! one.

use super::{Process, library_path_in, parts_dir};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes what enter.sh wants to find in a server's folder, whose log goes to
/// this socket.
pub(crate) fn furnish(dir: &Path, log: &Path) {
    // mail.local wants the rights of Debian's /var/mail; nobody wants a group
    // that may write.
    for (name, mode) in [("", 0o755), ("etc", 0o755), ("mail", 0o1777)] {
        folder(&dir.join(name), mode, None);
    }
    for name in ["etc/hosts", "etc/passwd", "etc/group", "etc/nsswitch.conf"] {
        fs::copy(source("sendmail", name), dir.join(name)).expect("a file of tests/parts/sendmail");
    }
    fs::write(dir.join("log.path"), log.as_os_str().as_encoded_bytes()).expect("write a file of ours");
}

/// Makes a folder with these rights, of this user and group.
pub(crate) fn folder(path: &Path, mode: u32, owner: Option<(u32, u32)>) {
    fs::create_dir_all(path).expect("a folder of ours");
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group)).expect("root may");
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a folder of ours");
}

/// The start of a command that makes the machine and runs in it.
pub(crate) fn enter(host: &str, dir: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
        .arg(source("sendmail", "enter.sh"))
        .arg(host)
        .arg(dir)
        .arg(parts_dir().join("debian"))
        .env("LD_LIBRARY_PATH", libraries());
    command
}

/// The number of the machine's first process, enter.sh.
pub(crate) fn init(machine: &Process) -> String {
    let unshare = machine.id();
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let init = fs::read_to_string(children).expect("the first process of the namespaces");
    init.trim().to_owned()
}

/// The start of a command that runs in a running machine.
pub(crate) fn inside(machine: &Process) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--mount", "--uts", "--pid", "--target", &init(machine)]);
    command.env("LD_LIBRARY_PATH", libraries());
    command
}

/// Where the libraries of the unpacked packages are in there.
pub(crate) fn libraries() -> String {
    library_path_in(Path::new("/opt")).into_string().expect("a plain path")
}

/// A file under tests/parts.
pub(crate) fn source(part: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts").join(part).join(name)
}
