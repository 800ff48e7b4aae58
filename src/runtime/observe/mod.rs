//! What operators and service managers look at.
//!
//! | File | What it carries out |
//! |---|---|
//! | [`http`] | the HTTP port: health, metrics, status |
//! | [`metrics`], [`process`] | counters of the node and of its process |
//! | [`log_lines`] | the log, which neither ends nor blocks a node |
//! | [`systemd`] | word to a service manager |

pub mod http;
pub mod log_lines;
pub mod metrics;
pub mod process;
pub mod systemd;
