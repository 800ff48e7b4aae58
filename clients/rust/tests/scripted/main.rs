//! The client against servers that follow a script: every answer, silence and accident is the test's.

mod liveness;
mod many;
mod requests;
mod server;
mod update;
mod window;
