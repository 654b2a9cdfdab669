//! Machine files as they are on disk, read and checked.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Boot, Machine, Machines};
use crate::collect::boot::files::NAME_BYTES_MAX;
use crate::collect::boot::mac::Mac;
use crate::collect::boot::net::{Network, Networks};
use crate::collect::boot::power::schedule::Schedule;
use crate::collect::boot::script;

/// Of one file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// In all folders together.
const MACHINES_MAX: usize = 10_000;
/// Of one machine.
const CARDS_MAX: usize = 32;
/// Of one machine.
const INITRDS_MAX: usize = 64;
/// Of one kernel or initrd.
const URL_BYTES_MAX: usize = 2_000;
/// Of a host name, RFC 1123 section 2.1.
const HOSTNAME_BYTES_MAX: usize = 253;
/// Of its labels, RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// The folder of machines that no other folder names.
const DEFAULT: &str = "default";

/// A file or folder that is not right, what is wrong with it, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::collect::boot) struct Mistake {
    path: PathBuf,
    problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

type Result<T> = std::result::Result<T, Mistake>;

pub(super) fn mistake<T>(path: impl Into<PathBuf>, problem: impl Into<String>) -> Result<T> {
    Err(Mistake { path: path.into(), problem: problem.into() })
}

/// A folder of one machine, or of all that no folder names.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    server: Ipv4Addr,
    /// None of `default/`.
    ip: Option<Ipv4Addr>,
}

/// Reads everything below `dir`. Without `networks` all servers are ours, and whatever
/// needs to know them is not checked. `see` is told of each folder before it is read.
///
/// # Errors
/// The first mistake, by the names of the files.
pub(in crate::collect::boot) fn load(
    dir: &Path,
    networks: Option<&Networks>,
    see: &mut dyn FnMut(&Path),
) -> Result<Machines> {
    let mut machines = Machines::default();
    let mut taken = Taken::default();
    // An interface that is waited for may have the address of any server, and what is off there is off here too.
    for folder in folders(dir, networks.filter(|networks| !networks.lacks), see)? {
        let machine = read(&folder)?;
        taken.take(&folder, &machine)?;
        match networks {
            Some(networks) if !networks.is_server(folder.server) => machines.heed(&machine),
            Some(networks) => {
                check_address(&folder, networks)?;
                machines.add(folder.server, machine);
            }
            None => machines.add(folder.server, machine),
        }
    }
    Ok(machines)
}

/// The folders of our servers, by name.
fn folders(dir: &Path, networks: Option<&Networks>, see: &mut dyn FnMut(&Path)) -> Result<Vec<Folder>> {
    let mut found = Vec::new();
    let of_servers =
        subfolders(dir, see)?.map_or_else(|| mistake(dir, "is missing; make the folder, or name another"), Ok)?;
    for (name, path) in of_servers {
        let is_ours = |server: &Ipv4Addr| networks.is_none_or(|networks| networks.is_server(*server));
        let Some(server) = address(&name, &path)?.filter(is_ours) else { continue };
        for (name, path) in subfolders(&path, see)?.unwrap_or_default() {
            let ip = match address(&name, &path)? {
                Some(ip) => Some(ip),
                None if name == DEFAULT => None,
                None => {
                    let problem = "a machine's folder is called by its address, for example 10.0.0.7, or it is \
                                   default; with a dot in front it is left alone";
                    return mistake(path, problem);
                }
            };
            see(&path);
            if found.len() > MACHINES_MAX {
                return mistake(dir, format!("there are more than {MACHINES_MAX} machines"));
            }
            found.push(Folder { path, server, ip });
        }
    }
    Ok(found)
}

/// Whose folders there are.
pub(super) fn servers(dir: &Path) -> Vec<Ipv4Addr> {
    let folders = subfolders(dir, &mut |_| {}).ok().flatten().unwrap_or_default();
    folders.iter().filter_map(|(name, _)| name.parse().ok()).collect()
}

