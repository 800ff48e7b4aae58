//! Input as an attacker, a broken client or a stray program sends it: each refused with an error that
//! names what was wrong, or taken for what it is; none of them costs memory.

mod admin;
mod batches;
mod bodies;
mod body;
mod causality;
mod frames;
mod handshakes;
mod rings;
