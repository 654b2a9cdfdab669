//! greypit is killed (`kill -9`) again and again, at random moments and at
//! chosen ones, while it follows a log that grows and is rotated. In the end
//! the store must hold exactly the records of the log.
//!
//! `GREYPIT_KILLS` says how many times (default 240, half of them with a
//! directory as the store, half with S3; kills behind a proxy that breaks
//! uploads, and those with the S3 server down, come on top). `GREYPIT_KILL_SEED` repeats the choices of a run;
//! the machine's own timing it cannot repeat.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use support::greypit::Greypit;
use support::maillog::{Records, Rotation, Writer, differences, identity};
use support::proxy::{FaultProxy, Mode};
use support::random::{Random, seed};
use support::s3::S3Server;
use support::watch::{Change, Watch};
use support::{WAIT, wait_for, wait_up_to};

/// A moment that is waited for comes within this time after the start, or the kill does.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often every phase must be hit.
const HITS_MIN: u64 = 3;
/// More kills than asked for, until it was.
const MORE_MAX: u64 = 400;
/// What was written this recently is still being fsynced, or followed by what
/// comes next.
const JUST_NOW: Duration = Duration::from_millis(25);

#[test]
fn a_directory_holds_every_record_once() {
    let seed = seed("GREYPIT_KILL_SEED");
    println!("GREYPIT_KILL_SEED={seed}");
    let mut run = Run::new("dir", seed, Rotation::Dates);
    let objects = run.greypit.objects();
    run.begin();
    for _ in 0..kills() / 2 {
        let moment = run.random_moment();
        run.life(&objects, None, moment);
    }
    run.more(|run, moment| run.life(&objects, None, moment));
    run.finish();
}

#[test]
fn s3_holds_every_record_once() {
    let seed = seed("GREYPIT_KILL_SEED");
    println!("GREYPIT_KILL_SEED={seed}");
    let mut server = S3Server::start();
    let proxy = FaultProxy::start(server.addr());
    let mut run = Run::new("s3", seed, Rotation::Numbers);
    run.greypit.env(server.env());
    run.greypit.set("store.url", format!("s3://{}/archive", S3Server::BUCKET));
    run.greypit.set("store.path_style", true);
    let bucket = server.bucket();
    let endpoint = server.endpoint();
    let life = |run: &mut Run, moment: Moment| {
        // The server's temporary files have no name; the proxy sees uploads.
        let looker_on = matches!(moment, Moment::At(Sight::UploadBegun, ..)).then_some(&proxy);
        if looker_on.is_some() {
            proxy.set(Mode::Pass);
            run.greypit.set("store.endpoint", proxy.endpoint());
        }
        run.life(&bucket, looker_on, moment);
        run.greypit.set("store.endpoint", endpoint.clone());
    };
    let (mut behind_proxy, mut server_kills) = (0, 0);
    run.greypit.set("store.endpoint", endpoint.clone());
    run.begin();
    for number in 0..kills() / 2 {
        if number % 8 == 5 {
            server_kills += 1;
            run.life_with_server_killed(&bucket, &mut server);
        } else {
            let moment = run.random_moment();
            life(&mut run, moment);
        }
        if number % 3 == 2 {
            behind_proxy += 1;
            run.greypit.set("store.endpoint", proxy.endpoint());
            run.life_behind(&bucket, &proxy);
            run.greypit.set("store.endpoint", endpoint.clone());
        }
    }
    run.more(life);
    let faults = proxy.counts();
    run.notes = format!(
        ", {behind_proxy} of them behind a proxy that met {} uploads with faults ({} successes lost), \
         {server_kills} kills of the S3 server",
        faults.faults, faults.successes_lost
    );
    run.finish();
}

/// Kills altogether.
fn kills() -> u64 {
    std::env::var("GREYPIT_KILLS").map_or(240, |text| text.parse().expect("GREYPIT_KILLS is a number"))
}

