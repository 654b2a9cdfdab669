//! One broker of Apache Kafka as a child, and kcat: the unpacked ones of tests/run.sh ($GREYPIT_CACHE/parts); kcat else
//! from the PATH.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::net::free_port;

const WAIT: Duration = Duration::from_secs(120);

pub(crate) struct Broker {
    child: Child,
    /// `127.0.0.1:…`
    pub(crate) address: String,
    _folder: TempDir,
}

impl Broker {
    /// A new one, empty, that answers. A topic that nobody made has one partition.
    pub(crate) fn start() -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (clients, control) = (free_port(), free_port());
        let config = folder.path().join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{control}\n\
             listeners=PLAINTEXT://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{control}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{clients}\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={}\nnum.partitions=1\nauto.create.topics.enable=true\noffsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=4\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).expect("the config is written");
        let mut format = java();
        format.args(["kafka.tools.StorageTool", "format", "--cluster-id", "greypit-bench-kafka-00", "--config"]);
        let formatted = format.arg(&config).stdout(Stdio::null()).status().expect("java runs");
        assert!(formatted.success(), "the broker's folder is made");
        let log = fs::File::create(folder.path().join("log")).expect("the log is made");
        let mut command = java();
        command.arg("kafka.Kafka").arg(&config).stderr(log.try_clone().expect("a file")).stdout(log);
        let child = command.spawn().expect("java runs");
        let broker = Broker { child, address: format!("127.0.0.1:{clients}"), _folder: folder };
        let began = Instant::now();
        while TcpStream::connect(&broker.address).is_err() {
            assert!(began.elapsed() < WAIT, "Kafka does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        broker
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Where tests/run.sh keeps what it brought.
fn parts() -> Option<PathBuf> {
    std::env::var_os("GREYPIT_CACHE").map(|cache| Path::new(&cache).join("parts"))
}

fn java() -> Command {
    let jars = parts().map(|parts| parts.join("kafka")).filter(|jars| jars.exists());
    let jars = jars.expect("Kafka's jars: run tests/run.sh once and set GREYPIT_CACHE");
    let mut command = Command::new("java");
    command.args(["-Xshare:auto", "-Xms256m", "-Xmx512m", "-cp"]).arg(jars.join("*"));
    command
}

pub(crate) fn kcat() -> Command {
    let root = parts().map(|parts| parts.join("debian")).filter(|root| root.join("usr/bin/kcat").exists());
    match root {
        Some(root) => {
            let mut command = Command::new(root.join("usr/bin/kcat"));
            let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
            command.env("LD_LIBRARY_PATH", root.join(libraries));
            command
        }
        None => Command::new("kcat"),
    }
}
