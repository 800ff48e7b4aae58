//! How a setting is written: in a variable, in the file, and where it is shown.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dynakv_storage::Durability;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

use super::bounds::Measure;

/// A value that can be read from a variable.
pub(super) trait FromText: Sized {
    /// Reads it from text.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads it from what a variable holds, which need not be text.
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        let text = value.to_str().ok_or("it is no UTF-8")?;
        Self::from_text(text)
    }
}

macro_rules! from_text_by_parsing {
    ($($type:ty),*) => {$(
        impl FromText for $type {
            fn from_text(text: &str) -> Result<Self, String> {
                text.parse::<$type>().map_err(|error| error.to_string())
            }
        }
    )*};
}

from_text_by_parsing!(u8, u16, u64, usize, bool, IpAddr, String);

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }

    /// A path may have any bytes: what is no text is a directory all the same.
    fn from_variable(value: &OsStr) -> Result<Self, String> {
        Ok(Self::from(value))
    }
}

impl FromText for Vec<String> {
    fn from_text(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty()).map(str::to_owned);
        let parts: Self = parts.collect();
        if parts.is_empty() {
            // As no seeds it would found a cluster.
            return Err("there is nothing between the commas".to_owned());
        }
        Ok(parts)
    }
}

/// A duration, written as `500ms`, `5s` or `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromText for Span {
    fn from_text(text: &str) -> Result<Self, String> {
        let parsed = humantime::parse_duration(text);
        parsed.map(Self).map_err(|error| error.to_string())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).map_err(serde::de::Error::custom)
    }
}

/// When a write counts as on disk, written as `sync` or `interval:100ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syncs(pub Durability);

impl FromText for Syncs {
    fn from_text(text: &str) -> Result<Self, String> {
        let permitted = || format!("{text:?} is neither \"sync\" nor, say, \"interval:100ms\"");
        match text.split_once(':') {
            None if text == "sync" => Ok(Self(Durability::Sync)),
            Some(("interval", span)) => {
                let Span(interval) = Span::from_text(span).map_err(|_| permitted())?;
                Ok(Self(Durability::Interval(interval)))
            }
            None | Some(_) => Err(permitted()),
        }
    }
}

impl std::str::FromStr for Syncs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }
}

impl std::fmt::Display for Syncs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Durability::Sync => f.write_str("sync"),
            Durability::Interval(interval) => {
                write!(f, "interval:{}", humantime::format_duration(interval))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Syncs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).map_err(serde::de::Error::custom)
    }
}

/// What is logged: a level such as `debug`, or levels of parts, such as `warn,dynakv=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromText for Filter {
    fn from_text(text: &str) -> Result<Self, String> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(format!("it is no log filter: {error}")),
        }
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_text(&text).map_err(serde::de::Error::custom)
    }
}

/// A setting that bounds can be held against.
pub(super) trait Measured {
    /// What of it has bounds.
    fn measure(&self) -> Measure;
}

macro_rules! measured {
    ($($type:ty: $value:ident => $measure:expr;)*) => {$(
        impl Measured for $type {
            fn measure(&self) -> Measure {
                let $value = self;
                $measure
            }
        }
    )*};
}

measured! {
    u8: value => Measure::Number(u64::from(*value));
    u16: value => Measure::Number(u64::from(*value));
    u64: value => Measure::Number(*value);
    usize: value => Measure::Number(*value as u64);
    String: value => Measure::Length(value.len());
    PathBuf: value => Measure::Length(value.as_os_str().len());
    Filter: value => Measure::Length(value.0.len());
    Vec<String>: value => Measure::Count(value.len());
    Span: value => Measure::Span(value.0);
    Syncs: value => match value.0 {
        Durability::Sync => Measure::Whole,
        Durability::Interval(interval) => Measure::Span(interval),
    };
    // Their form is all that they can have wrong.
    bool: _value => Measure::Whole;
    IpAddr: _value => Measure::Whole;
}