/// Where a kill fell: by the last durable step before it, and, since records
/// arrive at any time, in `Spool` besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Not running yet: recovery.
    Start,
    /// Records had just been written to the spool.
    Spool,
    /// A batch was cut, its upload had not begun.
    CutToUpload,
    /// An upload was under way.
    Upload,
    /// An object was in the store, and the ledger did not say so.
    StoredToDone,
    /// The ledger had just said so: segments are being deleted.
    DoneToDelete,
    /// Nothing was being shipped.
    Waiting,
}

impl Phase {
    /// Those that must be hit.
    const ALL: [Self; 6] =
        [Self::Start, Self::Spool, Self::CutToUpload, Self::Upload, Self::StoredToDone, Self::DoneToDelete];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Start => "starting",
            Self::Spool => "spool",
            Self::CutToUpload => "CUT to upload",
            Self::Upload => "upload",
            Self::StoredToDone => "stored to DONE",
            Self::DoneToDelete => "DONE to delete",
            Self::Waiting => "nothing to ship",
        })
    }
}

/// Something to wait for before a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Records written to a segment, not yet fsynced.
    SegmentWritten,
    SegmentMade,
    SegmentGone,
    /// CUT or DONE written, not yet fsynced.
    LedgerWritten,
    /// A temporary file in the store.
    UploadBegun,
    ObjectStored,
}

/// When to kill.
#[derive(Debug, Clone, Copy)]
enum Moment {
    After(Duration),
    /// At the sight for this time, and a little later.
    At(Sight, u64, Duration),
}

/// One greypit, its log, and what became of it so far.
struct Run {
    name: &'static str,
    seed: u64,
    began: Instant,
    random: Random,
    greypit: Greypit,
    log: PathBuf,
    rotation: Rotation,
    /// From the beginning to the end.
    writer: Option<Writer>,
    kills: u64,
    /// A kill may fall into two.
    phases: BTreeMap<Phase, u64>,
    /// Kills that left cuts open.
    left_open: u64,
    /// Objects that were seen to appear.
    objects: HashSet<PathBuf>,
    notes: String,
}

impl Run {
    fn new(name: &'static str, seed: u64, rotation: Rotation) -> Self {
        let mut greypit = Greypit::new(&format!("kill-{name}"));
        let log = greypit.folder().join("log.d/maillog");
        std::fs::create_dir(greypit.folder().join("log.d")).expect("a folder of ours");
        greypit.follow(&log);
        greypit.set("batch.window", "1s");
        greypit.set("batch.max_bytes", "64KiB");
        greypit.set("batch.drain_timeout", "1m");
        greypit.set("spool.segment_bytes", "64KiB");
        let (began, phases) = (Instant::now(), BTreeMap::new());
        Self {
            name,
            seed,
            began,
            random: Random::new(seed),
            greypit,
            log,
            rotation,
            writer: None,
            kills: 0,
            phases,
            left_open: 0,
            objects: HashSet::new(),
            notes: String::new(),
        }
    }

    /// The log begins, and greypit has seen that: what was rotated before it ever ran is not its affair.
    fn begin(&mut self) {
        File::create(&self.log).expect("a folder of ours");
        self.greypit.start();
        wait_for("greypit to follow the log", || (self.greypit.metric("greypit_maillog_files")? > 0.0).then_some(()));
        self.writer = Some(Writer::start(self.log.clone(), self.rotation, self.random.split()));
        wait_for("the first durable record", || {
            (self.greypit.metric("greypit_spool_events_total")? > 0.0).then_some(())
        });
        self.greypit.kill();
    }

    /// Half of the kills come at any time, half as soon as something is seen.
    fn random_moment(&mut self) -> Moment {
        let random = &mut self.random;
        match random.within(0..100) {
            0..15 => return Moment::After(random.millis(0..80)),
            15..50 => return Moment::After(random.millis(0..800)),
            _ => {}
        }
        let sights = [
            Sight::SegmentWritten,
            Sight::SegmentMade,
            Sight::SegmentGone,
            Sight::LedgerWritten,
            Sight::LedgerWritten,
            Sight::UploadBegun,
            Sight::UploadBegun,
            Sight::ObjectStored,
            Sight::ObjectStored,
        ];
        let later = if random.chance(70) { 0 } else { random.within(0..3000) };
        Moment::At(*random.pick(&sights), random.within(1..5), Duration::from_micros(later))
    }

