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
//! An exit that a repair may cure goes from Emptying to Waiting and Launching as any start, but to
//! Repairing from there, and by way of Emptying to an ordinary start.
//!
//! Rules: nothing starts before the control group of the last try was seen empty; up is not ready;
//! a process that ended by itself is started again after an exponential pause, with jitter, that
//! is forgotten after a healthy period; one that ends too often within a window is parked, as is
//! one whose end neither a restart nor its one repair cures; one that was ready and stays silent
//! when asked whether it lives is started again.
//!
//! Not here: leases (the adapter refuses to launch without one), probes, clocks, randomness
//! (time and jitter come in with the event).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod life;
mod policy;

pub use life::{Action, Event, Exit, Fault, HINDERED, Life, Past, State};
pub use policy::Policy;

#[cfg(test)]
mod tests;
