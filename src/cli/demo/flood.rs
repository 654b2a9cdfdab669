//! The demo's flood: plays a mail server one of whose clients sends message after message over one connection.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Past the limit, so that an answer at once, and two that wait, are seen.
const PAST_THE_LIMIT: u32 = 3;

/// Answers to the messages that were refused: the how-many-th, after how long, what.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) passed: u32,
    pub(super) refused: Vec<(u32, Duration, String)>,
}

impl Outcome {
    /// What a person reads.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let passed: RangeInclusive<u32> = 1..=self.passed;
        let first = format!("  messages {} to {} passed", passed.start(), passed.end());
        let refused = self.refused.iter().map(|(number, after, answer)| {
            format!("  message {number} was refused after {:.1} s: {answer}", after.as_secs_f64())
        });
        std::iter::once(first).chain(refused)
    }
}

/// Sends `limit` messages and a few more.
pub(super) async fn play(socket: &str, limit: u32) -> Result<Outcome, String> {
    send(socket, limit).await.map_err(|error| format!("milter {socket}: {error}"))
}

async fn send(socket: &str, limit: u32) -> std::io::Result<Outcome> {
    let mut server = Server(UnixStream::connect(socket).await?);
    server.say(b'O', &[&[0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255]]).await?;
    server.answer().await?;
    server.say(b'D', &[b"Cj\0mx1.example.org\0v\08.17.1\0{client_resolve}\0OK\0"]).await?;
    server.say(b'C', &[b"bulk.example.com\x004\x01\xbb192.0.2.7\0"]).await?;
    server.say(b'H', &[b"bulk.example.com\0"]).await?;
    let mut outcome = Outcome { passed: 0, refused: Vec::new() };
    for number in 1..=limit + PAST_THE_LIMIT {
        server.say(b'D', &[b"Mi\0", format!("5AKDemo{number:06}").as_bytes(), b"\0"]).await?;
        let asked = Instant::now();
        server.say(b'M', &[b"<offers@example.com>\0"]).await?;
        let answer = server.answer().await?;
        if answer.first() == Some(&b'y') {
            let text = String::from_utf8_lossy(&answer[1..]).trim_end_matches('\0').to_owned();
            outcome.refused.push((number, asked.elapsed(), text));
            continue;
        }
        server.say(b'R', &[format!("<user{number}@example.net>\0").as_bytes()]).await?;
        server.say(b'E', &[]).await?;
        server.answer().await?;
        outcome.passed += 1;
    }
    server.say(b'Q', &[]).await?;
    Ok(outcome)
}

/// A mail server's side of the milter protocol, as far as the demo needs it.
struct Server(UnixStream);

impl Server {
    async fn say(&mut self, command: u8, data: &[&[u8]]) -> std::io::Result<()> {
        let data = data.concat();
        let mut packet = (data.len() as u32 + 1).to_be_bytes().to_vec();
        packet.push(command);
        packet.extend_from_slice(&data);
        self.0.write_all(&packet).await
    }

    async fn answer(&mut self) -> std::io::Result<Vec<u8>> {
        let length = self.0.read_u32().await?;
        let mut answer = vec![0; length as usize];
        self.0.read_exact(&mut answer).await?;
        Ok(answer)
    }
}
