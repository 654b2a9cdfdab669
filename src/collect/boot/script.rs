//! The iPXE script of a machine: its own `script.ipxe`, or one made from `kernel`, `initrd` and `cmdline`.
//!
//! `script.ipxe` and `cmdline` are templates (minijinja): `{{ hostname }}`, `{{ ip }}`, `{{ mac }}`, `{{ server }}`,
//! `{{ base }}` (`http://<server>:<port>`) and `{{ session }}`; in `script.ipxe` also `{{ kernel }}`, `{{ initrd }}` (URLs,
//! the second a list) and `{{ cmdline }}`, where the machine has such files. What is not known is an error, not an empty
//! text; `{% if hostname is defined %}` asks. iPXE's own `${net0/mac}` and `${buildarch}` pass as they are, in names of
//! kernels too.
//!
//! Nothing that a machine says can add a line: host names, addresses and session ids are checked or made here. Limits:
//! 100,000 steps of a template, 256 KiB of its text; a command line is one line of at most 4,096 bytes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use super::mac::Mac;
use super::machines::{Boot, Machine};

/// Of a template; a loop's turn is a handful.
const STEPS_MAX: u64 = 100_000;
/// Of a script.
const SCRIPT_BYTES_MAX: usize = 256 << 10;
/// Of a kernel's command line; Linux takes no more on most machines.
const CMDLINE_BYTES_MAX: usize = 4096;

/// For a machine that has nothing to load: iPXE gives up its place, and firmware goes on with its own disk.
const LOCAL: &str = "#!ipxe\nexit\n";

/// What a template may use beside the machine's own facts.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) server: Ipv4Addr,
    /// `http://10.0.0.1`, with the port where it is not 80.
    pub(crate) base: &'a str,
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) mac: Option<Mac>,
    pub(crate) session: Option<&'a str>,
}

/// What a template sees. What is `None` or empty is not defined there.
#[derive(Debug, Serialize)]
struct Names<'a> {
    server: Ipv4Addr,
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    initrd: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<String>,
}

/// The script.
///
/// # Errors
/// What is wrong with the template, with its line.
pub(crate) fn make(machine: &Machine, facts: &Facts<'_>) -> Result<String, String> {
    if machine.boot == Boot::Local || machine.boot == Boot::Off {
        return Ok(LOCAL.to_owned());
    }
    write(machine, facts).map_err(|(file, problem)| format!("{file}: {problem}"))
}

/// Tries the templates, with facts that a machine would have.
///
/// # Errors
/// The file, and what is wrong with it.
pub(crate) fn check(machine: &Machine) -> Result<(), (&'static str, String)> {
    let facts = Facts {
        server: Ipv4Addr::new(192, 0, 2, 1),
        base: "http://192.0.2.1",
        ip: machine.ip.or(Some(Ipv4Addr::new(192, 0, 2, 2))),
        mac: machine.macs.first().copied().or(Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]))),
        session: Some("525400123456-20261121T181502.123Z"),
    };
    write(machine, &facts).map(drop)
}

fn write(machine: &Machine, facts: &Facts<'_>) -> Result<String, (&'static str, String)> {
    let mut names = Names {
        server: facts.server,
        base: facts.base,
        hostname: &machine.hostname,
        ip: machine.ip.or(facts.ip),
        mac: facts.mac.or_else(|| machine.macs.first().copied()),
        session: facts.session,
        kernel: None,
        initrd: Vec::new(),
        cmdline: None,
    };
    if !machine.cmdline.is_empty() {
        let cmdline = render(&machine.cmdline, &names).and_then(|cmdline| one_line(&cmdline));
        names.cmdline = Some(cmdline.map_err(|problem| ("cmdline", problem))?);
    }
    names.kernel = machine.kernel.as_ref().map(|kernel| url(facts.base, kernel));
    names.initrd = machine.initrd.iter().map(|initrd| url(facts.base, initrd)).collect();
    match (&machine.script, &names.kernel) {
        (Some(template), _) => own(template, &names).map_err(|problem| ("script.ipxe", problem)),
        (None, Some(kernel)) => Ok(from_files(kernel, &names)),
        (None, None) => Ok(LOCAL.to_owned()),
    }
}

