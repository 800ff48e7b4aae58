//! A real Prometheus, asked over its HTTP interface.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{eventually, free_port};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A Prometheus that ends with its test.
pub(super) struct Prometheus {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Prometheus {
    /// Starts it in `directory`, which holds its `prometheus.yml`; nothing when it is not installed.
    #[track_caller]
    pub(super) fn start(directory: &Path) -> Option<Self> {
        let port = free_port();
        let log = directory.join("prometheus.log");
        let output = File::create(&log).expect("the directory is there");
        let spawned = Command::new("prometheus")
            .current_dir(directory)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => panic!("prometheus: {error}"),
        };
        let mut prometheus = Self { child, port, log };
        eventually("Prometheus is ready", || {
            if let Ok(Some(status)) = prometheus.child.try_wait() {
                panic!("it ended with {status}: {}", prometheus.log());
            }
            match prometheus.fetch("/-/ready") {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        Some(prometheus)
    }

    /// What it knows the value of: each series' labels and value at this moment.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let result = match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().cloned().unwrap_or_default(),
            _ => return Err(format!("{expression}: no vector: {data}")),
        };
        let sample = |series: Value| {
            let text = series["value"][1].as_str().unwrap_or_default();
            let value = text
                .parse()
                .map_err(|_| format!("{expression}: {text:?}"))?;
            Ok((series["metric"].clone(), value))
        };
        result.into_iter().map(sample).collect()
    }

    /// All values that a label has, on the series that match.
    pub(super) fn label_values(
        &self,
        label: &str,
        matching: Option<&str>,
    ) -> Result<BTreeSet<String>, String> {
        let mut path = format!("/api/v1/label/{label}/values");
        if let Some(selector) = matching {
            path = format!("{path}?match[]={}", encoded(selector));
        }
        let data = self.get(&path)?;
        let values = data.as_array().cloned().unwrap_or_default();
        let texts = values.iter().filter_map(Value::as_str);
        Ok(texts.map(str::to_owned).collect())
    }

    /// All rules, as they were evaluated last.
    pub(super) fn rules(&self) -> Result<Vec<Value>, String> {
        let data = self.get("/api/v1/rules")?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let (status, body) = self
            .fetch(path)
            .map_err(|error| format!("{path}: {error}"))?;
        let mut document: Value =
            serde_json::from_str(&body).map_err(|error| format!("{path}: {error}: {body}"))?;
        if status != 200 || document["status"] != "success" {
            return Err(format!("{path}: {status}: {document}"));
        }
        Ok(document["data"].take())
    }

    /// HTTP 1.0, so that no answer comes in chunks.
    fn fetch(&self, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let malformed = || std::io::Error::other(format!("no HTTP: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.ok_or_else(malformed)?, body.to_owned()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of Prometheus\n{}", self.log());
        }
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
