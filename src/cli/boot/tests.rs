//! The command over machine files and a file of sessions as the daemon leaves it.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    boot: Boot,
}

struct Place {
    folder: tempfile::TempDir,
    config: Config,
}

const SESSIONS: &str = r#"{"version":1,"sessions":[
{"session":"525400123456-20261121T181502.000Z","mac":"52:54:00:12:34:56","addr":"10.0.0.7",
 "began":"2026-11-21T18:15:02Z","seen":"2026-11-21T18:16:30Z",
 "stages":[{"stage":"firmware","at":"2026-11-21T18:15:02Z","protocol":"dhcp"},
           {"stage":"loader","at":"2026-11-21T18:15:03.25Z","protocol":"tftp"},
           {"stage":"kernel","at":"2026-11-21T18:15:15.75Z"},
           {"stage":"syslog","at":"2026-11-21T18:16:20Z","protocol":"syslog"}]},
{"session":"525400aabbcc-20261121T181600.000Z","mac":"52:54:00:aa:bb:cc",
 "began":"2026-11-21T18:16:00Z","seen":"2026-11-21T18:16:00Z",
 "stages":[{"stage":"firmware","at":"2026-11-21T18:16:00Z","protocol":"dhcp"}],
 "error":{"at":"2026-11-21T18:16:00Z","problem":"no such file: \u001b[2J"}}
]}"#;

impl Place {
    fn new(sessions: Option<&str>) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: folder.path().join("data"), ..Config::default() };
        config.boot.dir = folder.path().join("machines");
        let place = Place { folder, config };
        for (ip, name, cards) in [
            ("10.0.0.7", "web1.example.org", "52:54:00:12:34:55\n52:54:00:12:34:56"),
            ("10.0.0.8", "db1", "52:54:00:12:34:58"),
        ] {
            place.put(&format!("machines/10.0.0.1/{ip}/hostname"), name);
            place.put(&format!("machines/10.0.0.1/{ip}/mac"), cards);
        }
        if let Some(text) = sessions {
            place.put("data/boot/sessions.json", text);
        }
        place
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Result<(u8, String), Stop> {
        let command = Command::try_parse_from([&["boot"], arguments].concat()).unwrap();
        let mut out = Vec::new();
        let code = command.boot.list(&self.config, &mut out)?;
        Ok((code, String::from_utf8(out).unwrap()))
    }
}

#[test]
fn a_table_of_all_that_have_files_or_were_seen() {
    let (code, out) = Place::new(Some(SESSIONS)).run(&[]).unwrap();
    let wanted = "\
MACHINE           MAC                ADDRESS   STARTED               STAGE     TOTAL  STAGES                                              LAST ERROR
-                 52:54:00:aa:bb:cc  -         2026-11-21T18:16:00Z  firmware  -      firmware                                            no such file: \\u{1b}[2J
web1.example.org  52:54:00:12:34:56  10.0.0.7  2026-11-21T18:15:02Z  syslog    1m18s  firmware 1.25s, loader 12.5s, kernel 1m04s, syslog
db1               52:54:00:12:34:58  10.0.0.8  never                 -         -
";
    assert_eq!((code, out.as_str()), (EXIT_DONE, wanted));
}

#[test]
fn one_object_a_machine() {
    let (_, out) = Place::new(Some(SESSIONS)).run(&["--json"]).unwrap();
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["error"]["problem"], "no such file: \u{1b}[2J");
    assert_eq!((rows[0].get("machine"), &rows[0]["mac"]), (None, &"52:54:00:aa:bb:cc".into()));
    assert_eq!((&rows[1]["machine"], &rows[1]["stage"]), (&"web1.example.org".into(), &"syslog".into()));
    assert_eq!((&rows[1]["total_s"], &rows[1]["stages"][1]["took_s"]), (&78.0.into(), &12.5.into()));
    assert_eq!(rows[1]["stages"][1]["protocol"], "tftp");
    let never = serde_json::json!({"machine": "db1", "mac": "52:54:00:12:34:58", "addr": "10.0.0.8", "session": null});
    assert_eq!(rows[2], never);
}

#[test]
fn machines_by_any_of_their_names() {
    let place = Place::new(Some(SESSIONS));
    for name in ["web1", "WEB1.example.org", "10.0.0.7", "52-54-00-12-34-55", "52:54:00:12:34:56"] {
        let (code, out) = place.run(&[name, "--json"]).unwrap();
        assert_eq!(code, EXIT_DONE, "{name}");
        assert!(out.contains("\"machine\":\"web1.example.org\"") && out.lines().count() == 1, "{name}: {out}");
    }
    let (code, out) = place.run(&["db1", "web", "--json"]).unwrap();
    assert_eq!((code, out.lines().count()), (EXIT_NO, 1), "web is nobody's name");
}

#[test]
fn without_a_daemon_without_files_and_with_bad_ones() {
    let place = Place::new(None);
    let (code, out) = place.run(&["--json"]).unwrap();
    assert_eq!((code, out.matches("\"session\":null").count()), (EXIT_DONE, 2));
    let nothing = Place { config: Config { data_dir: "/nowhere".into(), ..Config::default() }, ..Place::new(None) };
    assert_eq!(nothing.run(&[]).unwrap(), (EXIT_DONE, String::new()));
    let place = Place::new(Some(SESSIONS));
    place.put("machines/10.0.0.1/10.0.0.8/mac", "x");
    let (code, out) = place.run(&["--json"]).unwrap();
    assert_eq!((code, out.lines().count(), out.contains("machine")), (EXIT_DONE, 2, false));
    match Place::new(Some("{")).run(&[]) {
        Err(Stop::Say(line)) => assert!(line.contains("sessions.json"), "{line}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_changed_and_nothing_else() {
    let place = Place::new(Some(SESSIONS));
    let read = || rows(&known(&place.config.boot).unwrap(), &place.config.data_dir).unwrap();
    let mut before = HashMap::new();
    assert_eq!(changed(&read(), &mut before).len(), 3);
    assert_eq!(changed(&read(), &mut before), []);
    place.put("data/boot/sessions.json", &SESSIONS.replace("18:16:20Z", "18:16:21Z"));
    let changed = changed(&read(), &mut before);
    assert_eq!(changed.iter().map(|row| row.total_s).collect::<Vec<_>>(), [Some(79.0)]);
}

#[test]
fn times_for_people() {
    for (seconds, text) in
        [(0.0, "0.00s"), (9.994, "9.99s"), (12.34, "12.3s"), (59.9, "59.9s"), (125.0, "2m05s"), (3725.0, "1h02m")]
    {
        assert_eq!(short(seconds), text);
    }
}
