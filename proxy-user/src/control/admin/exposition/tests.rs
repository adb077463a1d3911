//! What is negotiated, and what becomes of each kind of metric.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;

use super::*;

fn wants(accept: &str) -> bool {
    wants_open_metrics(std::iter::once(accept))
}

#[test]
fn open_metrics_is_for_those_who_prefer_it_by_name() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,\
                      text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    assert!(wants(prometheus));
    assert!(wants("application/openmetrics-text"));
    assert!(wants("Application/OpenMetrics-Text; Version=\"1.0.0\" , text/plain"));
    assert!(wants_open_metrics(["text/plain;q=0.5", "application/openmetrics-text"].into_iter()));
}

#[test]
fn all_others_get_the_classic_format() {
    assert!(!wants_open_metrics(std::iter::empty()));
    for accept in [
        "",
        "*/*",
        "text/plain",
        "text/plain;version=0.0.4;q=1,*/*;q=0.1",
        "text/html,application/xhtml+xml,*/*;q=0.8",
        "application/openmetrics-text;q=0.4,text/plain;q=0.5",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;version=0.0.1",
        "application/openmetrics-text;q=NaN",
        "application/openmetrics-text;q=much",
        ";;;,,,=;q",
    ] {
        assert!(!wants(accept), "{accept}");
    }
}

#[test]
fn families_are_called_as_their_samples() {
    let mut registry = Registry::with_prefix("p");
    let counter: Family<[(&str, &str); 1], Counter> = Family::default();
    counter.get_or_create(&[("name", "a \"b\" \\ \n")]).inc();
    registry.register("bytes", "All \\\"bytes\\\"", counter);
    registry.register("room", "ConnectionLimit", Gauge::<i64>::default());
    registry.register("build", "The build", Info::new([("version", "1")]));
    let histogram = Histogram::new([0.5]);
    histogram.observe(0.25);
    registry.register("seconds", "Time", histogram);
    let mut open_metrics = String::new();
    encode(&mut open_metrics, &registry).unwrap();
    let expected = "\
# HELP p_bytes_total All \"bytes\".
# TYPE p_bytes_total counter
p_bytes_total{name=\"a \\\"b\\\" \\\\ \\n\"} 1
# HELP p_room ConnectionLimit.
# TYPE p_room gauge
p_room 0
# HELP p_build_info The build.
# TYPE p_build_info gauge
p_build_info{version=\"1\"} 1
# HELP p_seconds Time.
# TYPE p_seconds histogram
p_seconds_sum 0.25
p_seconds_count 1
p_seconds_bucket{le=\"0.5\"} 1
p_seconds_bucket{le=\"+Inf\"} 1
";
    assert_eq!(classic(&open_metrics), expected);
}

#[test]
fn units_ends_and_unknown_kinds_are_left_out() {
    let text = "# HELP a_seconds A\n# TYPE a_seconds unknown\n# UNIT a_seconds seconds\na_seconds 1\n# EOF\n";
    assert_eq!(classic(text), "# HELP a_seconds A\n# TYPE a_seconds untyped\na_seconds 1\n");
}
