//! `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches the process.
//!
//! * `GET /metrics`: text format 0.0.4. What `/readyz` says is in it too, as `greypit_ready`, for alerts.
//! * `GET /healthz`: 200 `ok` as long as the process answers.
//! * `GET /readyz`: JSON; 200 when nothing is held back, 503 when something is, with what and why. Being held back is
//!   no fault of the process: events wait on disk. Restarting it does not help.
//!
//! Limits: 64 connections; 10 s for a request's header, a minute for a connection; anything but GET and HEAD is refused.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::health::State;
use greypit_pipeline::{Addresses, Error, Health, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Scrapers connect again; a peer that never reads its answers must not hold a place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port; empty = no HTTP.
    pub listen: String,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: "127.0.0.1:9425".into() }
    }
}

impl Config {
    /// Checks the address.
    ///
    /// # Errors
    /// [`Error::Config`] for `http.listen`.
    pub fn validate(&self) -> Result<()> {
        self.address().map(drop)
    }

    fn address(&self) -> Result<Option<SocketAddr>> {
        if self.listen.is_empty() {
            return Ok(None);
        }
        let refused = |_| refuse(format!("'{}' is no address; write for example \"127.0.0.1:9425\"", self.listen));
        self.listen.parse().map(Some).map_err(refused)
    }
}

fn refuse(problem: String) -> Error {
    Error::Config { key: "http.listen".into(), problem }
}

/// A bound socket that does not answer yet.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
}

/// What the answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// All metrics.
    pub registry: Registry,
    /// What every part says of itself.
    pub health: Health,
    /// Called before metrics are read.
    pub observe: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("health", &self.health).finish_non_exhaustive()
    }
}

/// Puts `greypit_ready` on `registry`.
///
/// # Errors
/// Where it is there already.
pub fn register(registry: &Registry, health: &Health) -> prometheus::Result<()> {
    let opts = Opts::new("greypit_ready", "1 where a part works, 0 where something is held back; /readyz says why");
    let ready = Ready { health: health.clone(), parts: IntGaugeVec::new(opts, &["part"])? };
    registry.register(Box::new(ready))
}

/// The board as a metric, read when it is asked for.
#[derive(Debug)]
struct Ready {
    health: Health,
    parts: IntGaugeVec,
}

impl Collector for Ready {
    fn desc(&self) -> Vec<&Desc> {
        self.parts.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (part, state) in self.health.parts() {
            self.parts.with_label_values(&[part]).set(i64::from(!matches!(state, State::Held { .. })));
        }
        self.parts.collect()
    }
}

/// Binds the address, if there is one, inside a Tokio runtime.
///
/// # Errors
/// [`Error::Config`] for `http.listen`, with what to do.
pub fn bind(config: &Config, addresses: Addresses) -> Result<Option<Http>> {
    let Some(address) = config.address()? else { return Ok(None) };
    match addresses.listen(address).and_then(TcpListener::from_std) {
        Ok(listener) => Ok(Some(Http { listener })),
        Err(error) => {
            let why = match error.kind() {
                std::io::ErrorKind::AddrInUse => " (another greypit?)",
                _ => "",
            };
            Err(refuse(format!("cannot listen on {address}: {error}{why}; choose another port, or \"\" for none")))
        }
    }
}

impl Http {
    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until `stop`.
    pub async fn serve(self, sources: Sources, stop: CancellationToken) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else { return };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, most likely: others will be closed.
                        tracing::warn!(%error, "http: cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (sources, stop) = (sources.clone(), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = answer(&request, &sources);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = stop.cancelled() => {}
                    // A broken or slow connection is the scraper's affair.
                    _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
                }
                drop(permit);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            (sources.observe)();
            let mut body = Vec::new();
            match TextEncoder::new().encode(&sources.registry.gather(), &mut body) {
                Ok(()) => with_type(StatusCode::OK, prometheus::TEXT_FORMAT, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            }
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let status = if sources.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            with_type(status, "application/json", readiness(&sources.health).to_string().into_bytes())
        }
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    }
}

fn readiness(health: &Health) -> serde_json::Value {
    let parts = health.parts().into_iter().map(|(part, state)| {
        let state = match state {
            State::Ok => serde_json::json!({ "ready": true }),
            State::Limited { reason, since } => {
                serde_json::json!({ "ready": true, "reason": reason, "limited_seconds": since.elapsed().as_secs() })
            }
            State::Held { reason, since } => {
                serde_json::json!({ "ready": false, "reason": reason, "held_seconds": since.elapsed().as_secs() })
            }
        };
        (part.to_owned(), state)
    });
    let parts: serde_json::Map<String, serde_json::Value> = parts.collect();
    serde_json::json!({ "ready": health.is_ready(), "parts": parts })
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn every_path_answers_and_readiness_follows_the_board() {
        let http = bind(&Config { listen: "127.0.0.1:0".into() }, Addresses::AreHere).unwrap().unwrap();
        let address = http.address().unwrap();
        let (health, registry, stop) = (Health::new(), Registry::new(), CancellationToken::new());
        let gauge = prometheus::IntGauge::new("greypit_x", "x").unwrap();
        registry.register(Box::new(gauge.clone())).unwrap();
        register(&registry, &health).unwrap();
        let observe = Arc::new(move || gauge.set(7));
        let serving = tokio::spawn(http.serve(Sources { registry, health: health.clone(), observe }, stop.clone()));

        health.ok("spool");
        assert!(ask(address, "GET /healthz").await.ends_with("ok\n"));
        assert!(ask(address, "GET /metrics").await.contains("greypit_x 7"));
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        health.held("store", "connection refused");
        let held = ask(address, "GET /readyz").await;
        assert!(held.starts_with("HTTP/1.1 503") && held.contains("connection refused"), "{held}");
        let metrics = ask(address, "GET /metrics").await;
        for line in ["greypit_ready{part=\"spool\"} 1\n", "greypit_ready{part=\"store\"} 0\n"] {
            assert!(metrics.contains(line), "{metrics}");
        }
        assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(address, "GET /").await.contains("/readyz"));
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_says_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config { listen: taken.local_addr().unwrap().to_string() };
        let error = bind(&config, Addresses::AreHere).unwrap_err().to_string();
        assert!(error.starts_with("http.listen: cannot listen on"), "{error}");
        assert!(bind(&Config { listen: String::new() }, Addresses::AreHere).unwrap().is_none());
        assert!(Config { listen: "nowhere".into() }.validate().is_err());
    }
}
