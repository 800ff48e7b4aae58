//! Makes the series of a recorder, each with its name, its help and its labels.

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::PrometheusRecorder;

const METADATA: Metadata<'static> = Metadata::new("dynakv", Level::INFO, None);

/// Registers and describes in one go: promtool refuses metrics without a help text.
pub(super) struct Registry<'a> {
    pub(super) recorder: &'a PrometheusRecorder,
}

type Labels = [(&'static str, &'static str)];

impl Registry<'_> {
    fn key(name: &'static str, labels: &Labels) -> Key {
        let labels = labels.iter().map(|&(key, value)| Label::new(key, value));
        Key::from_parts(name, labels.collect::<Vec<_>>())
    }

    pub(super) fn counter_of(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &Labels,
    ) -> Counter {
        let (name_of, help) = (KeyName::from(name), SharedString::from(help));
        self.recorder.describe_counter(name_of, None, help);
        let counter = self
            .recorder
            .register_counter(&Self::key(name, labels), &METADATA);
        // Present from the first scrape on, at zero.
        counter.increment(0);
        counter
    }

    pub(super) fn gauge_of(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &Labels,
    ) -> Gauge {
        let (name_of, help) = (KeyName::from(name), SharedString::from(help));
        self.recorder.describe_gauge(name_of, None, help);
        let gauge = self
            .recorder
            .register_gauge(&Self::key(name, labels), &METADATA);
        gauge.set(0.0);
        gauge
    }

    pub(super) fn histogram(
        &self,
        name: &'static str,
        unit: Unit,
        help: &'static str,
        labels: &Labels,
    ) -> Histogram {
        let (name_of, help) = (KeyName::from(name), SharedString::from(help));
        self.recorder.describe_histogram(name_of, Some(unit), help);
        self.recorder
            .register_histogram(&Self::key(name, labels), &METADATA)
    }
}
