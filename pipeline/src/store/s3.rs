//! Objects in S3, or in a server that speaks it.
//!
//! `PutObject` with `If-None-Match: *`, so that an object is created by exactly one writer; above
//! [`Config::multipart_bytes`] a multipart upload whose completion carries the same condition. Every request carries the
//! SHA-256 of what it sends. Nothing is tried twice here. The server must honour `If-None-Match` (AWS since August 2024,
//! MinIO, versitygw, Ceph Squid, Garage 2, R2); one that answers 501 gives the class `unsupported`, but one that ignores
//! the header overwrites, and nothing can tell.
//!
//! Root certificates are the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured), and an `https` endpoint is
//! reached through `HTTPS_PROXY` unless `NO_PROXY` exempts it; a plain `http` endpoint never goes through a proxy.

mod client;
mod failure;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, ServerSideEncryption,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{Config, Encryption, OBJECT_BYTES_MAX, Object, ObjectInfo, Put, Result, StoreError, is_records_key};
use failure::Failure;

/// The size of a part of a multipart upload; the last is smaller. In bytes.
const PART_BYTES: usize = 16 << 20;

/// A bucket, or a prefix in it. Clones share connections.
#[derive(Clone, Debug)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    bucket: String,
    /// Empty, or ends with `/`.
    prefix: String,
    connection: OnceCell<client::Connection>,
}

impl S3Store {
    pub(super) fn new(config: &Config, bucket: String, prefix: String) -> S3Store {
        let prefix = if prefix.is_empty() { prefix } else { prefix + "/" };
        S3Store { inner: Arc::new(Inner { config: config.clone(), bucket, prefix, connection: OnceCell::new() }) }
    }

