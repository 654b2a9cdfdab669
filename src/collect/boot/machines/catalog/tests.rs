//! Files that change under a catalog that watches.

use std::fs;
use std::os::unix::fs::symlink;

use greypit_pipeline::health::State;

use super::super::load::testing::Files;
use super::*;
use crate::collect::boot::net::testing::networks;

/// Longer than any machine that runs these tests needs.
const LIMIT: Duration = Duration::from_secs(120);
/// No look but those that the watcher asks for.
const NEVER: Duration = Duration::from_secs(3600);

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

struct Watched {
    catalog: Catalog,
    health: Health,
    registry: Registry,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Watched {
    fn new(dir: &Path, poll: Duration) -> Watched {
        let catalog = Catalog::open(dir, &networks("")).unwrap();
        let (health, registry, stop) = (Health::new(), Registry::new(), CancellationToken::new());
        let task = catalog.watch_every(poll, &health, Metrics::new(&registry).unwrap(), stop.clone());
        Watched { catalog, health, registry, stop, task }
    }

    async fn until(&self, what: &str, reached: impl Fn(&Watched) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !reached(self) {
            assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_machines(&self, many: usize) {
        self.until(&format!("{many} machines"), |watched| watched.catalog.current().len() == many).await;
    }

    fn name_of(&self, last: u8) -> Option<String> {
        let machines = self.catalog.current();
        machines.by_ip(SERVER, [10, 77, 0, last].into()).map(|machine| machine.hostname.clone())
    }

    /// What the board says of the files.
    fn limited(&self) -> Option<String> {
        match self.health.parts().remove(PART) {
            Some(State::Limited { reason, .. }) => Some(reason),
            Some(State::Ok) => None,
            state => panic!("{state:?}"),
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let family = self.registry.gather().into_iter().find(|family| family.name() == name).unwrap();
        family.get_metric().iter().map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
    }

    fn looks(&self) -> usize {
        self.metric("greypit_boot_machine_reloads_total") as usize
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn put(files: &Files, last: u8, name: &str) {
    files.put(&format!("10.77.0.1/10.77.0.{last}/mac"), &format!("52:54:00:12:34:{last:02x}"));
    files.put(&format!("10.77.0.1/10.77.0.{last}/hostname"), name);
}

#[test]
fn a_bad_file_at_the_start_is_an_error_of_the_config() {
    let files = Files::new(&[("10.77.0.1/10.77.0.7/mac", "x")]);
    let error = Catalog::open(files.0.path(), &networks("")).unwrap_err();
    assert!(matches!(error, Error::Config { .. }));
    let wanted = format!("boot.dir: {}/10.77.0.1/10.77.0.7/hostname: is missing", files.0.path().display());
    assert!(error.to_string().starts_with(&wanted), "{error}");
    let nowhere = files.0.path().join("nowhere");
    let error = Catalog::open(&nowhere, &networks("")).unwrap_err().to_string();
    assert!(error.starts_with(&format!("boot.dir: {}: is missing", nowhere.display())), "{error}");
}

#[tokio::test]
async fn a_change_takes_effect_and_a_mistake_does_not() {
    let files = Files::new(&[]);
    let dir = files.0.path().join("10.77.0.1");
    put(&files, 7, "web1");
    let watched = Watched::new(files.0.path(), NEVER);
    assert_eq!((watched.catalog.current().len(), watched.limited()), (1, None));
    // A new folder, whose files are written later.
    put(&files, 8, "web2");
    watched.until_machines(2).await;
    files.put("10.77.0.1/10.77.0.8/hostname", "web-2");
    watched.until("another name", |watched| watched.name_of(8).as_deref() == Some("web-2")).await;
    files.put("10.77.0.1/10.77.0.8/mac", "52:54:00");
    // A look may find the file while it is written: then another mistake is said before.
    let wanted = format!("{}/10.77.0.8/mac: '52:54:00' is no MAC address", dir.display());
    watched.until(&wanted, |watched| watched.limited().is_some_and(|said| said.starts_with(&wanted))).await;
    assert!(watched.health.is_ready(), "the rest works");
    assert_eq!(watched.name_of(8).as_deref(), Some("web-2"), "the last good state holds");
    assert_eq!(watched.metric("greypit_boot_machines_stale"), 1.0);
    fs::remove_dir_all(dir.join("10.77.0.8")).unwrap();
    watched.until_machines(1).await;
    watched.until("well again", |watched| watched.limited().is_none()).await;
    assert_eq!(watched.metric("greypit_boot_machines"), 1.0);
    assert_eq!(watched.metric("greypit_boot_machines_stale"), 0.0);
    watched.end().await;
}

#[tokio::test]
async fn a_folder_that_goes_changes_nothing_and_one_that_comes_back_does() {
    let files = Files::new(&[]);
    put(&files, 7, "web1");
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("machines");
    symlink(files.0.path(), &dir).unwrap();
    let watched = Watched::new(&dir, NEVER);
    fs::remove_file(&dir).unwrap();
    watched.until("that it is missing", |watched| watched.limited().is_some()).await;
    assert!(watched.limited().unwrap().contains("machines: is missing"), "{:?}", watched.limited());
    assert_eq!(watched.name_of(7).as_deref(), Some("web1"), "the last good state holds");
    fs::create_dir_all(dir.join("10.77.0.1/10.77.0.9")).unwrap();
    fs::write(dir.join("10.77.0.1/10.77.0.9/mac"), "52:54:00:12:34:09").unwrap();
    fs::write(dir.join("10.77.0.1/10.77.0.9/hostname"), "web9").unwrap();
    watched.until("the other folder", |watched| watched.name_of(9).as_deref() == Some("web9")).await;
    watched.until_machines(1).await;
    assert_eq!(watched.limited(), None);
    watched.end().await;
}

#[tokio::test]
async fn a_mount_point_that_is_left_empty_changes_nothing() {
    let (files, empty) = (Files::new(&[]), tempfile::tempdir().unwrap());
    put(&files, 7, "web1");
    put(&files, 8, "web2");
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("machines");
    symlink(files.0.path(), &dir).unwrap();
    let watched = Watched::new(&dir, NEVER);
    fs::remove_dir_all(files.0.path().join("10.77.0.1/10.77.0.8")).unwrap();
    watched.until_machines(1).await;
    let next = place.path().join("next");
    symlink(empty.path(), &next).unwrap();
    fs::rename(&next, &dir).unwrap();
    watched.until("that it is empty", |watched| watched.limited().is_some()).await;
    assert!(watched.limited().unwrap().contains("nothing in it any more"), "{:?}", watched.limited());
    assert_eq!(watched.name_of(7).as_deref(), Some("web1"), "the last good state holds");
    // A server without machines is meant so.
    fs::create_dir(empty.path().join("10.77.0.1")).unwrap();
    watched.until_machines(0).await;
    watched.until("well again", |watched| watched.limited().is_none()).await;
    watched.end().await;
}

/// A link that is renamed over the old one, and then a change in the new tree.
async fn exchange(dir: &Path, link: &Path, trees: [&Files; 2]) {
    let watched = Watched::new(dir, NEVER);
    assert_eq!(watched.name_of(7).as_deref(), Some("old"));
    let next = link.with_file_name("..next");
    symlink(trees[1].0.path(), &next).unwrap();
    fs::rename(&next, link).unwrap();
    watched.until("the new tree", |watched| watched.name_of(7).as_deref() == Some("new")).await;
    trees[1].put("10.77.0.1/10.77.0.7/hostname", "newer");
    watched.until("a change in it", |watched| watched.name_of(7).as_deref() == Some("newer")).await;
    watched.end().await;
}

#[tokio::test]
async fn a_link_to_the_folder_may_be_exchanged() {
    let trees = [Files::new(&[]), Files::new(&[])];
    put(&trees[0], 7, "old");
    put(&trees[1], 7, "new");
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("current");
    symlink(trees[0].0.path(), &link).unwrap();
    exchange(&link, &link, [&trees[0], &trees[1]]).await;
}

#[tokio::test]
async fn so_may_one_inside_it() {
    // As Kubernetes lays out a ConfigMap: what is read is behind a link that is exchanged.
    let trees = [Files::new(&[]), Files::new(&[])];
    put(&trees[0], 7, "old");
    put(&trees[1], 7, "new");
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("..data");
    symlink(trees[0].0.path(), &link).unwrap();
    symlink("..data/10.77.0.1", place.path().join("10.77.0.1")).unwrap();
    exchange(place.path(), &link, [&trees[0], &trees[1]]).await;
}

#[tokio::test]
async fn what_no_watcher_tells_is_found_by_looking() {
    // The file is behind a link, in a folder that is not watched.
    let (files, elsewhere) = (Files::new(&[]), Files::new(&[("name", "web1")]));
    files.put("10.77.0.1/10.77.0.7/mac", "52:54:00:12:34:56");
    symlink(elsewhere.0.path().join("name"), files.0.path().join("10.77.0.1/10.77.0.7/hostname")).unwrap();
    let watched = Watched::new(files.0.path(), Duration::from_millis(20));
    elsewhere.put("name", "web2");
    watched.until("the change", |watched| watched.name_of(7).as_deref() == Some("web2")).await;
    watched.end().await;
}

#[tokio::test]
async fn many_files_at_once_are_few_looks() {
    let files = Files::new(&[]);
    put(&files, 2, "web2");
    let watched = Watched::new(files.0.path(), NEVER);
    // One is seen first, so that the watcher is there.
    put(&files, 3, "web3");
    watched.until_machines(2).await;
    let (before, began) = (watched.looks(), Instant::now());
    for last in 4..204 {
        put(&files, last, &format!("web{last}"));
        // As slowly as a checkout over a network.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    watched.until_machines(202).await;
    // Before each it was quiet; writing one takes far less.
    let most = began.elapsed().div_duration_f64(QUIET) as usize + 2;
    let looks = watched.looks() - before;
    assert!(looks <= most, "{looks} looks, of at most {most}");
    watched.end().await;
}
