//! The README's sections on attaching to a mail server, followed literally: its
//! commands, config and lines for the mail server are taken out of it, and done
//! on a machine where greypit runs as a user of its own.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::flood::{Attempt, Flood};
use support::greypit::get;
use support::net::free_port;
use support::postfix::{self, Postfix};
use support::readme::Section;
use support::rsyslog::Rsyslog;
use support::sendmail::{self, MailNet, Sendmail};
use support::{Process, machine, run, wait_for};

/// The user greypit of tests/parts/sendmail/etc.
const GREYPIT: u32 = 2300;

/// A greypit on a mail server's machine, with the config that the README gives.
struct Installed {
    process: Process,
    http: SocketAddr,
    config: PathBuf,
}

impl Installed {
    /// `inside`: the start of a command on that machine, whose /mnt is `dir`.
    fn start(inside: impl Fn() -> Command, dir: &Path, toml: &str) -> Self {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let home = dir.join("gp");
        machine::folder(&home, 0o755, Some((GREYPIT, GREYPIT)));
        let program = home.join("greypit");
        fs::hard_link(env!("CARGO_BIN_EXE_greypit"), &program)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_greypit"), &program).map(drop))
            .expect("the program");
        let config = home.join("greypit.toml");
        let rest = format!(
            "node = \"mx1\"\ndata_dir = \"/mnt/gp/data\"\n{toml}\n[syslog]\nudp = []\ntcp = []\n[http]\nlisten = \"{http}\"\n\
             [store]\nurl = \"/mnt/gp/objects\"\n"
        );
        fs::write(&config, rest).expect("write the config");
        chown(&config, Some(GREYPIT), Some(GREYPIT)).expect("root may");
        let mut command = inside();
        command.args(["setpriv", "--reuid=2300", "--regid=2300", "--clear-groups", "--inh-caps=-all"]);
        command.args(["/mnt/gp/greypit", "--config", "/mnt/gp/greypit.toml", "run"]);
        let log = fs::File::create(home.join("log")).expect("a log file");
        command.stdout(log.try_clone().expect("a log file")).stderr(log);
        let mut process = Process::spawn("greypit", &mut command);
        wait_for("greypit to answer", || {
            process.assert_alive();
            get(http, "/healthz").filter(|(status, _)| *status == 200)
        });
        Self { process, http, config }
    }

    fn metrics(&self) -> String {
        get(self.http, "/metrics").expect("greypit answers").1
    }

    /// From `observe` to `enforce`, as the README says.
    fn enforce(&self, inside: Command) {
        let config = fs::read_to_string(&self.config).expect("a config");
        assert!(config.contains("mode = \"observe\""));
        fs::write(&self.config, config.replace("mode = \"observe\"", "mode = \"enforce\"")).expect("write the config");
        // Its number on its own machine.
        let mut inside = inside;
        run(inside.args(["sh", "-c", "kill -HUP $(pidof greypit)"]));
        let log = self.config.with_file_name("log");
        wait_for("the reload", || fs::read_to_string(&log).ok().filter(|log| log.contains("reloaded")));
    }
}

/// From the first look to the first refusal, as the section says.
fn watch_then_enforce(section: &Section, greypit: &Installed, server: SocketAddr, inside: Command) {
    let mut flood = Flood::connect(server, "readme");
    let attempts = flood.send(15);
    assert!(attempts.iter().all(Attempt::accepted), "nothing is refused: {attempts:?}");
    let metrics = greypit.metrics();
    let would = "greypit_milter_verdicts_total{rule=\"connection\",verdict=\"refuse\"} 5";
    assert!(metrics.contains(would), "{metrics}");
    for name in section.metrics() {
        assert!(metrics.contains(name), "the README names {name}");
    }
    greypit.enforce(inside);
    let attempts = flood.send(1);
    // The README's example, with another address.
    let section = Section::named("Attach to sendmail");
    let example = section.blocks("").pop().expect("an example").replace("192.0.2.7", "127.0.0.1");
    assert_eq!(attempts[0].mail.text, example.trim_end());
    let mut flood = Flood::connect(server, "enforced");
    let attempts = flood.send(11);
    assert!(attempts[..10].iter().all(Attempt::accepted), "{attempts:?}");
    assert_eq!(attempts[10].mail.text, example.trim_end());
}

#[test]
fn attach_to_sendmail() {
    let section = Section::named("Attach to sendmail");
    let net = MailNet::start();
    let syslog = Rsyslog::start("mx1", &[]);
    let sendmail = Sendmail::start(sendmail::Setup::mx(1).extra_mc(&section.block("m4")), &net, &syslog);
    run(sendmail.inside().args(["sh", "-ec", &section.block("sh")]));
    let greypit = Installed::start(|| sendmail.inside(), sendmail.folder(), &section.block("toml"));
    watch_then_enforce(&section, &greypit, sendmail.addr(), sendmail.inside());
    syslog.wait_for_lines(2, "Milter: from=<alice@flood.example.com>, reject=451 4.7.1 ");
    drop(greypit.process);
}

#[test]
fn attach_to_postfix() {
    let section = Section::named("Attach to Postfix");
    let net = MailNet::start();
    let postfix = Postfix::start(postfix::Setup::pf(1).chrooted(), &net);
    fs::remove_dir(postfix.milter_folder()).expect("nothing is in it");
    let [folder, attach] = &section.blocks("sh")[..] else { panic!("two steps: {:?}", section.blocks("sh")) };
    run(postfix.inside().args(["sh", "-ec", folder]));
    let greypit = Installed::start(|| postfix.inside(), postfix.folder(), &section.block("toml"));
    postfix.reload(|| drop(run(postfix.inside().args(["sh", "-ec", attach]))));
    watch_then_enforce(&section, &greypit, postfix.addr(), postfix.inside());
    postfix.wait_for_lines(2, "milter-reject: MAIL from localhost[127.0.0.1]: 451 4.7.1 ");
    drop(greypit.process);
}

/// The snippets say the same as the README.
#[test]
fn the_snippets_agree_with_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let snippet = |path: &str| fs::read_to_string(root.join("deploy").join(path)).expect("a snippet");
    let mc = Section::named("Attach to sendmail").block("m4");
    assert!(snippet("sendmail/greypit.mc").lines().any(|line| line == mc.trim_end()));
    let cf = snippet("postfix/greypit.cf");
    let attach = Section::named("Attach to Postfix").blocks("sh").pop().expect("a block");
    let settings: Vec<&str> = attach.lines().filter_map(|line| line.strip_prefix("postconf -e '")).collect();
    assert_eq!(settings.len(), 2);
    for setting in settings {
        assert!(cf.lines().any(|line| line == setting.trim_end_matches('\'')), "{setting}");
    }
}