    pub(super) fn url(&self) -> String {
        format!("s3://{}/{}", self.inner.bucket, self.inner.prefix).trim_end_matches('/').to_owned()
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.inner.prefix)
    }

    async fn connection(&self) -> Result<&client::Connection> {
        let connect = || client::connect(&self.inner.config);
        self.inner.connection.get_or_try_init(connect).await.map_err(|problem| self.unusable(problem))
    }

    async fn client(&self) -> Result<&Client> {
        Ok(&self.connection().await?.client)
    }

    fn unusable(&self, (class, reason): client::Problem) -> StoreError {
        StoreError::new("use", self.url(), class, reason)
    }

    /// Names the operation, the object and the endpoint in a failure.
    fn failure(&self, operation: &'static str, key: &str) -> Failure<'_> {
        Failure {
            operation,
            target: format!("s3://{}/{}{key}", self.inner.bucket, self.inner.prefix),
            bucket: &self.inner.bucket,
            config: &self.inner.config,
        }
    }

    pub(super) async fn check(&self) -> Result<()> {
        let connection = self.connection().await?;
        connection.check_credentials().await.map_err(|problem| self.unusable(problem))?;
        let client = &connection.client;
        let prefix = Some(self.inner.prefix.clone()).filter(|prefix| !prefix.is_empty());
        let asked = client.list_objects_v2().bucket(&self.inner.bucket).set_prefix(prefix).max_keys(1).send().await;
        match asked.map_err(|error| self.failure("use", "").explain(&error)) {
            Ok(_) => Ok(()),
            // Credentials that may only write are good ones.
            Err(error) if error.class == "denied" => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn put_new(&self, key: &str, object: &Object) -> Result<Put> {
        if object.bytes.len() as u64 > self.inner.config.multipart_bytes.0 {
            return self.put_new_parts(key, object).await;
        }
        let (sse, sse_key) = self.encryption();
        let mut put = self
            .client()
            .await?
            .put_object()
            .bucket(&self.inner.bucket)
            .key(self.full_key(key))
            .if_none_match("*")
            .content_type(object.content_type)
            .checksum_sha256(sha256(&object.bytes))
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(sse_key);
        for (name, value) in &object.metadata {
            put = put.metadata(*name, value);
        }
        match put.body(ByteStream::from(object.bytes.clone())).send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if is_precondition_failed(&error) => Ok(Put::Exists),
            Err(error) => Err(self.failure("write", key).explain(&error)),
        }
    }

    async fn put_new_parts(&self, key: &str, object: &Object) -> Result<Put> {
        let client = self.client().await?;
        let (sse, sse_key) = self.encryption();
        let mut create = client
            .create_multipart_upload()
            .bucket(&self.inner.bucket)
            .key(self.full_key(key))
            .content_type(object.content_type)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_type(ChecksumType::Composite)
            .set_server_side_encryption(sse)
            .set_ssekms_key_id(sse_key);
        for (name, value) in &object.metadata {
            create = create.metadata(*name, value);
        }
        let created = create.send().await.map_err(|error| self.failure("write", key).explain(&error))?;
        let Some(upload) = created.upload_id() else {
            return Err(self.failure("write", key).because("server", "the server gave no id for a multipart upload"));
        };
        let outcome = self.send_parts(client, key, object, upload).await;
        if !matches!(outcome, Ok(Put::Created)) {
            // What was sent costs money until it is given up. If this fails too, the bucket's lifecycle rule for
            // incomplete uploads is what is left.
            let abort = client.abort_multipart_upload().bucket(&self.inner.bucket).key(self.full_key(key));
            if let Err(error) = abort.upload_id(upload).send().await {
                tracing::debug!(%upload, "{}", self.failure("abort upload of", key).explain(&error));
            }
        }
        outcome
    }

    async fn send_parts(&self, client: &Client, key: &str, object: &Object, upload: &str) -> Result<Put> {
        let mut parts = CompletedMultipartUpload::builder();
        let mut rest = object.bytes.clone();
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let part = rest.split_to(PART_BYTES.min(rest.len()));
            let checksum = sha256(&part);
            let sent = client
                .upload_part()
                .bucket(&self.inner.bucket)
                .key(self.full_key(key))
                .upload_id(upload)
                .part_number(number)
                .checksum_sha256(&checksum)
                .body(ByteStream::from(part))
                .send()
                .await
                .map_err(|error| self.failure("write a part of", key).explain(&error))?;
            let completed = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned));
            // A server that does not know checksums of parts must not be shown one.
            parts = parts.parts(completed.set_checksum_sha256(sent.checksum_sha256().map(str::to_owned)).build());
        }
        let complete = client
            .complete_multipart_upload()
            .bucket(&self.inner.bucket)
            .key(self.full_key(key))
            .upload_id(upload)
            .if_none_match("*")
            .multipart_upload(parts.build());
        match complete.send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if is_precondition_failed(&error) => Ok(Put::Exists),
            Err(error) => Err(self.failure("complete", key).explain(&error)),
        }
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match self.inner.config.sse {
            Encryption::None => (None, None),
            Encryption::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms => (Some(ServerSideEncryption::AwsKms), self.inner.config.sse_kms_key_id.clone()),
        }
    }

    pub(super) async fn get(&self, key: &str) -> Result<Bytes> {
        let failure = self.failure("read", key);
        let get = self.client().await?.get_object().bucket(&self.inner.bucket).key(self.full_key(key));
        let object = get.send().await.map_err(|error| failure.explain(&error))?;
        let length = u64::try_from(object.content_length().unwrap_or(0)).unwrap_or(0);
        if length > OBJECT_BYTES_MAX {
            return Err(StoreError::too_large(failure.target, length));
        }
        let mut bytes = Vec::with_capacity(length as usize);
        let mut body = object.body;
        loop {
            let limit = self.inner.config.request_timeout;
            match tokio::time::timeout(limit.0, body.next()).await {
                Ok(None) => return Ok(bytes.into()),
                Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Some(Err(error))) => return Err(failure.because("network", failure::root_cause(&error))),
                Err(_) => return Err(failure.because("timeout", format!("the answer stopped for {limit}"))),
            }
            if bytes.len() as u64 > OBJECT_BYTES_MAX {
                return Err(StoreError::too_large(failure.target, bytes.len() as u64));
            }
        }
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        self.each_object(prefix, None, |key, size| {
            if is_records_key(key) {
                found.push(ObjectInfo { key: key.to_owned(), size });
            }
        })
        .await?;
        Ok(found)
    }

    /// What lies right in a folder.
    pub(super) async fn names(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let mut names = Vec::new();
        let after = after.map(|after| format!("{prefix}{after}"));
        self.each_object(&prefix, after.as_deref(), |key, _| {
            names.extend(key.strip_prefix(&prefix).filter(|name| !name.contains('/')).map(str::to_owned));
        })
        .await?;
        Ok(names)
    }

    /// Gives the key and the size of every object whose key begins with `prefix` and comes after `after`.
    async fn each_object(&self, prefix: &str, after: Option<&str>, mut sink: impl FnMut(&str, u64)) -> Result<()> {
        let client = self.client().await?;
        let mut token = None;
        loop {
            let page = client
                .list_objects_v2()
                .bucket(&self.inner.bucket)
                .prefix(self.full_key(prefix))
                .set_start_after(after.map(|after| self.full_key(after)))
                .set_continuation_token(token)
                .send()
                .await
                .map_err(|error| self.failure("list", prefix).explain(&error))?;
            for object in page.contents() {
                let Some(key) = object.key().and_then(|key| key.strip_prefix(&self.inner.prefix)) else { continue };
                sink(key, u64::try_from(object.size().unwrap_or(0)).unwrap_or(0));
            }
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() || page.is_truncated() != Some(true) {
                return Ok(());
            }
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    BASE64.encode(Sha256::digest(bytes))
}

fn is_precondition_failed<E>(error: &SdkError<E>) -> bool {
    error.raw_response().is_some_and(|response| response.status().as_u16() == 412)
}
