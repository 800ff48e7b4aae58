//! A node, built and owned here.
