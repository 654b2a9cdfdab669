//! Object keys from a template.
//!
//! `{prefix}` by kind · `{kind}` · `{date}` `2026-11-20` · `{HH}` `{MM}` start of the window · `{node}` ·
//! `{part}` `<node>-<first seq>` · `{ext}` of the codec. All times are UTC.

/// The default layout, which Spark and Athena read as it is.
pub const DEFAULT_TEMPLATE: &str = "{prefix}/{date}/{kind}-{date}-{HH}-{MM}-{part}.json{ext}";

const NAMES: [&str; 8] = ["prefix", "kind", "date", "HH", "MM", "node", "part", "ext"];

/// A checked template.
#[derive(Clone, Debug)]
pub(crate) struct Template(String);

/// The values of one object.
#[derive(Clone, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) kind: &'a str,
    /// Start of the window, in seconds since 1970.
    pub(crate) window: i64,
    pub(crate) node: &'a str,
    pub(crate) part: &'a str,
    pub(crate) ext: &'a str,
}

impl Template {
    /// # Errors
    /// What is wrong with it, for a person.
    pub(crate) fn new(text: &str) -> Result<Template, String> {
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let after = &rest[open + 1..];
            let close = after.find('}').ok_or_else(|| format!("'{text}' has a '{{' without '}}'"))?;
            let name = &after[..close];
            if !NAMES.contains(&name) {
                return Err(format!("'{{{name}}}' is unknown; there are {{{}}}", NAMES.join("} {")));
            }
            rest = &after[close + 1..];
        }
        for needed in ["{kind}", "{part}"] {
            if !text.contains(needed) {
                return Err(format!("'{text}' needs {needed}, or two objects would have the same key"));
            }
        }
        if !text.ends_with(".json{ext}") {
            return Err(format!("'{text}' must end with .json{{ext}}, or readers would not know the format"));
        }
        if !is_plain_path(&text.replace(['{', '}'], "")) {
            return Err(format!("'{text}' must be a relative path without empty, '.' or '..' parts"));
        }
        Ok(Template(text.to_owned()))
    }

    pub(crate) fn render(&self, values: &Values<'_>) -> String {
        let start = jiff::Timestamp::from_second(values.window).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let utc = start.to_zoned(jiff::tz::TimeZone::UTC);
        let date = utc.strftime("%Y-%m-%d").to_string();
        let (hour, minute) = (utc.strftime("%H").to_string(), utc.strftime("%M").to_string());
        let mut key = self.0.clone();
        let values = [values.prefix, values.kind, &date, &hour, &minute, values.node, values.part, values.ext];
        for (name, value) in NAMES.iter().zip(values) {
            key = key.replace(&format!("{{{name}}}"), value);
        }
        key
    }
}

/// Whether a text can stand in a key as a path that leads nowhere but down.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'static> =
        Values { prefix: "mail_logs", kind: "to", window: 1_795_179_300, node: "mx1", part: "mx1-42", ext: ".bz2" };

    #[test]
    fn the_default_and_a_hive_layout() {
        let default = Template::new(DEFAULT_TEMPLATE).unwrap();
        assert_eq!(default.render(&VALUES), "mail_logs/2026-11-20/to-2026-11-20-12-55-mx1-42.json.bz2");
        let hive = Template::new("{prefix}/kind={kind}/dt={date}/{part}.json{ext}").unwrap();
        assert_eq!(hive.render(&VALUES), "mail_logs/kind=to/dt=2026-11-20/mx1-42.json.bz2");
    }

    #[test]
    fn a_template_that_cannot_work_says_why() {
        for (bad, why) in [
            ("{prefix}/{hour}-{kind}-{part}.json{ext}", "'{hour}' is unknown"),
            ("{prefix}/{kind.json{ext}", "is unknown"),
            ("{prefix}/{kind}.json{ext}", "needs {part}"),
            ("{kind}-{part}", "must end"),
            ("/{kind}-{part}.json{ext}", "relative path"),
            ("../{kind}-{part}.json{ext}", "relative path"),
        ] {
            let error = Template::new(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