    /// More kills, aimed at the phases that were hardly ever hit.
    fn more(&mut self, mut life: impl FnMut(&mut Self, Moment)) {
        for _ in 0..MORE_MAX {
            let rare: Vec<_> = Phase::ALL.into_iter().filter(|phase| hits(&self.phases, *phase) < HITS_MIN).collect();
            if rare.is_empty() {
                return;
            }
            let at = |sight| Moment::At(sight, 1, Duration::ZERO);
            let moment = match self.random.pick(&rare) {
                Phase::Start => Moment::After(self.random.millis(0..60)),
                Phase::Spool => Moment::At(Sight::SegmentWritten, 5, Duration::ZERO),
                Phase::CutToUpload => at(Sight::LedgerWritten),
                Phase::Upload => at(Sight::UploadBegun),
                Phase::StoredToDone => at(Sight::ObjectStored),
                Phase::DoneToDelete | Phase::Waiting => at(Sight::SegmentGone),
            };
            life(self, moment);
        }
    }

    /// Starts greypit with another config, and kills it.
    fn life(&mut self, objects: &Path, proxy: Option<&FaultProxy>, moment: Moment) {
        let mut life = self.start(objects, proxy);
        life.wait(&mut self.greypit, moment);
        self.kill(life);
    }

    /// The same, and uploads meet a fault.
    fn life_behind(&mut self, objects: &Path, proxy: &FaultProxy) {
        let random = &mut self.random;
        let cut_after = random.within(0..40_000) as usize;
        let (mode, moment) = match random.within(0..6) {
            // One object takes longer than the life: the kill meets it halfway.
            0 | 1 => (Mode::Slow(16_000), Moment::At(Sight::UploadBegun, 1, random.millis(0..300))),
            2 => (Mode::LoseAnswer, Moment::At(Sight::ObjectStored, random.within(1..4), random.millis(0..50))),
            3 => (Mode::ChangeAnswer(*random.pick(&[500, 503, 409])), Moment::After(random.millis(300..900))),
            4 => (Mode::CutUploadAfter(cut_after), Moment::After(random.millis(300..900))),
            _ => (Mode::Hang, Moment::At(Sight::UploadBegun, random.within(1..3), random.millis(0..50))),
        };
        proxy.set_uploads(mode);
        self.life(objects, Some(proxy), moment);
        proxy.cut_all();
    }

    /// The S3 server is killed too, and comes back while greypit runs or
    /// after it was killed.
    fn life_with_server_killed(&mut self, objects: &Path, server: &mut S3Server) {
        let mut life = self.start(objects, None);
        let sight = *self.random.pick(&[Sight::LedgerWritten, Sight::ObjectStored]);
        life.wait(&mut self.greypit, Moment::At(sight, self.random.within(1..4), Duration::ZERO));
        server.kill();
        std::thread::sleep(self.random.millis(0..150));
        if self.random.chance(50) {
            server.start_again();
            std::thread::sleep(self.random.millis(0..600));
        }
        self.kill(life);
        // Still away at every other next start.
        if self.random.chance(50) {
            server.start_again();
        } else {
            let mut life = self.start(objects, None);
            life.wait(&mut self.greypit, Moment::After(self.random.millis(100..400)));
            server.start_again();
            life.wait(&mut self.greypit, Moment::After(self.random.millis(0..500)));
            self.kill(life);
        }
    }

