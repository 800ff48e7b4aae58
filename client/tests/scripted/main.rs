//! The client against servers that follow a script: every answer, silence and accident is the test's.

mod requests;
mod server;
