//! `fleet-guard`, as the daemon knows it: it holds the node's lease and ends every agent when the
//! lease is over, whatever the daemon is doing then.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use fleet_guard::Status;
use fleet_process::{EgressLease, Group};
use fleet_runtime::clock::boot_ms;
use fleet_types::{AgentClass, Epoch};
use tokio::sync::watch;

use crate::lease::Lease;

/// How long the guard may take to answer; it does nothing that takes long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the watching thread sleeps on: its clock does not go on while the machine sleeps, that of
/// leases does.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How often it asks whether agents are gone once a lease is over; of those that outlast the node's,
/// where nobody waits to register again, more seldom.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_LASTING: Duration = Duration::from_millis(200);

struct Shared {
    socket: PathBuf,
    stream: Mutex<Option<BufReader<UnixStream>>>,
    lease: Mutex<Option<Lease>>,
    lease_changed: Condvar,
    announced: watch::Sender<Option<Lease>>,
    lacks: watch::Sender<Lacks>,
    leases_egress: bool,
    /// On what agents under the lease of an epoch send, once there are any.
    egress: Mutex<Option<(Epoch, Arc<EgressLease>)>>,
}

/// What a guard lacks, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// To end agents in time always.
    pub degraded: Option<String>,
    /// To end strict agents in time; they are not to be kept here then.
    pub unfit: Option<String>,
}

/// A handle to the guard. Clones share the connection, which is made anew when the guard is.
#[derive(Clone)]
pub struct Guard {
    shared: Arc<Shared>,
    class: AgentClass,
}

impl Shared {
    /// What the guard holds by its answer; none when that says something else.
    fn held(&self, answer: &str) -> Option<Lease> {
        let Status { held, degraded, unfit } = answer.parse().ok()?;
        let from_guard = |why: Option<String>| why.map(|why| format!("guard: {why}"));
        let lacks = Lacks { degraded: from_guard(degraded), unfit: from_guard(unfit) };
        self.lacks.send_if_modified(|known| {
            let news = *known != lacks;
            if news {
                tracing::warn!(
                    degraded = lacks.degraded,
                    unfit = lacks.unfit,
                    "what a guard lacks"
                );
            }
            *known = lacks;
            news
        });
        held.map(|held| Lease { epoch: Epoch(held.epoch), deadline_ms: held.deadline_ms })
    }

    /// Makes a request and answers what the guard says. One that is not the guard of before, which
    /// died with its agents, is asked for nothing until that was announced.
    fn ask(&self, request: &str) -> io::Result<String> {
        let mut held = self.stream.lock().expect("no holder panics");
        if let Some(stream) = held.take()
            && let Ok((stream, answer)) = self.ask_over(Some(stream), request)
        {
            *held = Some(stream);
            return Ok(answer);
        }
        let (stream, status) = self.ask_over(None, "status")?;
        if self.held(&status).is_none() && self.announced.borrow().is_some() {
            return match request {
                "status" => Ok(status),
                _ => Err(io::Error::other("the guard died, and its agents with it")),
            };
        }
        let (stream, answer) = self.ask_over(Some(stream), request)?;
        *held = Some(stream);
        Ok(answer)
    }

    fn ask_over(
        &self,
        stream: Option<BufReader<UnixStream>>,
        request: &str,
    ) -> io::Result<(BufReader<UnixStream>, String)> {
        let mut stream = match stream {
            Some(stream) => stream,
            None => {
                let stream = UnixStream::connect(&self.socket)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        if stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((stream, answer.trim().to_owned()))
    }

    fn hold(&self, lease: Option<Lease>) {
        *self.lease.lock().expect("no holder panics") = lease;
        self.lease_changed.notify_one();
    }

    fn current(&self) -> Option<Lease> {
        let lease = *self.lease.lock().expect("no holder panics");
        lease.filter(|lease| boot_ms() < lease.deadline_ms)
    }

    /// Has agents send for as long as the lease lasts now. What is left of those of an earlier epoch
    /// stays silent.
    fn extend_egress(&self, held: Lease) {
        let egress = self.egress.lock().expect("no holder panics").clone();
        if let Some((_, lease)) = egress.filter(|(epoch, _)| *epoch == held.epoch)
            && let Err(error) = lease.extend(held.deadline_ms)
        {
            tracing::error!(%error, "agents cannot send, though their lease is renewed");
        }
    }

    /// The lease of what agents send under the lease in force.
    fn egress(&self) -> io::Result<Option<(Lease, Arc<EgressLease>)>> {
        // Read under the lock: what is granted later is extended later.
        let mut egress = self.egress.lock().expect("no holder panics");
        let Some(held) = self.current() else { return Ok(None) };
        let known = egress.take().filter(|(epoch, _)| *epoch == held.epoch);
        let (_, lease) = match known {
            Some(known) => known,
            None => (held.epoch, Arc::new(EgressLease::new(held.deadline_ms)?)),
        };
        *egress = Some((held.epoch, lease.clone()));
        Ok(Some((held, lease)))
    }

    /// Waits for the end of the lease that was announced, or until the guard may have died.
    fn await_end(&self) {
        let mut lease = self.lease.lock().expect("no holder panics");
        loop {
            let left = match *lease {
                Some(held) => Duration::from_millis(held.deadline_ms.saturating_sub(boot_ms())),
                None if self.announced.borrow().is_some() => return,
                None => SLEEP_MAX,
            };
            if left.is_zero() {
                *lease = None;
                continue;
            }
            let waited = self.lease_changed.wait_timeout(lease, left.min(SLEEP_MAX));
            let (now, waited) = waited.expect("no holder panics");
            if waited.timed_out() && now.is_some() {
                return;
            }
            lease = now;
        }
    }

    /// Waits for the end of a lease, then until nothing runs, then says so. A guard that is there
    /// and holds nothing has seen to it that nothing runs.
    fn watch(&self, class: AgentClass) {
        let mut said = String::new();
        loop {
            self.await_end();
            match self.ask("status") {
                Ok(answer) if self.held(&answer).is_none() => {
                    tracing::warn!(%class, "the lease is over: its agents on this node were ended");
                    self.hold(None);
                    self.announced.send_replace(None);
                    said.clear();
                }
                Ok(_) => said.clear(),
                Err(error) => {
                    let news = error.to_string();
                    if news != said {
                        let socket = self.socket.display();
                        tracing::error!(%socket, %error, "no guard answers; it must be started");
                        said = news;
                    }
                }
            }
            std::thread::sleep(if class == AgentClass::Strict { LOOK } else { LOOK_LASTING });
        }
    }
}

impl Guard {
    /// Connects to the guard of agents of `class` at `socket`. What strict ones send may be leased, if
    /// this kernel can do that; others may outlast the epoch of their lease.
    ///
    /// # Errors
    /// When none answers there.
    pub fn connect(class: AgentClass, socket: &Path, leases_egress: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            stream: Mutex::new(None),
            lease: Mutex::new(None),
            lease_changed: Condvar::new(),
            announced: watch::channel(None).0,
            lacks: watch::channel(Lacks::default()).0,
            leases_egress: leases_egress && class == AgentClass::Strict,
            egress: Mutex::new(None),
        });
        let held = shared.held(&shared.ask("status")?);
        shared.hold(held);
        shared.announced.send_replace(held);
        let watching = shared.clone();
        std::thread::Builder::new().name("guard-watch".into()).spawn(move || {
            watching.watch(class);
        })?;
        Ok(Self { shared, class })
    }