    fn start<'p>(&mut self, objects: &Path, proxy: Option<&'p FaultProxy>) -> Life<'p> {
        let random = &mut self.random;
        self.greypit.set("batch.workers", *random.pick(&[1, 2, 4]));
        self.greypit.set("batch.codec", *random.pick(&["none", "zstd", "bzip2"]));
        self.greypit.set("spool.sync", *random.pick(&["each", "10ms", "50ms"]));
        if random.chance(8) {
            // Time to write, and to rotate more than once.
            std::thread::sleep(random.millis(300..1500));
        }
        let life = Life::new(&self.greypit, objects, proxy);
        self.greypit.spawn();
        life
    }

    fn kill(&mut self, mut life: Life<'_>) {
        self.greypit.assert_alive();
        let killed = SystemTime::now();
        self.greypit.kill();
        life.look();
        self.kills += 1;
        let spool = life.just_spooled(killed).then_some(Phase::Spool);
        for phase in [life.phase(&self.greypit, killed)].into_iter().chain(spool) {
            *self.phases.entry(phase).or_default() += 1;
        }
        self.left_open += u64::from(!Ledger::read(&self.greypit.spool()).open.is_empty());
        for object in life.objects_stored {
            assert!(self.objects.insert(object.clone()), "stored twice: {}", object.display());
        }
    }

    /// Lets greypit come to the end of the log, and compares.
    fn finish(mut self) {
        let greypit = &mut self.greypit;
        let written = self.writer.take().expect("it has begun").stop();
        greypit.start();
        wait_up_to(Duration::from_secs(600), "greypit to read the log to its end", || {
            greypit.assert_alive();
            // In this order: before it has looked at a file there is no lag either.
            let caught_up = greypit.metric("greypit_maillog_files").is_some_and(|files| files > 0.0)
                && greypit.metric("greypit_maillog_lag_bytes") == Some(0.0);
            caught_up.then_some(())
        });
        greypit.terminate();
        let (verdict, complaints) = greypit.verify();
        let mut found = Records::new();
        greypit.cat(|line| {
            let record = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            *found.entry(identity(&record)).or_default() += 1;
        });

        let mut report = format!(
            "kill {}: {} kills{}, {} with cuts left open; {} lines, {} rotations, {} records in {} objects, \
             lost={} repeated={}; {:.0} s, GREYPIT_KILL_SEED={}\n",
            self.name,
            self.kills,
            self.notes,
            self.left_open,
            written.lines,
            written.rotations,
            verdict.records,
            verdict.objects,
            verdict.lost,
            verdict.repeated,
            self.began.elapsed().as_secs_f64(),
            self.seed,
        );
        for phase in Phase::ALL.into_iter().chain([Phase::Waiting]) {
            report += &format!("  {phase:<15} {:>5}\n", hits(&self.phases, phase));
        }
        // Not by a macro: the figures are to be seen where all is well, too.
        std::io::stderr().write_all(report.as_bytes()).expect("stderr");

        let differences = differences(&written.records, &found);
        assert!(differences.is_empty(), "log and store differ:\n{}", differences.join("\n"));
        assert_eq!((verdict.lost, verdict.repeated, verdict.broken), (0, 0, 0), "{complaints}");
        assert_eq!(verdict.records, written.records.values().sum::<u64>());
        let rare = Phase::ALL.into_iter().any(|phase| hits(&self.phases, phase) < HITS_MIN);
        assert!(!rare, "kills that met a phase less than {HITS_MIN} times: {:?}", self.phases);
    }
}

fn hits(phases: &BTreeMap<Phase, u64>, phase: Phase) -> u64 {
    *phases.get(&phase).unwrap_or(&0)
}

/// By the clock of the file system, which may be a tick ahead.
fn is_just_before(written: SystemTime, killed: SystemTime) -> bool {
    killed.duration_since(written).unwrap_or_default() <= JUST_NOW
}

/// What is seen of one life of greypit.
struct Life<'p> {
    began: SystemTime,
    objects: PathBuf,
    spool: PathBuf,
    watch: Watch,
    proxy: Option<&'p FaultProxy>,
    uploads_before: usize,
    log_before: usize,
    ledger_before: Ledger,
    uploads_begun: usize,
    objects_stored: Vec<PathBuf>,
}

