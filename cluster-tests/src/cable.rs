//! A cable that loses and delays what it carries. In user space, for kernels without `netem`.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use rand::Rng;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Longest frame: that of Ethernet, and some.
const FRAME_BYTES_MAX: usize = 2_048;

/// What a cable does to frames, each way.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// How many of a thousand are lost.
    pub lost_permille: u32,
    /// Each takes between none and this; so they overtake each other.
    pub delay_max: Duration,
}

/// A frame on its way, in the order they are due.
type OnItsWay = Reverse<(Instant, u64, Vec<u8>)>;

/// Lays a cable between interfaces it makes in two network namespaces, each given by its name and
/// the interface's. It lasts as long as the namespaces.
pub fn lay(ends: [(&str, &str); 2], quality: Quality) {
    let [one, other] = ends.map(|(netns, name)| Arc::new(end(netns, name)));
    for (from, to) in [(one.clone(), other.clone()), (other, one)] {
        let (sender, frames) = channel();
        thread::spawn(move || deliver(&frames, &to));
        thread::spawn(move || {
            let (mut bytes, mut rng) = ([0; FRAME_BYTES_MAX], rand::rng());
            let mut number = 0;
            // Ends with the namespace.
            while let Ok(length) = from.recv(&mut bytes) {
                if rng.random_ratio(quality.lost_permille, 1_000) {
                    continue;
                }
                let due = Instant::now() + quality.delay_max.mul_f64(rng.random());
                number += 1;
                if sender.send(Reverse((due, number, bytes[..length].to_vec()))).is_err() {
                    return;
                }
            }
        });
    }
}

/// An interface in a namespace. Made by a thread that moves there and ends.
fn end(netns: &str, name: &str) -> SyncDevice {
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            let netns = File::open(format!("/run/netns/{netns}")).unwrap();
            setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            DeviceBuilder::new().name(name).layer(Layer::L2).build_sync().unwrap()
        });
        made.join().unwrap()
    })
}

fn deliver(frames: &Receiver<OnItsWay>, to: &SyncDevice) {
    let mut on_their_way = BinaryHeap::<OnItsWay>::new();
    loop {
        let now = Instant::now();
        while on_their_way.peek().is_some_and(|Reverse((due, _, _))| *due <= now) {
            let Some(Reverse((_, _, frame))) = on_their_way.pop() else { break };
            // An interface that is down takes nothing, like a cable that is not plugged in.
            let _ = to.send(&frame);
        }
        let next = on_their_way.peek().map(|Reverse((due, _, _))| *due - now);
        match frames.recv_timeout(next.unwrap_or(Duration::MAX)) {
            Ok(frame) => on_their_way.push(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