    /// What the guard lacks; another that takes its place may lack something else.
    pub fn lacks(&self) -> watch::Receiver<Lacks> {
        self.shared.lacks.subscribe()
    }

    /// The class of its agents.
    pub fn class(&self) -> AgentClass {
        self.class
    }

    /// Where the process that starts agents listens.
    pub fn init_socket(&self) -> PathBuf {
        self.shared.socket.with_file_name("init")
    }

    /// Where the guard writes what it holds, for those that cannot ask.
    pub fn status_file(&self) -> PathBuf {
        self.shared.socket.with_file_name("status")
    }

    /// Begins a renewal: a grant of it counts from now. Answers the nonce to ask the leader with.
    ///
    /// # Errors
    /// When the guard does not answer. A guard that died took its agents along, and the next one
    /// holds nothing.
    pub fn begin(&self) -> io::Result<u64> {
        let answer = self.shared.ask("begin").inspect_err(|_| self.shared.hold(None))?;
        let nonce = answer.strip_prefix("nonce ").and_then(|nonce| nonce.parse().ok());
        nonce.ok_or_else(|| io::Error::other(answer))
    }

    /// Has the guard take leases of up to `lease_ms`, for a node that is held. What it refuses
    /// shows when one is granted.
    pub fn raise(&self, lease_ms: u64) {
        if let Err(error) = self.shared.ask(&format!("raise {lease_ms}")) {
            tracing::error!(%error, "the guard does not answer");
        }
    }

    /// Hands over that the leader granted a lease. What the guard refuses changes nothing.
    pub fn grant(&self, nonce: u64, epoch: Epoch, lease_ms: u64) {
        match self.shared.ask(&format!("grant {nonce} {epoch} {lease_ms}")) {
            Ok(answer) => match self.shared.held(&answer) {
                Some(held) => {
                    self.shared.hold(Some(held));
                    self.shared.extend_egress(held);
                    self.shared.announced.send_replace(Some(held));
                    // It may be over by now: whoever watches is to see that it was announced.
                    self.shared.lease_changed.notify_one();
                }
                None => tracing::warn!(answer, "the guard did not take a renewal"),
            },
            Err(error) => {
                tracing::error!(%error, "the guard does not answer");
                self.shared.hold(None);
            }
        }
    }

    /// The lease in force, if there is one. Has the kernel, if it can, drop what is sent from `group`
    /// once it is over.
    ///
    /// # Errors
    /// When the kernel refuses that for the group.
    pub(crate) fn cover(&self, group: &Group) -> io::Result<Option<Lease>> {
        if !self.shared.leases_egress {
            return Ok(self.current());
        }
        let Some((held, lease)) = self.shared.egress()? else { return Ok(None) };
        lease.cover(group)?;
        Ok(Some(held))
    }

    /// As [`Guard::cover`], of what runs in `group` from before: the lease that an earlier daemon gave
    /// it is not renewed any more.
    pub(crate) fn cover_adopted(&self, group: &Group) -> io::Result<()> {
        if self.shared.leases_egress {
            return self.cover(group).map(drop);
        }
        if let Err(error) = EgressLease::lift(group) {
            let group = group.path().display();
            tracing::warn!(%group, %error, "if it was leased what it sends, it is silent soon");
        }
        Ok(())
    }

    /// The lease in force, if there is one.
    pub fn current(&self) -> Option<Lease> {
        self.shared.current()
    }

    /// Ends the lease now, and every agent with it.
    pub fn end(&self) {
        self.shared.hold(None);
        if let Err(error) = self.shared.ask("end") {
            tracing::error!(%error, "the guard does not answer");
        }
    }

    /// Changes to none once the lease is over and nothing runs any more.
    pub fn watch(&self) -> watch::Receiver<Option<Lease>> {
        self.shared.announced.subscribe()
    }
}