impl<'p> Life<'p> {
    fn new(greypit: &Greypit, objects: &Path, proxy: Option<&'p FaultProxy>) -> Self {
        let mut watch = Watch::new();
        watch.add(&greypit.spool());
        watch.add(objects);
        Self {
            began: SystemTime::now(),
            objects: objects.to_owned(),
            spool: greypit.spool(),
            watch,
            proxy,
            uploads_before: proxy.map_or(0, |proxy| proxy.counts().uploads),
            log_before: greypit.log().len(),
            ledger_before: Ledger::read(&greypit.spool()),
            uploads_begun: 0,
            objects_stored: Vec::new(),
        }
    }

    /// Returns when it is time.
    fn wait(&mut self, greypit: &mut Greypit, moment: Moment) {
        let mut began = Instant::now();
        // On a slow machine the start takes longer than anything that is waited for then.
        let (mut limit, wanted, mut times, later) = match moment {
            Moment::After(delay) => (delay, None, 0, Duration::ZERO),
            Moment::At(sight, times, later) => (WAIT, Some(sight), times, later),
        };
        loop {
            let seen = self.look();
            times -= times.min(seen.iter().filter(|sight| Some(**sight) == wanted).count() as u64);
            if wanted.is_some() && times == 0 {
                return std::thread::sleep(later);
            }
            if wanted.is_some() && limit > PATIENCE && self.runs(greypit) {
                (began, limit) = (Instant::now(), PATIENCE);
            }
            if began.elapsed() >= limit {
                return;
            }
            greypit.assert_alive();
            std::thread::sleep(Duration::from_micros(200).min(limit));
        }
    }

    /// What has happened since the last look.
    fn look(&mut self) -> Vec<Sight> {
        let mut seen = Vec::new();
        for (path, change) in self.watch.changes() {
            let sight = self.sight(&path, change);
            seen.extend(sight);
            if sight == Some(Sight::ObjectStored) {
                self.objects_stored.push(path);
            }
        }
        if let Some(proxy) = self.proxy {
            let uploads = proxy.counts().uploads - self.uploads_before;
            seen.extend((self.uploads_begun..uploads).map(|_| Sight::UploadBegun));
            self.uploads_begun = uploads;
        }
        seen
    }

    fn sight(&self, path: &Path, change: Change) -> Option<Sight> {
        let name = path.file_name()?.to_str()?;
        if path.starts_with(&self.spool) {
            return match (name, change) {
                ("ledger", Change::Written) => Some(Sight::LedgerWritten),
                (_, Change::Written) if name.ends_with(".seg") => Some(Sight::SegmentWritten),
                (_, Change::Made) if name.ends_with(".seg") => Some(Sight::SegmentMade),
                (_, Change::Gone) if name.ends_with(".seg") => Some(Sight::SegmentGone),
                _ => None,
            };
        }
        let hidden = path.strip_prefix(&self.objects).ok()?.iter().any(|part| part.as_encoded_bytes()[0] == b'.');
        match change {
            Change::Made if !hidden => Some(Sight::ObjectStored),
            Change::Made if name.ends_with(".tmp") => Some(Sight::UploadBegun),
            Change::Written | Change::Gone if !hidden => panic!("{change:?} in the store: {}", path.display()),
            _ => None,
        }
    }

    /// Whether it has started, as its log says.
    fn runs(&self, greypit: &Greypit) -> bool {
        let mut log = File::open(greypit.folder().join("log")).expect("the daemon's log file");
        log.seek(SeekFrom::Start(self.log_before as u64)).expect("the daemon's log file");
        let mut said = Vec::new();
        log.read_to_end(&mut said).expect("the daemon's log file");
        String::from_utf8_lossy(&said).contains("greypit runs")
    }