/// The machine's own script.
fn own(template: &str, names: &Names<'_>) -> Result<String, String> {
    let script = render(template, names)?;
    match script.trim_start().lines().next() {
        // iPXE wants it at the very beginning, which is hard to do behind a template's `{% … %}`.
        Some(first) if first.trim_end() == "#!ipxe" => Ok(script.trim_start().to_owned()),
        _ => Err("the script does not begin with '#!ipxe'; write that as its first line".to_owned()),
    }
}

/// One made from `kernel`, `initrd` and `cmdline`.
///
/// Each initrd has a name of its own, since two may have the same in different folders, and the kernel is told of it: as
/// an EFI program it may load them by these names only.
fn from_files(kernel: &str, names: &Names<'_>) -> String {
    let mut script = format!("#!ipxe\nkernel {kernel}");
    let cmdline = names.cmdline.as_deref().unwrap_or_default();
    if !cmdline.split_ascii_whitespace().any(|word| word.starts_with("initrd=")) {
        for i in 0..names.initrd.len() {
            // Writing to a String cannot fail.
            let _ = write!(script, " initrd=initrd{i}");
        }
    }
    if !cmdline.is_empty() {
        script.extend([" ", cmdline]);
    }
    for (i, initrd) in names.initrd.iter().enumerate() {
        let _ = write!(script, "\ninitrd --name initrd{i} {initrd}");
    }
    script.push_str("\nboot\n");
    script
}

fn one_line(cmdline: &str) -> Result<String, String> {
    let cmdline = cmdline.trim();
    if cmdline.contains(char::is_control) {
        return Err("must be one line, without control characters".to_owned());
    }
    match cmdline.len() {
        ..=CMDLINE_BYTES_MAX => Ok(cmdline.to_owned()),
        many => Err(format!("{many} bytes are more than a kernel takes, {CMDLINE_BYTES_MAX}")),
    }
}

/// The URL of a name below boot.root; a URL is its own.
fn url(base: &str, name: &str) -> String {
    if name.contains("://") {
        return name.to_owned();
    }
    let mut url = format!("{base}/");
    for byte in name.bytes() {
        match byte {
            b'%' | b'?' | b'#' | b'"' | 0x80.. => url.push_str(&format!("%{byte:02X}")),
            _ => url.push(char::from(byte)),
        }
    }
    url
}

static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_keep_trailing_newline(true);
    templates.set_fuel(Some(STEPS_MAX));
    templates
});

fn render(template: &str, names: &Names<'_>) -> Result<String, String> {
    let text = TEMPLATES.render_str(template, names).map_err(|error| problem(&error))?;
    match text.len() {
        ..=SCRIPT_BYTES_MAX => Ok(text),
        many => Err(format!("the template makes {many} bytes; at most {SCRIPT_BYTES_MAX} are sent")),
    }
}

