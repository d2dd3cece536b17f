//! One agent's life on its node, as a table.
//!
//! [`Life::on`] takes an event and answers actions; the adapter carries them out and feeds back
//! what happened. Every state answers every event; one that means nothing there changes nothing.
//!
//! ```text
//!            want           permit            launched          probe ok
//!  Stopped ───────► Waiting ───────► Launching ───────► Starting ───────► Ready ◄──► Unready
//!     ▲                ▲                  │ failed          │ exit, too slow  │ exit    │
//!     │ emptied        │ time             ▼                 ▼                 ▼         │
//!  Stopping ◄─ unwant  BackingOff ◄──── Emptying ◄──────────┴─────────────────┴─────────┘
//!     │ exit, time                        │ too often
//!     └──────────► Emptying               ▼
//!                                      CrashLooping
//! ```
//!
//! Rules: nothing starts before the control group of the last try was seen empty; up is not ready;
//! a process that ended by itself is started again after an exponential pause, with jitter, that
//! is forgotten after a healthy period; one that ends too often within a window is parked.
//!
//! Not here: leases (the adapter refuses to launch without one), probes, clocks, randomness
//! (time and jitter come in with the event).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod life;
mod policy;

pub use life::{Action, Event, Exit, Life, State};
pub use policy::Policy;

#[cfg(test)]
mod tests;