    /// Where it was killed, as the files tell.
    fn phase(&self, greypit: &Greypit, killed: SystemTime) -> Phase {
        let ledger = Ledger::read(&self.spool);
        let changed = ledger.generation > self.ledger_before.generation;
        let objects: Vec<_> = ledger.open.values().map(|key| self.path_of(key)).collect();
        if objects.iter().any(|object| self.is_new(object)) {
            return Phase::StoredToDone;
        }
        let temporary = |object: &Path| {
            let name = object.file_name().expect("a key has a name").to_string_lossy();
            object.with_file_name(format!(".{name}.tmp"))
        };
        // Only counted where the proxy looks on.
        let under_way = self.uploads_begun > self.objects_stored.len();
        if objects.iter().any(|object| self.is_new(&temporary(object)) || (under_way && !object.exists())) {
            return Phase::Upload;
        }
        let runs = self.runs(greypit);
        if changed && ledger.last_was_done {
            let ledger = std::fs::metadata(self.spool.join("ledger")).and_then(|file| file.modified());
            if ledger.is_ok_and(|written| is_just_before(written, killed)) {
                return Phase::DoneToDelete;
            }
        }
        match (ledger.open.is_empty(), runs) {
            (false, _) if changed || runs => Phase::CutToUpload,
            (_, false) => Phase::Start,
            _ => Phase::Waiting,
        }
    }

    /// Whether records had been written to the spool the moment before.
    fn just_spooled(&self, killed: SystemTime) -> bool {
        let files = std::fs::read_dir(&self.spool).into_iter().flatten().flatten().map(|entry| entry.path());
        let newest = files.filter(|path| path.extension().is_some_and(|ending| ending == "seg")).max();
        let Some(Ok(newest)) = newest.map(std::fs::metadata) else { return false };
        let Ok(written) = newest.modified() else { return false };
        // A segment's head is written as it is made, records later.
        let has_records = newest.created().map_or(true, |made| written > made + Duration::from_millis(10));
        has_records && is_just_before(written, killed)
    }

    /// The store has the keys in a folder of the same names, S3 below a prefix.
    fn path_of(&self, key: &str) -> PathBuf {
        let below = self.objects.join("archive");
        if below.is_dir() { below.join(key) } else { self.objects.join(key) }
    }

    fn is_new(&self, path: &Path) -> bool {
        // The clock of the file system may be a tick behind.
        let began = self.began - Duration::from_millis(10);
        std::fs::metadata(path).and_then(|file| file.modified()).is_ok_and(|written| written >= began)
    }
}

/// What the ledger says while nobody writes to it.
#[derive(Debug, Default)]
struct Ledger {
    generation: u64,
    /// The keys of cuts that are not done, by kind and first number.
    open: BTreeMap<String, String>,
    /// Whether the last change was a DONE.
    last_was_done: bool,
}

impl Ledger {
    fn read(spool: &Path) -> Self {
        let bytes = std::fs::read(spool.join("ledger")).unwrap_or_default();
        let (even, odd) = bytes.split_at(bytes.len() / 2);
        let mut slots: Vec<_> = [even, odd].into_iter().filter_map(Self::slot).collect();
        slots.sort_by_key(|(generation, _)| *generation);
        let Some((generation, open)) = slots.pop() else { return Self::default() };
        let before = slots.pop().map(|(_, open)| open).unwrap_or_default();
        let last_was_done = before.keys().any(|cut| !open.contains_key(cut));
        Self { generation, open, last_was_done }
    }

    fn slot(slot: &[u8]) -> Option<(u64, BTreeMap<String, String>)> {
        let (head, rest) = slot.split_at_checked(24)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let state = rest.get(..number(16) as usize)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head[8..20]);
        checksum.update(state);
        if checksum.finalize() != number(20) {
            return None;
        }
        let state: serde_json::Value = serde_json::from_slice(state).ok()?;
        let mut open = BTreeMap::new();
        for (kind, state) in state["kinds"].as_object()? {
            for (first, cut) in state["open"].as_object()? {
                open.insert(format!("{kind} {first}"), cut["key"].as_str()?.to_owned());
            }
        }
        Some((u64::from(number(8)) | u64::from(number(12)) << 32, open))
    }
}
