//! Tests of the plan of a development cluster and of what it prints.

use dynakv_protocol::ring_document::{Member, RingDocument, Step};
use dynakv_protocol::{ClusterId, DirectoryId, NodeId, RingVersion};

use std::path::PathBuf;

use super::*;

fn args(nodes: u16, base_port: u16) -> DevArgs {
    DevArgs {
        nodes,
        base_port,
        data_dir: PathBuf::from("data"),
        n: None,
        w: None,
        r: None,
        fresh: false,
    }
}

#[test]
fn the_first_founds_and_the_others_ask_the_first_two() {
    let plans = plan(&args(4, 8080)).unwrap();
    let seeds: Vec<Vec<String>> = plans.iter().map(|plan| plan.seeds.clone()).collect();
    let (first, second) = ("127.0.0.1:8080".to_owned(), "127.0.0.1:8081".to_owned());
    let both = vec![first.clone(), second];
    assert_eq!(seeds, [vec![], vec![first], both.clone(), both]);
    let last = Plan {
        id: "node-4".to_owned(),
        port: 8083,
        http_port: 9083,
        seeds: seeds[3].clone(),
        data_dir: PathBuf::from("data/node-4"),
        log: PathBuf::from("data/node-4.log"),
    };
    assert_eq!(plans[3], last);
}

#[test]
fn ports_that_do_not_fit_are_a_usage_error() {
    assert!(plan(&args(1, 64535)).is_ok());
    let error = plan(&args(2, 64535)).unwrap_err();
    assert_eq!(error.exit(), Exit::Usage);
    assert!(plan(&args(3, 65535)).is_err());
}

#[test]
fn a_busy_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = check_port(port).unwrap_err();
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert_eq!(
        error.next(&args(3, 8080)),
        "dynakv dev --base-port 18080 --data-dir data"
    );
    assert_eq!(error.exit(), Exit::Error);
    drop(listener);
    check_port(port).unwrap();
}

#[test]
fn the_introduction_names_the_next_command() {
    let args = args(1, 8180);
    let nodes: Vec<Running> = plan(&args)
        .unwrap()
        .into_iter()
        .map(|plan| Running {
            plan,
            pid: 42,
            alive: true,
        })
        .collect();
    let ring = RingReply {
        document: RingDocument {
            cluster_id: ClusterId(1),
            cluster_name: "dynakv".to_owned(),
            version: RingVersion(1),
            step: Step::Open,
            n: 3,
            w: 2,
            r: 2,
            members: vec![Member {
                id: NodeId::new("node-1").unwrap(),
                directory_id: DirectoryId(0),
                address: "127.0.0.1:8180".to_owned(),
                weight: 1,
                zone: String::new(),
            }],
        },
        addresses: vec!["127.0.0.1:8180".to_owned()],
    };
    let expected = "\
Id      Pid  Address         HTTP port  Log
node-1   42  127.0.0.1:8180       9180  data/node-1.log

ring 1 of cluster dynakv: 1 nodes, 150 virtual nodes (n = 3, w = 2, r = 2)

Id      Address         Weight  Virtual nodes  Zone  Rebuilding
node-1  127.0.0.1:8180       1            150  -     -

next, in another terminal: dynakv --server 127.0.0.1:8180 put greeting hello
Ctrl-C ends all nodes
";
    assert_eq!(introduction(&nodes, &ring, &args, Format::Table), expected);
    let expected = concat!(
        r#"{"event":"ready","nodes":[{"id":"node-1","pid":42,"address":"127.0.0.1:8180","#,
        r#""http_port":9180,"log":"data/node-1.log"}],"ring":{"version":1,"step":"open","#,
        r#""cluster":"dynakv","cluster_id":"00000000000000000000000000000001","n":3,"w":2,"r":2,"#,
        r#""total_nodes":1,"total_virtual_nodes":150,"members":[{"id":"node-1","#,
        r#""address":"127.0.0.1:8180","weight":1,"zone":"","virtual_nodes":150,"rebuilding_segments":0}]}}"#,
        "\n"
    );
    assert_eq!(introduction(&nodes, &ring, &args, Format::Json), expected);
}
