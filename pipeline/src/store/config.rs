//! The `[store]` section.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::units::{Size, Span};

/// Where objects go and how. Secrets are not here: they come from the usual AWS chain (environment, profile, web
/// identity, container or instance role) and are never printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `s3://bucket/prefix`, `file:///dir` or a plain path; a relative path is taken from the working directory. Empty:
    /// the folder `objects` in `data_dir`, which whoever composes the config fills in.
    pub url: String,
    /// The server's URL where it is not AWS, for example `http://127.0.0.1:9000`. Default: `AWS_ENDPOINT_URL`, else AWS.
    pub endpoint: Option<String>,
    /// `http://server/bucket/key` instead of `http://bucket.server/key`: what most servers other than AWS want.
    pub path_style: bool,
    /// Default: the AWS environment, profile or instance, else `us-east-1`.
    pub region: Option<String>,
    /// The section of `~/.aws/config` and `~/.aws/credentials`. Default: `AWS_PROFILE`, else `default`.
    pub profile: Option<String>,
    /// Encryption at rest that the server is asked for.
    pub sse: Encryption,
    /// The key for `aws:kms`. Default: the account's own.
    pub sse_kms_key_id: Option<String>,
    /// Objects larger than this are sent in parts. 5 MiB to 1 GiB.
    pub multipart_bytes: Size,
    /// How long one request (of a multipart upload: one part) may take. 1 s to 1 h.
    pub request_timeout: Span,
    /// How long connecting may take. 100 ms to 1 m.
    pub connect_timeout: Span,
}

/// Encryption at rest, by the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// What the bucket does by itself.
    #[default]
    #[serde(rename = "none")]
    None,
    /// SSE-S3.
    #[serde(rename = "AES256")]
    Aes256,
    /// SSE-KMS.
    #[serde(rename = "aws:kms")]
    Kms,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            url: String::new(),
            endpoint: None,
            path_style: false,
            region: None,
            profile: None,
            sse: Encryption::None,
            sse_kms_key_id: None,
            multipart_bytes: Size(64 << 20),
            request_timeout: Span::seconds(60),
            connect_timeout: Span::seconds(5),
        }
    }
}

/// What the URL names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Location {
    Dir(PathBuf),
    S3 { bucket: String, prefix: String },
}

fn problem(key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: format!("store.{key}"), problem: problem.into() }
}

impl Config {
    /// Checks every key without touching disk or network.
    ///
    /// # Errors
    /// [`Error::Config`] for the first key that cannot be right.
    pub fn validate(&self) -> Result<(), Error> {
        let location = self.location()?;
        if let Some(endpoint) = &self.endpoint {
            let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
            let plausible =
                |host: &&str| !host.is_empty() && !host.starts_with(['/', ':']) && !host.contains([' ', '@', '?', '#']);
            if host.filter(plausible).is_none() {
                return Err(problem("endpoint", format!("'{endpoint}' is no http:// or https:// URL of a server")));
            }
        }
        if let Location::Dir(_) = location {
            let s3_only = [
                ("endpoint", self.endpoint.is_some()),
                ("region", self.region.is_some()),
                ("profile", self.profile.is_some()),
                ("path_style", self.path_style),
                ("sse", self.sse != Encryption::None),
            ];
            if let Some((key, _)) = s3_only.iter().find(|(_, set)| *set) {
                return Err(problem(key, format!("is for S3, but store.url is the directory '{}'", self.url)));
            }
        }
        if self.sse_kms_key_id.is_some() && self.sse != Encryption::Kms {
            return Err(problem("sse_kms_key_id", "needs sse = \"aws:kms\""));
        }
        if !(5 << 20..=1 << 30).contains(&self.multipart_bytes.0) {
            return Err(problem("multipart_bytes", format!("{} is not within 5MiB to 1GiB", self.multipart_bytes)));
        }
        let spans = [
            ("request_timeout", self.request_timeout, 1_000, 3_600_000, "1s to 1h"),
            ("connect_timeout", self.connect_timeout, 100, 60_000, "100ms to 1m"),
        ];
        for (key, span, min_ms, max_ms, range) in spans {
            if !(min_ms..=max_ms).contains(&span.0.as_millis()) {
                return Err(problem(key, format!("{span} is not within {range}")));
            }
        }
        Ok(())
    }

