//! The TLS of syslog, RFC 5425: files to a `ServerConfig`, which a reload exchanges. Connections that are open keep
//! theirs.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use greypit_pipeline::Result;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, crypto};

use super::config::{ClientCert, Config, problem};

/// The certificate in use, shared by all listeners; cloning it is another handle on the same.
#[derive(Clone)]
pub struct Tls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Files that were read and belong together, not yet in use.
#[derive(Debug)]
pub struct Checked(Arc<ServerConfig>);

impl Tls {
    pub(super) fn new(Checked(config): Checked) -> Tls {
        Tls { current: Arc::new(RwLock::new(config)) }
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on new connections have these.
    pub fn set(&self, Checked(config): Checked) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Reads the certificate, its key and the authority of client certificates.
///
/// # Errors
/// [`greypit_pipeline::Error::Config`] names the key, the file and what is wrong with it.
pub fn read(config: &Config) -> Result<Checked> {
    let chain = certificates("tls_cert", &config.tls_cert)?;
    let key = PrivateKeyDer::from_pem_file(existing("tls_key", &config.tls_key)?)
        .map_err(|error| bad("tls_key", &config.tls_key, &error, "private key"))?;
    let provider = Arc::new(crypto::ring::default_provider());
    let wrong = |error: rustls::Error| problem("tls", error.to_string());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(wrong)?;
    let builder = if config.tls_client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let (key, path) = ("tls_client_ca", &config.tls_client_ca);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(key, path)? {
            roots
                .add(certificate)
                .map_err(|error| problem(key, format!("{path}: not the certificate of an authority: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match config.tls_client_cert {
            ClientCert::Required => verifier,
            ClientCert::Optional => verifier.allow_unauthenticated(),
        };
        builder.with_client_cert_verifier(verifier.build().map_err(|error| problem(key, format!("{path}: {error}")))?)
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let (cert, key) = (&config.tls_cert, &config.tls_key);
        match error {
            rustls::Error::InconsistentKeys(_) => {
                problem("tls_key", format!("{key} is not the key of the first certificate in {cert}"))
            }
            error => problem("tls_cert", format!("{cert} with {key}: {error}")),
        }
    })?;
    // Syslog senders write and never read: a ticket that waits unread when one closes makes its kernel send a reset, and
    // ours throw away what it wrote last.
    config.send_tls13_tickets = 0;
    Ok(Checked(Arc::new(config)))
}

fn certificates(key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(existing(key, path)?).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|error| bad(key, path, &error, "certificate"))?;
    if found.is_empty() {
        return Err(problem(key, format!("{path}: no certificate in PEM form is in it")));
    }
    Ok(found)
}

fn existing<'a>(key: &str, path: &'a str) -> Result<&'a Path> {
    if path.is_empty() {
        return Err(problem(key, "syslog.tls needs a file in PEM form here"));
    }
    Ok(Path::new(path))
}

fn bad(key: &str, path: &str, error: &pem::Error, what: &str) -> greypit_pipeline::Error {
    match error {
        pem::Error::NoItemsFound => problem(key, format!("{path}: no {what} in PEM form is in it")),
        pem::Error::Io(error) => problem(key, format!("{path}: cannot be read: {error}")),
        error => problem(key, format!("{path}: cannot be read as PEM: {error}")),
    }
}

/// Why a TLS connection failed: a bounded label for metrics.
pub(super) fn reason(error: &io::Error) -> &'static str {
    use rustls::Error as Tls;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    match inner {
        Some(Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } | Tls::InappropriateHandshakeMessage { .. }) => {
            "not_tls"
        }
        Some(Tls::NoCertificatesPresented) => "no_client_certificate",
        Some(Tls::InvalidCertificate(_)) => "bad_client_certificate",
        Some(Tls::PeerIncompatible(_)) => "incompatible",
        Some(Tls::AlertReceived(_)) => "refused_by_peer",
        Some(Tls::DecryptError | Tls::PeerMisbehaved(_) | Tls::PeerSentOversizedRecord) => "broken",
        Some(_) => "other",
        None => match error.kind() {
            ErrorKind::TimedOut => "timeout",
            _ => "closed",
        },
    }
}

pub(super) const REASONS: [&str; 9] = [
    "not_tls",
    "no_client_certificate",
    "bad_client_certificate",
    "incompatible",
    "refused_by_peer",
    "broken",
    "other",
    "timeout",
    "closed",
];