/// Folders in `dir` and their names, sorted; `None` where it is missing.
fn subfolders(dir: &Path, see: &mut dyn FnMut(&Path)) -> Result<Option<Vec<(String, PathBuf)>>> {
    see(dir);
    let listed = || -> io::Result<Vec<(String, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Links are followed; one that leads nowhere is a machine that is being exchanged.
            if !name.starts_with('.') && (entry.file_type()?.is_dir() || entry.path().is_dir()) {
                found.push((name, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    };
    match listed() {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => mistake(dir, format!("cannot be listed: {error}; let this user read it")),
    }
}

/// The address that a folder is called by, if it is one. What only looks like one is a mistake.
fn address(name: &str, path: &Path) -> Result<Option<Ipv4Addr>> {
    match name.parse() {
        Ok(ip) => Ok(Some(ip)),
        Err(_) if name.bytes().all(|c| c.is_ascii_digit() || c == b'.') => {
            mistake(path, format!("'{name}' is no IPv4 address; write for example 10.0.0.7"))
        }
        Err(_) => Ok(None),
    }
}

fn read(folder: &Folder) -> Result<Machine> {
    let file = |name: &str| folder.path.join(name);
    let own = folder.ip.is_some();
    if let Some(name) = ["hostname", "mac", "power"].into_iter().find(|name| !own && file(name).exists()) {
        return mistake(file(name), "default/ is for many machines, which have no such file in common; remove it");
    }
    let mut machine = Machine { ip: folder.ip, ..Machine::default() };
    if own {
        let path = file("hostname");
        machine.hostname = match line(&path)? {
            Some(name) => check_hostname(&path, name)?,
            None => return mistake(path, "is missing or empty; write the machine's name into it, for example web1"),
        };
        machine.macs = cards(&file("mac"))?;
    }
    machine.kernel = line(&file("kernel"))?.map(|name| source(&file("kernel"), &name)).transpose()?;
    machine.initrd = initrds(&file("initrd"))?;
    machine.cmdline = line(&file("cmdline"))?.unwrap_or_default();
    machine.script = text(&file("script.ipxe"))?.filter(|text| !text.trim().is_empty());
    machine.boot = boot(&file("boot"), &machine)?;
    if let Some(text) = text(&file("power"))? {
        let schedule = Schedule::parse(&text).or_else(|problem| mistake(file("power"), problem))?;
        machine.power = Some(schedule);
    }
    if machine.kernel.is_none() && machine.script.is_none() {
        let useless = [("initrd", !machine.initrd.is_empty()), ("cmdline", !machine.cmdline.is_empty())];
        if let Some((name, _)) = useless.into_iter().find(|(_, there)| *there) {
            return mistake(file(name), "is of no use without a kernel; write the file kernel too, or remove this one");
        }
    }
    script::check(&machine).or_else(|(name, problem)| mistake(file(name), problem))?;
    Ok(machine)
}

/// A file's text; `None` where there is no such file.
fn text(path: &Path) -> Result<Option<String>> {
    // A FIFO must not hold up everything.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return mistake(path, format!("cannot be opened: {error}; let this user read it")),
    };
    let mut bytes = Vec::new();
    let read = || {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    };
    if let Err(error) = read() {
        return mistake(path, format!("cannot be read: {error}"));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return mistake(path, format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => mistake(path, "is no text in UTF-8"),
    }
}

/// The lines that say something.
fn lines(path: &Path) -> Result<Vec<String>> {
    let text = text(path)?.unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.contains(|c: char| c.is_control() && c != '\t') {
            true => mistake(path, format!("there is a control character in '{}'", line.escape_default())),
            false => Ok(line.to_owned()),
        })
        .collect()
}

/// The only line that says something; `None` where there is none.
fn line(path: &Path) -> Result<Option<String>> {
    let mut lines = lines(path)?;
    match lines.len() {
        0 | 1 => Ok(lines.pop()),
        many => mistake(path, format!("has {many} lines; write one")),
    }
}

fn check_hostname(path: &Path, name: String) -> Result<String> {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // One that looks like an address would be taken for it.
    let is_name =
        name.len() <= HOSTNAME_BYTES_MAX && name.split('.').all(is_label) && name.parse::<Ipv4Addr>().is_err();
    match is_name {
        true => Ok(name),
        false => mistake(
            path,
            format!(
                "'{name}' is no host name; write letters, digits and hyphens, for example web1 or web1.example.org"
            ),
        ),
    }
}

fn cards(path: &Path) -> Result<Vec<Mac>> {
    let mut cards = Vec::new();
    for line in lines(path)? {
        let mac: Mac = line.parse().or_else(|error| mistake(path, format!("{error}")))?;
        if mac.is_nobody() {
            return mistake(path, format!("{mac} is no card's address, but that of a group or of nobody"));
        }
        if cards.contains(&mac) {
            return mistake(path, format!("{mac} is there twice; remove one"));
        }
        cards.push(mac);
    }
    match cards.len() {
        0 => mistake(path, "is missing or empty; write the address of the network card, for example 52:54:00:12:34:56"),
        many if many > CARDS_MAX => mistake(path, format!("has {many} cards; at most {CARDS_MAX} can be read")),
        _ => Ok(cards),
    }
}

fn initrds(path: &Path) -> Result<Vec<String>> {
    let lines = lines(path)?;
    match lines.len() {
        many if many > INITRDS_MAX => mistake(path, format!("has {many} lines; at most {INITRDS_MAX} can be read")),
        _ => lines.iter().map(|line| source(path, line)).collect(),
    }
}

fn boot(path: &Path, machine: &Machine) -> Result<Boot> {
    Ok(match line(path)?.as_deref() {
        None if machine.script.is_some() || machine.kernel.is_some() => Boot::Script,
        None | Some("local") => Boot::Local,
        Some("off") => Boot::Off,
        Some(name) => Boot::File(below_root(path, name)?),
    })
}

/// What a kernel or an initrd is loaded from.
fn source(path: &Path, name: &str) -> Result<String> {
    let is_url = name.starts_with("http://") || name.starts_with("https://");
    match name.contains("://") {
        false => below_root(path, name),
        true if !is_url => mistake(path, format!("'{name}' is no http:// URL")),
        true if name.len() > URL_BYTES_MAX => mistake(path, format!("the URL has more than {URL_BYTES_MAX} bytes")),
        // A blank would end it in iPXE's script.
        true if name.contains(char::is_whitespace) => mistake(path, format!("there is a blank in '{name}'; write %20")),
        true => Ok(name.to_owned()),
    }
}

/// A name below boot.root, in its plain form.
fn below_root(path: &Path, name: &str) -> Result<String> {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let plain = parts.join("/");
    let problem = if parts.contains(&"..") {
        "leads out of boot.root; write the path from there, without '..'".to_owned()
    } else if name.contains(|c: char| c == '\\' || c.is_whitespace()) {
        "has a blank or a backslash, which firmware does not take; write a path such as debian/linux".to_owned()
    } else if plain.is_empty() {
        "is no file; write a path below boot.root such as debian/linux".to_owned()
    } else if plain.len() > NAME_BYTES_MAX {
        format!("has more than {NAME_BYTES_MAX} bytes")
    } else {
        return Ok(plain);
    };
    mistake(path, format!("'{name}' {problem}"))
}

/// Whether the folder's name can be a machine's address.
fn check_address(folder: &Folder, networks: &Networks) -> Result<()> {
    let Some(ip) = folder.ip else { return Ok(()) };
    if networks.is_server(ip) {
        return mistake(&folder.path, format!("{ip} is this server's own address; a machine needs another"));
    }
    let ours = || networks.networks.iter().filter(|network| network.server == folder.server);
    let Some(Network { subnet, .. }) = ours().find(|network| network.subnet.contains(&ip)) else {
        let subnets: Vec<_> = ours().map(|network| network.subnet.to_string()).collect();
        let problem = format!(
            "{ip} is not in {}, the network of {}; use an address of it, or name its network in [[boot.network]]",
            subnets.join(" or "),
            folder.server
        );
        return mistake(&folder.path, problem);
    };
    // RFC 3021: networks of two have neither.
    if subnet.prefix_len() < 31 && (ip == subnet.network() || ip == subnet.broadcast()) {
        return mistake(&folder.path, format!("{ip} is {subnet}'s own address, not one of a machine in it"));
    }
    Ok(())
}

/// Whose what is, to find what two machines have in common.
#[derive(Debug, Default)]
struct Taken {
    names: HashMap<(Ipv4Addr, String), PathBuf>,
    cards: HashMap<(Ipv4Addr, Mac), PathBuf>,
}

impl Taken {
    fn take(&mut self, folder: &Folder, machine: &Machine) -> Result<()> {
        let taken = |file: &str, what: &str, by: PathBuf| {
            let path = folder.path.join(file);
            mistake(path, format!("{what} is that of {} too; one of them is wrong", by.display()))
        };
        for mac in &machine.macs {
            if let Some(by) = self.cards.insert((folder.server, *mac), folder.path.clone()) {
                return taken("mac", &mac.to_string(), by);
            }
        }
        let name = machine.hostname.to_ascii_lowercase();
        match folder.ip.and_then(|_| self.names.insert((folder.server, name), folder.path.clone())) {
            Some(by) => taken("hostname", &machine.hostname, by),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    pub(in super::super) use super::tests::Files;
}
#[cfg(test)]
mod tests;
