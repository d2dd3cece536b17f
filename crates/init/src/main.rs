//! `fleet-init`: PID 1 of the namespace that the agents of one class on one node live in. Started
//! by `fleet-guard`, never by people.
//!
//! Usage: `fleet-init SOCKET`
//!
//! Its standard input is a pipe whose other end the guard holds; it says `ready` on its standard
//! output once the daemon may connect to SOCKET. See the library for what is said there.
#![deny(unsafe_code)]

mod init;
mod launcher;
mod ordinary;

use std::{io, process::ExitCode};

fn main() -> ExitCode {
    let result = match std::env::args_os().nth(1) {
        Some(socket) => init::run(socket.as_ref()),
        None => Err(io::Error::other("usage: fleet-init SOCKET")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-init: {error}");
            ExitCode::FAILURE
        }
    }
}
