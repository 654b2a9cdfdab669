//! Syslog over TLS, with a client of rustls and with openssl's.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use greypit::collect::syslog::listen::{self, ClientCert};
use greypit_pipeline::units::Span;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, crypto, version,
};

use super::*;

/// An authority and what it signs, as files.
pub(super) struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not the name of what it signs, or that would look signed by itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes `<file>.pem` and `<file>.key` for a host.
    fn sign(&self, file: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    pub(super) fn config(&self) -> Config {
        self.sign("server", "localhost");
        Config {
            tls: vec!["127.0.0.1:0".to_owned()],
            tls_cert: self.text("server.pem"),
            tls_key: self.text("server.key"),
            ..only(&[], &[], &[])
        }
    }

    pub(super) fn client(
        &self,
        with: Option<(&Authority, &str)>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match with {
            None => builder.with_no_client_auth(),
            Some((authority, name)) => {
                let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
                let chain = vec![certificate(&authority.path(&format!("{name}.pem")))];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

pub(super) const NEW: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// Connected, with the handshake done as far as the client can tell.
pub(super) fn connect(
    address: &str,
    config: ClientConfig,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn errors(rig: &Rig, reason: &str) -> usize {
    rig.metric("greypit_syslog_tls_errors_total", &[reason])
}

#[test]
fn both_versions_and_both_framings_become_records() {
    let authority = Authority::new();
    let mut rig = listen(&authority.config(), 1 << 20);
    for (i, version) in [&version::TLS12, &version::TLS13].into_iter().enumerate() {
        let mut client = connect(&rig.addresses[0], authority.client(None, &[version])).unwrap();
        let counted = line(3 * i + 1);
        let text = format!("{}\n{} {counted}{}\r\n", line(3 * i), counted.len(), line(3 * i + 2));
        client.write_all(text.as_bytes()).unwrap();
        let bodies = rig.take(3);
        assert_eq!(numbers(&bodies), [3 * i, 3 * i + 1, 3 * i + 2]);
        assert_eq!(bodies[0]["peer"], "127.0.0.1");
    }
    rig.until("all are counted", |rig| rig.metric("greypit_syslog_messages_total", &["tls"]) == 6);
    rig.until("closing without TLS's goodbye is no error", |rig| rig.connections() == 0);
    assert_eq!(rig.metric("greypit_syslog_tls_errors_total", &[]), 0);
    rig.end();
}

#[test]
fn more_than_the_buffers_hold_comes_whole_and_a_full_queue_makes_the_sender_wait() {
    const SENT: usize = 20_000;
    let authority = Authority::new();
    let rig = listen(&authority.config(), 64 << 10);
    let mut client = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    let sender = std::thread::spawn(move || {
        let text: String = (0..SENT).map(|i| line(i) + "\n").collect();
        client.write_all(text.as_bytes())
    });
    rig.until("the queue is full", |rig| rig.submit.queue_bytes().0 >= 64 << 10);
    assert_eq!(numbers(&rig.take(SENT)), (0..SENT).collect::<Vec<_>>());
    sender.join().unwrap().unwrap();
    assert_eq!(rig.metric("greypit_syslog_dropped_total", &[]), 0);
}

#[test]
fn stopping_takes_what_has_arrived() {
    // No more than the window takes: the rest would not have arrived.
    const SENT: usize = 500;
    let authority = Authority::new();
    let mut rig = listen(&authority.config(), 1 << 20);
    let mut client = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    client.write_all((line(0) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [0]);
    let text: String = (1..SENT).map(|i| line(i) + "\n").collect();
    client.write_all(text.as_bytes()).unwrap();
    rig.end();
    assert_eq!(rig.take_waiting() + 1, SENT);
}

#[test]
fn openssl_as_the_client() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("no openssl here");
        return;
    }
    let authority = Authority::new();
    authority.sign("client", "mx1.example.org");
    let config = Config { tls_client_ca: authority.text("ca.pem"), ..authority.config() };
    let rig = listen(&config, 1 << 20);
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-connect", &rig.addresses[0], "-CAfile"])
        .arg(authority.path("ca.pem"))
        .arg("-cert")
        .arg(authority.path("client.pem"))
        .arg("-key")
        .arg(authority.path("client.key"))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let counted = line(1);
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(format!("{}\n{} {counted}\n", line(0), counted.len()).as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(2)), [0, 1]);
    drop(stdin);
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn who_may_come_is_what_the_authority_of_clients_says() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("client", "mx1.example.org");
    stranger.sign("client", "mx1.example.org");
    let required = Config { tls_client_ca: authority.text("ca.pem"), ..authority.config() };
    let optional = Config { tls_client_cert: ClientCert::Optional, ..required.clone() };
    let send = |rig: &Rig, with, i| -> std::io::Result<()> {
        let mut client = connect(&rig.addresses[0], authority.client(with, NEW))?;
        client.write_all((line(i) + "\n").as_bytes())?;
        // In TLS 1.3 the server's no comes after the client's yes.
        client.sock.shutdown(std::net::Shutdown::Write)?;
        let _ = client.sock.read(&mut [0; 4096])?;
        Ok(())
    };
    let rig = listen(&required, 1 << 20);
    let _ = send(&rig, None, 0);
    rig.until("the one without is refused", |rig| errors(rig, "no_client_certificate") == 1);
    let _ = send(&rig, Some((&stranger, "client")), 1);
    rig.until("the wrong one is refused", |rig| errors(rig, "bad_client_certificate") == 1);
    let _ = send(&rig, Some((&authority, "client")), 2);
    assert_eq!(numbers(&rig.take(1)), [2]);

    let rig = listen(&optional, 1 << 20);
    let _ = send(&rig, None, 3);
    assert_eq!(numbers(&rig.take(1)), [3]);
    let _ = send(&rig, Some((&stranger, "client")), 4);
    rig.until("a wrong one is refused all the same", |rig| errors(rig, "bad_client_certificate") == 1);
    let _ = send(&rig, Some((&authority, "client")), 5);
    assert_eq!(numbers(&rig.take(1)), [5]);
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_bad_one_for_nobody() {
    let authority = Authority::new();
    let config = authority.config();
    let rig = listen(&config, 1 << 20);
    let shown = |client: &StreamOwned<ClientConnection, TcpStream>| client.conn.peer_certificates().unwrap()[0].clone();
    let mut first = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    let old = certificate(&authority.path("server.pem"));
    assert_eq!(shown(&first), old);

    authority.sign("server", "localhost");
    rig.tls.as_ref().unwrap().set(listen::tls::read(&config).unwrap());
    let mut second = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    let new = certificate(&authority.path("server.pem"));
    assert!(shown(&second) == new && new != old);
    for (i, client) in [&mut first, &mut second].into_iter().enumerate() {
        client.write_all((line(i) + "\n").as_bytes()).unwrap();
        assert_eq!(numbers(&rig.take(1)), [i]);
    }

    let refusal = |config: &Config| listen::tls::read(config).unwrap_err().to_string();
    let at = |name: &str| authority.text(name);
    authority.sign("other", "localhost");
    std::fs::write(authority.path("empty"), "").unwrap();
    std::fs::write(authority.path("half"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let cases = [
        (Config { tls_cert: at("none"), ..config.clone() }, "tls_cert", "none: cannot be read: No such file"),
        (Config { tls_cert: at("empty"), ..config.clone() }, "tls_cert", "empty: no certificate in PEM form is in it"),
        (Config { tls_cert: at("half"), ..config.clone() }, "tls_cert", "half: cannot be read as PEM"),
        (Config { tls_key: at("server.pem"), ..config.clone() }, "tls_key", "server.pem: no private key in PEM form"),
        (Config { tls_key: at("other.key"), ..config.clone() }, "tls_key", "is not the key of the first certificate"),
        (Config { tls_client_ca: at("empty"), ..config.clone() }, "tls_client_ca", "no certificate in PEM form"),
    ];
    for (config, key, reason) in cases {
        let text = refusal(&config);
        assert!(text.starts_with(&format!("syslog.{key}: ")) && text.contains(reason), "{text}");
        let bound = bind(&Config { tls: vec!["127.0.0.1:0".to_owned()], ..config }).unwrap_err().to_string();
        assert_eq!(bound, text);
    }
}

#[test]
fn sighup_takes_a_renewed_certificate_and_says_of_a_bad_one_that_the_old_stays() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let dir = authority.dir.path();
    let tls = format!(
        "udp = []\ntcp = []\ntls = [\"127.0.0.1:0\"]\ntls_cert = \"{0}/server.pem\"\ntls_key = \"{0}/server.key\"",
        dir.display()
    );
    let config = activation::write_config(dir, &tls);
    let program = || Command::new(env!("CARGO_BIN_EXE_greypit"));
    assert!(program().args(["check", "--config"]).arg(&config).output().unwrap().status.success());
    let mut child = program().args(["run", "--config"]).arg(&config).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut until = |what: &str| loop {
        let mut said = String::new();
        assert!(std::io::BufRead::read_line(&mut stderr, &mut said).unwrap() > 0, "it ended before '{what}'");
        if said.contains(what) {
            return said;
        }
    };
    let said = until("tls 127.0.0.1:");
    let port = said.split("tls 127.0.0.1:").nth(1).unwrap();
    let address = format!("127.0.0.1:{}", port.split(|c: char| !c.is_ascii_digit()).next().unwrap());
    let shown = || {
        let client = connect(&address, authority.client(None, NEW)).unwrap();
        client.conn.peer_certificates().unwrap()[0].clone()
    };
    let pid = rustix::process::Pid::from_child(&child);
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    let old = certificate(&authority.path("server.pem"));
    assert_eq!(shown(), old);

    authority.sign("server", "localhost");
    let new = certificate(&authority.path("server.pem"));
    signal(rustix::process::Signal::HUP);
    until("reloaded");
    assert!(shown() == new && new != old);

    std::fs::write(authority.path("server.key"), "no key").unwrap();
    signal(rustix::process::Signal::HUP);
    let said = until("the config is as before");
    assert!(said.contains("greypit.toml:") && said.contains("syslog.tls_key: "), "{said}");
    assert_eq!(shown(), new);
    let done = program().args(["check", "--config"]).arg(&config).output().unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    let line = std::fs::read_to_string(&config).unwrap().lines().position(|l| l.starts_with("tls_key")).unwrap() + 1;
    assert!(!done.status.success() && text.contains(&format!("greypit.toml:{line}: syslog.tls_key: ")), "{text}");

    signal(rustix::process::Signal::TERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_no_tls_is_counted_and_harms_nobody() {
    let authority = Authority::new();
    let config = Config { tls_handshake_timeout: Span(Duration::from_secs(5)), ..authority.config() };
    let mut rig = listen(&config, 1 << 20);
    let mut neighbour = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    let until_closed = |mut stream: TcpStream| while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {};

    let mut garbage = TcpStream::connect(&rig.addresses[0]).unwrap();
    garbage.write_all((line(0) + "\n").as_bytes()).unwrap();
    until_closed(garbage);
    rig.until("it is counted", |rig| errors(rig, "not_tls") == 1);
    let silent = TcpStream::connect(&rig.addresses[0]).unwrap();
    until_closed(silent);
    rig.until("it is counted", |rig| errors(rig, "timeout") == 1);
    drop(TcpStream::connect(&rig.addresses[0]).unwrap());
    rig.until("one that goes at once is counted", |rig| errors(rig, "closed") == 1);
    let trusting_nobody = {
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let roots = RootCertStore { roots: Authority::new().client_roots() };
        builder.with_protocol_versions(NEW).unwrap().with_root_certificates(roots).with_no_client_auth()
    };
    connect(&rig.addresses[0], trusting_nobody).unwrap_err();
    rig.until("a client that does not trust us is counted", |rig| errors(rig, "refused_by_peer") == 1);

    // Garbage behind a good handshake.
    let mut broken = connect(&rig.addresses[0], authority.client(None, NEW)).unwrap();
    broken.write_all((line(1) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [1]);
    broken.sock.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
    broken.sock.write_all(&[0; 32]).unwrap();
    until_closed(broken.sock);
    rig.until("it is counted", |rig| errors(rig, "broken") == 1);

    neighbour.write_all((line(2) + "\n").as_bytes()).unwrap();
    assert_eq!(numbers(&rig.take(1)), [2]);
    drop(neighbour);
    rig.until("nobody is left", |rig| rig.connections() == 0);
    rig.end();
}

impl Authority {
    fn client_roots(&self) -> Vec<rustls::pki_types::TrustAnchor<'static>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        roots.roots
    }
}
