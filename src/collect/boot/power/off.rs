//! How a machine is switched off: a command, or a POST to a URL.
//!
//! The command's words are templates (minijinja) with `{{ hostname }}`, `{{ ip }}` and `{{ mac }}` (its first card); no
//! shell sees them. It runs with greypit's user, rights and environment, in a process group of its own, reads nothing, and
//! is killed with all of its group after `boot.power.timeout`. Exit code 0 is done; the first line that it writes goes into
//! the event. A POST is done with a status of 2xx; redirects are not followed.
//!
//! Limits: [`OUTPUT_BYTES_MAX`] bytes of output are looked at.

use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use minijinja::{Environment, UndefinedBehavior, context};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::collect::boot::mac::Mac;

const OUTPUT_BYTES_MAX: usize = 4096;

/// What switches machines off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Off {
    /// Nobody said how.
    Nothing,
    Command(Vec<String>),
    Url(String),
}

/// What templates know of a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) hostname: &'a str,
    pub(super) ip: Ipv4Addr,
    pub(super) mac: Mac,
}

/// Somebody to try templates with.
const SOMEBODY: Facts<'_> = Facts { hostname: "host", ip: Ipv4Addr::new(192, 0, 2, 1), mac: Mac([2, 0, 0, 0, 0, 1]) };

impl Off {
    /// Checks the words.
    pub(super) fn command(words: &[String]) -> Result<Off, String> {
        let rendered = words.iter().map(|word| render(word, SOMEBODY)).collect::<Result<Vec<_>, _>>()?;
        if rendered.first().is_none_or(String::is_empty) {
            return Err("its first word is the program".to_owned());
        }
        Ok(Off::Command(words.to_vec()))
    }

    /// Checks the URL.
    pub(super) fn url(url: &str) -> Result<Off, String> {
        Address::parse(&render(url, SOMEBODY)?)?;
        Ok(Off::Url(url.to_owned()))
    }

    /// Switches a machine off; gives what was said to that.
    ///
    /// # Errors
    /// What went wrong, for a person.
    pub(super) async fn carry_out(&self, facts: Facts<'_>, timeout: Duration) -> Result<Option<String>, String> {
        let work = async {
            match self {
                Off::Nothing => Err("neither boot.power.off_command nor boot.power.off_url says how".to_owned()),
                Off::Command(words) => {
                    let words = words.iter().map(|word| render(word, facts)).collect::<Result<Vec<_>, _>>()?;
                    run(&words).await
                }
                Off::Url(url) => post(&Address::parse(&render(url, facts)?)?).await.map(Some),
            }
        };
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(format!("it took longer than {} s (boot.power.timeout)", timeout.as_secs())),
        }
    }
}

fn render(template: &str, facts: Facts<'_>) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let (ip, mac) = (facts.ip.to_string(), facts.mac.to_string());
    environment.render_str(template, context! { hostname => facts.hostname, ip => ip, mac => mac }).map_err(|error| {
        format!("'{template}': {error}; it may use {{{{ hostname }}}}, {{{{ ip }}}} and {{{{ mac }}}}")
    })
}