    pub(super) fn location(&self) -> Result<Location, Error> {
        let url = self.url.as_str();
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let valid = (3..=63).contains(&bucket.len())
                && bucket.bytes().all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_'));
            if !valid {
                return Err(problem("url", format!("'{bucket}' is no bucket name; write s3://bucket/prefix")));
            }
            let prefix = prefix.trim_matches('/');
            if prefix.len() > 120 || prefix.chars().any(char::is_control) || prefix.contains("//") {
                return Err(problem("url", format!("'{prefix}' is no usable prefix of at most 120 bytes")));
            }
            return Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        if let Some(path) = url.strip_prefix("file://") {
            let path = path.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(path);
            if !path.starts_with('/') {
                return Err(problem(
                    "url",
                    format!("'{url}' must have three slashes: file:///dir, or be a plain path"),
                ));
            }
            let path = percent_decode(path)
                .ok_or_else(|| problem("url", format!("'{url}' has a % that is not followed by two hex digits")))?;
            return Ok(Location::Dir(path));
        }
        if url.is_empty() || url.contains("://") || url.contains('\0') {
            return Err(problem("url", format!("'{url}' is neither s3://bucket/prefix nor file:///dir nor a path")));
        }
        Ok(Location::Dir(Path::new(url).to_owned()))
    }
}

fn percent_decode(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            let byte = u8::from_str_radix(hex, 16).ok().filter(|byte| *byte != 0 && !hex.starts_with('+'))?;
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Config {
        Config { url: url.into(), ..Config::default() }
    }

    #[test]
    fn urls_name_a_directory_or_a_bucket() {
        let dir = |path: &str| Location::Dir(path.into());
        let s3 = |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (url, location) in [
            ("file:///var/lib/greypit", dir("/var/lib/greypit")),
            ("file://localhost/var", dir("/var")),
            ("file:///a%20b", dir("/a b")),
            ("objects", dir("objects")),
            ("/a b%20", dir("/a b%20")),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/", s3("bucket", "")),
            ("s3://bucket/logs/mail/", s3("bucket", "logs/mail")),
        ] {
            assert_eq!(at(url).location().unwrap(), location, "{url}");
        }
        for bad in
            ["", "s3://", "s3://a", "s3://bad bucket/x", "s3:///x", "file://x", "http://x", "file:///%", "s3://b/c"]
        {
            assert!(at(bad).validate().unwrap_err().to_string().starts_with("store.url: "), "{bad}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_right_names_its_key() {
        let s3 = || at("s3://bucket");
        for (config, key) in [
            (Config { endpoint: Some("127.0.0.1:9000".into()), ..s3() }, "store.endpoint"),
            (Config { endpoint: Some("http://".into()), ..s3() }, "store.endpoint"),
            (Config { endpoint: Some("http://user:secret@h".into()), ..s3() }, "store.endpoint"),
            (Config { endpoint: Some("http://h".into()), ..at("objects") }, "store.endpoint"),
            (Config { sse_kms_key_id: Some("k".into()), ..s3() }, "store.sse_kms_key_id"),
            (Config { multipart_bytes: Size(1), ..s3() }, "store.multipart_bytes"),
            (Config { request_timeout: Span::seconds(0), ..s3() }, "store.request_timeout"),
            (Config { connect_timeout: Span::seconds(600), ..s3() }, "store.connect_timeout"),
        ] {
            match config.validate() {
                Err(Error::Config { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key}: {other:?}"),
            }
        }
        Config { endpoint: Some("https://[::1]:9000/".into()), ..s3() }.validate().unwrap();
        at("objects").validate().unwrap();
    }

    #[test]
    fn unknown_keys_are_refused_and_defaults_fill_the_rest() {
        let config: Config = serde_json::from_str(r#"{"url":"s3://bucket","sse":"aws:kms"}"#).unwrap();
        assert_eq!(config, Config { sse: Encryption::Kms, ..at("s3://bucket") });
        assert!(serde_json::from_str::<Config>(r#"{"uri":"x"}"#).is_err());
    }
}
