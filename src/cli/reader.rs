//! What `ls`, `cat`, `top` and `verify` share: which store, which of its objects, and reading several at a time.

mod fetch;
mod record;
mod select;

use clap::Args;
use greypit_pipeline::Kind;
use greypit_pipeline::store::{Config, ObjectInfo, Store};
use jiff::Timestamp;

pub(crate) use fetch::{Fetched, for_each};
pub(crate) use record::pick;
pub(crate) use select::{Selected, Selection, Take, Window};

use super::Stop;

/// How much one object may decompress to: far above any `batch.max_bytes`, and an end to a bomb. In bytes.
pub(crate) const DECOMPRESSED_BYTES_MAX: u64 = 16 << 30;

/// For `--help` of the four commands.
pub(crate) const TIMES_HELP: &str = "\
Times are UTC: 2026-11-20, 2026-11-20T12:55, 2026-11-20T13:55:00+01:00, or back from now: 90m, 2d.
An object is taken when its window, which stands in its key, begins at or after --since and before --until.
Where a key has no time of day, the records' ts decides.";

/// Where the objects are, and which of them are meant.
#[derive(Args, Clone, Debug, Default)]
pub struct Source {
    /// file:///dir, a plain directory, s3://bucket/prefix, or one object; default: the configured store
    pub url: Option<String>,
    /// Only this kind of record (from, to, mail, syslog, …); may be given several times
    #[arg(long, value_parser = kind)]
    pub kind: Vec<Kind>,
    /// Only objects from this time on
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub since: Option<Timestamp>,
    /// Only objects before this time
    #[arg(long, value_name = "TIME", value_parser = when)]
    pub until: Option<Timestamp>,
    /// URL of an S3 server that is not AWS
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,
    /// The bucket's region
    #[arg(long)]
    pub region: Option<String>,
    /// http://server/bucket/key instead of http://bucket.server/key
    #[arg(long)]
    pub path_style: bool,
}

pub(crate) fn kind(text: &str) -> Result<Kind, String> {
    Kind::parse(text).ok_or_else(|| "a kind is 1 to 15 characters of a-z, 0-9 and _".into())
}

pub(crate) fn when(text: &str) -> Result<Timestamp, String> {
    select::parse_when(text, Timestamp::now())
}

/// A store and what was asked of it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) selection: Selection,
    /// The one object that the URL named.
    only: Option<String>,
}

impl Source {
    /// Opens the store that the arguments name, else the configured one.
    pub(crate) fn open(&self, configured: Option<Config>) -> Result<Opened, Stop> {
        if self.since.zip(self.until).is_some_and(|(since, until)| since >= until) {
            return Err(Stop::Say("--since must be before --until".into()));
        }
        let (config, only) = self.store_config(configured);
        let say = |error: greypit_pipeline::Error| Stop::Say(error.to_string());
        config.validate().map_err(say)?;
        let store = Store::open(&config).map_err(say)?;
        let selection = Selection { kinds: self.kind.clone(), since: self.since, until: self.until };
        Ok(Opened { store, selection, only })
    }

    fn store_config(&self, configured: Option<Config>) -> (Config, Option<String>) {
        let configured = configured.unwrap_or_default();
        let mut config = match &self.url {
            None => configured,
            // Another bucket is most likely on the same server.
            Some(url) if url.starts_with("s3://") && configured.url.starts_with("s3://") => {
                Config { url: url.clone(), ..configured }
            }
            Some(url) => Config { url: url.clone(), ..Config::default() },
        };
        if self.endpoint.is_some() {
            config.endpoint.clone_from(&self.endpoint);
        }
        if self.region.is_some() {
            config.region.clone_from(&self.region);
        }
        config.path_style |= self.path_style;
        let only = split_object(&config.url).map(|(folder, name)| {
            config.url = folder;
            name
        });
        (config, only)
    }
}

/// A URL that names one object: its folder and its name. A directory may well have `.json` in its name.
fn split_object(url: &str) -> Option<(String, String)> {
    let (folder, name) = url.rsplit_once('/').unwrap_or((".", url));
    if !name.contains(".json") {
        return None;
    }
    let path = url.strip_prefix("file://").unwrap_or(url);
    if !url.starts_with("s3://") && !std::path::Path::new(path).is_file() {
        return None;
    }
    let folder = if folder.is_empty() { "/" } else { folder };
    Some((folder.to_owned(), name.to_owned()))
}

impl Opened {
    /// The objects that were asked for, by key.
    pub(crate) async fn objects(&self) -> Result<Vec<Selected>, Stop> {
        let listed = self.store.list(self.only.as_deref().unwrap_or_default()).await.map_err(|error| {
            let hint = match error.class {
                "not_found" => "; give file:///dir, a directory or s3://bucket/prefix, or a config with --config",
                "denied" => "; the credentials must allow s3:ListBucket and s3:GetObject",
                "refused" | "network" if self.store.url().starts_with("s3://") => "; is --endpoint right?",
                _ => "",
            };
            Stop::Say(format!("{error}{hint}"))
        })?;
        let wanted = |object: &ObjectInfo| self.only.as_ref().is_none_or(|only| object.key == *only);
        Ok(listed.into_iter().filter(wanted).filter_map(|object| self.selection.select(object)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str) -> Source {
        Source { url: Some(url.into()), ..Source::default() }
    }

    #[test]
    fn the_url_stands_above_the_config_and_the_flags_above_both() {
        let configured = Config {
            url: "s3://ours/logs".into(),
            endpoint: Some("http://minio:9000".into()),
            path_style: true,
            ..Config::default()
        };
        assert_eq!(Source::default().store_config(Some(configured.clone())).0, configured);
        let other = source("s3://theirs").store_config(Some(configured.clone())).0;
        assert_eq!((other.url.as_str(), other.endpoint.as_deref()), ("s3://theirs", Some("http://minio:9000")));
        let dir = source("/var/objects").store_config(Some(configured.clone())).0;
        assert_eq!((dir.url.as_str(), dir.endpoint), ("/var/objects", None));
        let flags = Source { endpoint: Some("http://h".into()), region: Some("r".into()), ..Source::default() };
        let flagged = flags.store_config(Some(configured)).0;
        assert_eq!((flagged.endpoint.as_deref(), flagged.region.as_deref()), (Some("http://h"), Some("r")));
    }

    #[test]
    fn a_url_may_name_one_object() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("to.json.bz2");
        std::fs::write(&file, b"").unwrap();
        let split = |url: &str| split_object(url);
        let folder = dir.path().display().to_string();
        assert_eq!(split(&file.display().to_string()), Some((folder.clone(), "to.json.bz2".into())));
        assert_eq!(
            split(&format!("file://{}", file.display())),
            Some((format!("file://{folder}"), "to.json.bz2".into()))
        );
        assert_eq!(split("s3://b/x/to.json.bz2"), Some(("s3://b/x".into(), "to.json.bz2".into())));
        assert_eq!(split(&folder), None);
        assert_eq!(split("/nowhere/a.json"), None);
    }
}