/// Kills what is left of a command when dropped.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Nobody left is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn run(words: &[String]) -> Result<Option<String>, String> {
    let Some((program, arguments)) = words.split_first() else { return Err("there is no program".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = command.process_group(0).kill_on_drop(true).spawn();
    let mut child = spawned.map_err(|error| format!("{program}: {error}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    // While the child is not waited for, nobody else can have its number.
    let mut group = ProcessGroup(group);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::join!(first_bytes(stdout), first_bytes(stderr));
    let status = child.wait().await;
    group.0 = None;
    let status = status.map_err(|error| format!("{program}: {error}"))?;
    let said = first_line(&stdout).or_else(|| first_line(&stderr));
    match status.success() {
        true => Ok(said),
        false => Err(match first_line(&stderr).or(said) {
            Some(line) => format!("{program}: {status}: {line}"),
            None => format!("{program}: {status}"),
        }),
    }
}

/// Reads all, keeps the beginning.
async fn first_bytes(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
    kept
}

fn first_line(output: &[u8]) -> Option<String> {
    let line = output.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty())?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// A URL taken apart.
#[derive(Debug)]
struct Address {
    is_tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Address {
    fn parse(text: &str) -> Result<Address, String> {
        let wrong =
            |problem: &str| format!("{problem}; write for example \"http://10.0.0.2/off?name={{{{ hostname }}}}\"");
        let uri: Uri = text.parse().map_err(|error| wrong(&format!("it is no URL: {error}")))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it begins with http:// or https://")),
        };
        let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        if authority.contains('@') {
            return Err("it cannot hold a password, which would be printed; use off_command with curl".to_owned());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Address { is_tls, host, port, authority, path })
    }
}

async fn post(address: &Address) -> Result<String, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", address.authority);
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| told(&error))?;
    if !address.is_tls {
        return exchange(stream, address).await;
    }
    let name = ServerName::try_from(address.host.clone()).map_err(|error| told(&error))?;
    let connector = TlsConnector::from(tls().map_err(|error| told(&error))?);
    let stream = connector.connect(name, stream).await.map_err(|error| told(&error))?;
    exchange(stream, address).await
}

/// The system's authorities, as the store uses them.
fn tls() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: &Address,
) -> Result<String, String> {
    let told = |error: hyper::Error| format!("{}: {error}", address.authority);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(&address.path)
        .header(HOST, &address.authority)
        .header(USER_AGENT, concat!("greypit/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_LENGTH, 0)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // Closed by the other side, perhaps right behind the answer.
        _ = connection => answer.await,
    };
    let status = answer.map_err(told)?.status();
    match status.is_success() {
        true => Ok(format!("HTTP {status}")),
        false => Err(format!("{}: HTTP {status}", address.authority)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const FACTS: Facts<'_> =
        Facts { hostname: "web1; id", ip: Ipv4Addr::new(10, 77, 0, 10), mac: Mac([0x52, 0x54, 0, 0, 0, 1]) };

    const SOON: Duration = Duration::from_secs(120);

    fn command(words: &[&str]) -> Off {
        Off::command(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[tokio::test]
    async fn a_command_gets_its_words_and_no_shell_sees_them() {
        let off = command(&["echo", "off", "{{ hostname }}", "{{ ip }}/{{ mac }}", "$HOME"]);
        let said = off.carry_out(FACTS, SOON).await;
        assert_eq!(said, Ok(Some("off web1; id 10.77.0.10/52:54:00:00:00:01 $HOME".to_owned())));
        assert_eq!(command(&["true"]).carry_out(FACTS, SOON).await, Ok(None));
        let error = command(&["sh", "-c", "echo; echo no such host >&2; exit 3"]).carry_out(FACTS, SOON).await;
        assert_eq!(error, Err("sh: exit status: 3: no such host".to_owned()));
        let error = command(&["/nowhere/ipmitool"]).carry_out(FACTS, SOON).await.unwrap_err();
        assert!(error.starts_with("/nowhere/ipmitool: No such file"), "{error}");
        let much = command(&["sh", "-c", "yes | head -c 1000000"]).carry_out(FACTS, SOON).await;
        assert_eq!(much, Ok(Some("y".to_owned())));
        assert!(Off::Nothing.carry_out(FACTS, SOON).await.unwrap_err().contains("boot.power.off_command"));
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let off = command(&["sh", "-c", &script]);
        let until = std::time::Instant::now() + SOON;
        let (error, child) = loop {
            let error = off.carry_out(FACTS, Duration::from_secs(1)).await.unwrap_err();
            // On a busy machine a second may be too little to begin.
            match std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok()) {
                Some(child) => break (error, child),
                None => assert!(std::time::Instant::now() < until),
            }
        };
        assert!(error.contains("boot.power.timeout"), "{error}");
        let gone = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            assert!(std::time::Instant::now() < until, "the child lives");
            tokio::task::yield_now().await;
        }
    }

    /// Answers one request, and gives what was asked.
    fn server(answer: &'static str) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut buffer) = (Vec::new(), [0; 1024]);
            while !asked.ends_with(b"\r\n\r\n") {
                let length = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (port, thread)
    }

    #[tokio::test]
    async fn a_url_is_posted_to_and_its_status_counts() {
        let (port, asked) = server("HTTP/1.1 204 No Content\r\n\r\n");
        let off = Off::url(&format!("http://127.0.0.1:{port}/off?ip={{{{ ip }}}}&mac={{{{ mac }}}}")).unwrap();
        assert_eq!(off.carry_out(FACTS, SOON).await, Ok(Some("HTTP 204 No Content".to_owned())));
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /off?ip=10.77.0.10&mac=52:54:00:00:00:01 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{asked}");

        for (answer, wanted) in [
            ("HTTP/1.1 500 Internal Server Error\r\n\r\n", "HTTP 500"),
            ("HTTP/1.1 301 Moved Permanently\r\nLocation: /\r\n\r\n", "HTTP 301"),
            ("", "127.0.0.1"),
        ] {
            let (port, asked) = server(answer);
            let off = Off::url(&format!("http://127.0.0.1:{port}")).unwrap();
            let error = off.carry_out(FACTS, SOON).await.unwrap_err();
            assert!(error.contains(wanted), "{error}");
            asked.join().unwrap();
        }
        let error = Off::url("http://127.0.0.1:1/").unwrap().carry_out(FACTS, SOON).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn https_wants_a_certificate_of_the_systems_authorities() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], key.signing_key.serialize_der().try_into().unwrap())
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let serve = async { acceptor.accept(listener.accept().await.unwrap().0).await.map(drop) };
        let off = Off::url(&format!("https://localhost:{port}/off")).unwrap();
        let (served, error) = tokio::join!(serve, off.carry_out(FACTS, SOON));
        assert!(served.is_err());
        let error = error.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
    }
}
