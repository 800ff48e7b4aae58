//! A report as one self-contained page.

use crate::report::Report;

/// The page: no part of it comes from the network.
pub fn page(_report: &Report) -> String {
    String::new()
}
