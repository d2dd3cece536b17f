//! The Linux side of supervision: control groups, launching, waiting, ports.
//!
//! A process is never known by its pid alone. What belongs to an agent is what is in its control
//! group; what ended is what its pidfd says.
#![deny(unsafe_code)]

mod birth;
mod capacity;
mod cgroup;
mod child;
mod egress_lease;
mod launch;
mod limits;
mod logs;
mod ports;
mod sandbox;
mod usage;

pub use capacity::{capacity, disk_bytes, disk_room, disk_used};
pub use cgroup::{Group, GroupError};
pub use child::{Child, Launcher, signal_or_code};
pub use egress_lease::EgressLease;
pub use fleet_init::{LAUNCH_FAILED, LAUNCH_HINDERED};
pub use launch::{LaunchFile, LaunchSpec, LeaseCheck, serve};
pub use limits::Limiter;
pub use logs::{LogFile, READ_BYTES_MAX, read_from, tail};
pub use ports::{Holder, holders, unused};
pub use sandbox::{Confinement, lacking};
pub use usage::{disk_usage, walk};
