//! The client library through the loss of a node, under load: with its default retries no request fails.

use rustix::process::Signal;

use crate::harness::{Cluster, under_load};

#[test]
fn killing_one_of_three_fails_no_request_of_a_client() {
    let mut cluster = Cluster::start(3);
    let load = under_load(&mut cluster, |cluster, load| {
        for index in [2, 0] {
            cluster[index].kill();
            load.goes_on(1000);
            cluster[index].start();
            cluster.wait_whole();
            load.goes_on(500);
        }
    });
    load.failed_nowhere();
}

#[test]
fn freezing_one_of_three_fails_no_request_of_a_client() {
    let mut cluster = Cluster::start(3);
    let load = under_load(&mut cluster, |cluster, load| {
        cluster[1].process_mut().signal(Signal::STOP);
        load.goes_on(1000);
        cluster[1].process_mut().signal(Signal::CONT);
        load.goes_on(1000);
        cluster.wait_whole();
    });
    load.failed_nowhere();
}
