//! What the SDK's errors mean: a class for metrics, a line for a person.

use std::error::Error as StdError;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::{Config, StoreError};
use super::client::{Problem, credentials_problem};

/// The longest text of a server that is repeated, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// What rustls says when it does not accept the other side, whose type does not come through.
const TLS_WORDS: [&str; 4] = ["certificate", "corrupt message", "fatal alert", "handshake"];

/// Knows what was tried where.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub(super) operation: &'static str,
    pub(super) target: String,
    pub(super) bucket: &'a str,
    pub(super) config: &'a Config,
}

impl Failure<'_> {
    pub(super) fn because(&self, class: &'static str, reason: impl Into<String>) -> StoreError {
        StoreError::new(self.operation, self.target.clone(), class, reason)
    }

    pub(super) fn explain<E>(&self, error: &SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let (class, reason) = self.problem(error);
        let reason = match &self.config.endpoint {
            Some(endpoint) => format!("{reason} (at {endpoint})"),
            None => reason,
        };
        self.because(class, reason)
    }

    fn problem<E>(&self, error: &SdkError<E>) -> Problem
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        if let Some(credentials) = in_chain::<CredentialsError>(error) {
            return credentials_problem(credentials);
        }
        match error {
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                self.answered(status, answer.err().code(), answer.err().message().unwrap_or_default())
            }
            SdkError::ResponseError(answer) => match answer.raw().status().as_u16() {
                200..=299 if in_chain::<io::Error>(error).is_some() => ("network", root_cause(error)),
                status => self.answered(status, None, &root_cause(error)),
            },
            SdkError::TimeoutError(_) => ("timeout", format!("no answer within {}", self.config.request_timeout)),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                ("timeout", format!("no connection within {}", self.config.connect_timeout))
            }
            _ => self.not_sent(error),
        }
    }

    /// The request did not get through.
    fn not_sent(&self, error: &(dyn StdError + 'static)) -> Problem {
        let cause = root_cause(error);
        let class = match in_chain::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "refused",
            Some(io::ErrorKind::TimedOut) => "timeout",
            _ if TLS_WORDS.iter().any(|word| cause.contains(word)) => return ("tls", format!("TLS: {cause}")),
            _ => "network",
        };
        (class, cause)
    }

    /// The server's answer; `code` is empty for answers that are not S3's.
    fn answered(&self, status: u16, code: Option<&str>, message: &str) -> Problem {
        let text = match (code, message) {
            (Some(code), "") => format!("{code} (HTTP {status})"),
            (Some(code), message) => format!("{code} (HTTP {status}): {}", one_line(message)),
            (None, _) => format!("HTTP {status} without S3's XML: no S3 server, or something in front of it"),
        };
        match (code.unwrap_or_default(), status) {
            ("NoSuchBucket" | "InvalidBucketName", _) => {
                ("no_bucket", format!("the bucket '{}' does not exist: create it or correct store.url", self.bucket))
            }
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken", _)
            // versitygw's word for an unknown access key.
            | ("XAdminUserNotFound", _) => {
                ("bad_credentials", format!("the credentials are not accepted: {text}"))
            }
            ("AuthorizationHeaderMalformed", _) if !message.contains("region") => {
                ("bad_credentials", format!("the credentials are not accepted: {text}"))
            }
            (
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301 | 307) => ("wrong_region", format!("set store.region to the bucket's: {text}")),
            ("RequestTimeTooSkewed", _) => ("clock", format!("this machine's clock is wrong: {text}")),
            ("SlowDown" | "SlowDownRead" | "SlowDownWrite" | "Throttling" | "ThrottlingException", _)
            | ("TooManyRequests" | "RequestLimitExceeded" | "ServiceUnavailable", _)
            | (_, 429 | 503) => ("throttled", text),
            ("XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage", _) | (_, 507) => ("no_space", text),
            ("NotImplemented", _) | (_, 501) => {
                ("unsupported", format!("the server cannot write conditionally (If-None-Match): {text}"))
            }
            ("RequestTimeout", _) | (_, 408) => ("timeout", text),
            ("NoSuchKey", _) => ("not_found", "there is no such object".into()),
            ("NoSuchUpload", _) => ("conflict", text),
            (_, 409) => ("conflict", text),
            ("", 404) => ("server", text),
            ("AccessDenied", _) | (_, 401 | 403) => ("denied", text),
            (_, 400..=499) => ("rejected", text),
            _ => ("server", text),
        }
    }
}

pub(super) fn in_chain<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref::<T>())
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| (*error).source())
}

/// The innermost error: "Connection refused (os error 111)", not "dispatch failure".
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    one_line(&chain(error).last().map(ToString::to_string).unwrap_or_default())
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS_MAX).collect()
}