/// One line, with the template's.
fn problem(error: &minijinja::Error) -> String {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.kind() {
        ErrorKind::UndefinedError => format!(
            "the template uses a name{line} that is not known there; known are server, base, hostname, ip, mac, session, \
             kernel, initrd and cmdline as far as the machine has them"
        ),
        ErrorKind::OutOfFuel => format!("the template needs more than {STEPS_MAX} steps"),
        kind => match error.detail() {
            Some(detail) => format!("the template is wrong{line}: {detail}"),
            None => format!("the template is wrong{line}: {kind}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            hostname: "web1".into(),
            ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
            macs: vec![Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])],
            ..Machine::default()
        }
    }

    fn facts() -> Facts<'static> {
        Facts {
            server: Ipv4Addr::new(10, 0, 0, 1),
            base: "http://10.0.0.1:8080",
            ip: Some(Ipv4Addr::new(10, 0, 0, 7)),
            mac: Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x57])),
            session: Some("s-1"),
        }
    }

    fn own(script: &str) -> Result<String, String> {
        make(&Machine { script: Some(script.into()), ..machine() }, &facts())
    }

    #[test]
    fn files_make_a_script() {
        let machine = Machine {
            kernel: Some("debian/${buildarch}/linux".into()),
            initrd: vec!["debian/100%.gz".into(), "http://mirror.example/x?y=z".into()],
            cmdline: "console=ttyS0 ip={{ ip }} host={{ hostname }} mac=${net0/mac} s={{ session }}".into(),
            ..machine()
        };
        let wanted = "#!ipxe
kernel http://10.0.0.1:8080/debian/${buildarch}/linux initrd=initrd0 initrd=initrd1 console=ttyS0 ip=10.0.0.7 \
                      host=web1 mac=${net0/mac} s=s-1
initrd --name initrd0 http://10.0.0.1:8080/debian/100%25.gz
initrd --name initrd1 http://mirror.example/x?y=z
boot
";
        assert_eq!(make(&machine, &facts()).as_deref(), Ok(wanted));
        let plain = Machine { initrd: Vec::new(), cmdline: String::new(), kernel: Some("memtest".into()), ..machine };
        assert_eq!(make(&plain, &facts()).as_deref(), Ok("#!ipxe\nkernel http://10.0.0.1:8080/memtest\nboot\n"));
    }

    #[test]
    fn whoever_names_its_initrds_is_left_to_it() {
        let machine = Machine {
            kernel: Some("linux".into()),
            initrd: vec!["initrd.gz".into()],
            cmdline: "initrd=initrd.magic quiet".into(),
            ..machine()
        };
        let script = make(&machine, &facts()).unwrap();
        assert!(script.contains("linux initrd=initrd.magic quiet\n"), "{script}");
    }

    #[test]
    fn whoever_boots_from_its_disk_is_sent_there() {
        for boot in [Boot::Local, Boot::Off, Boot::Script] {
            assert_eq!(make(&Machine { boot, ..machine() }, &facts()).as_deref(), Ok(LOCAL));
        }
        let local = Machine { boot: Boot::Local, kernel: Some("linux".into()), ..machine() };
        assert_eq!(make(&local, &facts()).as_deref(), Ok(LOCAL));
    }

    #[test]
    fn a_script_of_its_own_is_a_template_and_what_is_of_ipxe_passes() {
        let script = "{% set x = 1 %}\n#!ipxe\n# {{ mac }} of {{ hostname }}\n:again\necho ${net0/ip} ${{}} #{x}\n\
                      chain {{ base }}/next.ipxe || goto again\n";
        let wanted = "#!ipxe\n# 52:54:00:12:34:57 of web1\n:again\necho ${net0/ip} ${{}} #{x}\n\
                      chain http://10.0.0.1:8080/next.ipxe || goto again\n";
        let script = script.replace("${{}}", "${x}");
        assert_eq!(own(&script).as_deref(), Ok(wanted.replace("${{}}", "${x}").as_str()));
        assert_eq!(own("#!ipxe\n{% if kernel is defined %}boot{% else %}exit{% endif %}").unwrap(), "#!ipxe\nexit");
    }

    #[test]
    fn mistakes_say_what_and_where() {
        for (script, wanted) in [
            ("#!ipxe\n\n{{ hostnam }}", "line 3"),
            ("#!ipxe\n{{ hostname", "line 2"),
            ("#!ipxe\n{{ kernel }}", "as far as the machine has them"),
            ("echo hello", "'#!ipxe'"),
            ("#!ipxe\n{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}", "steps"),
            ("#!ipxe\n{% include 'x' %}", "line 2"),
        ] {
            let problem = own(script).unwrap_err();
            assert!(problem.starts_with("script.ipxe: ") && problem.contains(wanted), "{problem}");
            assert!(!problem.contains('\n'), "{problem}");
            let machine = Machine { script: Some(script.into()), ..machine() };
            assert_eq!(check(&machine).map_err(|(file, _)| file), Err("script.ipxe"));
        }
        let folded = Machine { kernel: Some("linux".into()), cmdline: "a{{ '\\n' }}b".into(), ..machine() };
        assert_eq!(check(&folded).map_err(|(file, _)| file), Err("cmdline"));
        let long = Machine { kernel: Some("linux".into()), cmdline: "a".repeat(4097), ..machine() };
        assert_eq!(check(&long).map_err(|(file, _)| file), Err("cmdline"));
    }

    #[test]
    fn the_name_of_unknown_machines_is_not_known() {
        let named = Machine { script: Some("#!ipxe\necho {{ hostname }}".into()), ..Machine::default() };
        assert!(check(&named).is_err());
        let careful = "#!ipxe\necho {{ hostname if hostname is defined else mac }}";
        let careful = Machine { script: Some(careful.into()), ..Machine::default() };
        assert_eq!(check(&careful), Ok(()));
    }
}
