//! The SDK's client: HTTP, credentials, region.

use std::sync::LazyLock;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector, proxy::ProxyConfig};

use super::super::Config;
use super::failure;

/// How long an instance's metadata service may take to answer; where there is none, nobody refuses the connection.
const IMDS_TIMEOUT: Duration = Duration::from_secs(1);

/// A class and a reason.
pub(super) type Problem = (&'static str, String);

/// A client, and where its credentials come from.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    credentials: SharedCredentialsProvider,
}

impl Connection {
    /// Whether there are credentials at all, told before a request fails for want of them.
    pub(super) async fn check_credentials(&self) -> Result<(), Problem> {
        self.credentials.provide_credentials().await.map(|_| ()).map_err(|error| credentials_problem(&error))
    }
}

pub(super) async fn connect(config: &Config) -> Result<Connection, Problem> {
    let http = http_client(config)?;
    let provider_config =
        ProviderConfig::default().with_http_client(http.clone()).with_behavior_version(Some(BehaviorVersion::latest()));
    let imds = imds::Client::builder()
        .configure(&provider_config)
        .max_attempts(1)
        .connect_timeout(IMDS_TIMEOUT)
        .read_timeout(IMDS_TIMEOUT)
        .operation_timeout(IMDS_TIMEOUT)
        .operation_attempt_timeout(IMDS_TIMEOUT)
        .build();

    let region = region(config, &provider_config, imds.clone()).await;
    let mut chain = DefaultCredentialsChain::builder()
        .configure(provider_config.with_region(Some(region.clone())))
        .region(region.clone())
        .imds_client(imds);
    if let Some(profile) = &config.profile {
        chain = chain.profile_name(profile);
    }
    let credentials = SharedCredentialsProvider::new(chain.build().await);
    Ok(connect_with(config, http, region, credentials).await)
}

pub(super) async fn connect_with(
    config: &Config,
    http: SharedHttpClient,
    region: Region,
    credentials: SharedCredentialsProvider,
) -> Connection {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(region)
        .retry_config(RetryConfig::disabled())
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(config.connect_timeout.0)
                .operation_timeout(config.request_timeout.0)
                .build(),
        )
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.credentials_provider(credentials.clone()).load().await;
    let s3 = aws_sdk_s3::config::Builder::from(&shared).force_path_style(config.path_style).build();
    Connection { client: Client::from_conf(s3), credentials }
}

pub(super) fn credentials_problem(error: &CredentialsError) -> Problem {
    let none = "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, or give this machine a role";
    match error {
        CredentialsError::CredentialsNotLoaded(_) => ("no_credentials", none.into()),
        CredentialsError::ProviderTimedOut(_) => ("timeout", "the source of AWS credentials does not answer".into()),
        // A token service that cannot be reached now.
        other if failure::in_chain::<std::io::Error>(other).is_some_and(|io| io.raw_os_error().is_some()) => {
            ("network", format!("the source of AWS credentials: {}", failure::root_cause(other)))
        }
        other => ("no_credentials", format!("{none} (last tried: {})", failure::root_cause(other))),
    }
}

/// The config's, the environment's, the profile's, the instance's; else the one that most other servers take.
async fn region(config: &Config, provider_config: &ProviderConfig, imds: imds::Client) -> Region {
    if let Some(region) = &config.region {
        return Region::new(region.clone());
    }
    let mut profile = ProfileFileRegionProvider::builder().configure(provider_config);
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    let mut chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new()).or_else(profile.build());
    if config.endpoint.is_none() {
        let instance = imds::region::ImdsRegionProvider::builder().configure(provider_config).imds_client(imds);
        chain = chain.or_else(instance.build());
    }
    chain.or_else(Region::new("us-east-1")).region().await.unwrap_or(Region::new("us-east-1"))
}

/// Without any root certificate the TLS client would panic, so a plain endpoint does without TLS then.
pub(super) fn http_client(config: &Config) -> Result<SharedHttpClient, Problem> {
    static HAVE_ROOTS: LazyLock<bool> = LazyLock::new(|| !rustls_native_certs::load_native_certs().certs.is_empty());
    if *HAVE_ROOTS {
        let proxy = https_proxy()?;
        return Ok(Builder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder();
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
            connector.set_proxy_config(proxy.clone());
            connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
        }));
    }
    if config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Ok(Builder::new().build_http());
    }
    Err(("tls", "no root certificates on this machine: install ca-certificates or set SSL_CERT_FILE".into()))
}

/// For `https` only, so that neither a loopback endpoint nor the metadata service is looked for behind a proxy.
fn https_proxy() -> Result<Option<ProxyConfig>, Problem> {
    let variable = |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).ok();
    let Some(url) = variable("HTTPS_PROXY").filter(|url| !url.is_empty()) else { return Ok(None) };
    // The URL may hold a password: it is not shown.
    let proxy = ProxyConfig::https(url).map_err(|_| ("network", "HTTPS_PROXY is no URL of a proxy".to_owned()))?;
    Ok(Some(match variable("NO_PROXY") {
        Some(rules) => proxy.no_proxy(rules),
        None => proxy,
    }))
}
