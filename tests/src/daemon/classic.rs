//! The classic text format of Prometheus, read as strictly as its strictest readers do.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail, ensure};

/// The metrics of one name.
#[derive(Debug, Default)]
struct Group {
    has_help: bool,
    kind: Option<String>,
    series: HashSet<String>,
    /// Of histograms, by labels without `le`: the buckets in their order, and the count.
    buckets: HashMap<String, Vec<(f64, f64)>>,
    counts: HashMap<String, f64>,
}

/// Checks a scrape by the rules of the format, version 0.0.4, and by those of `promtool check metrics` for names. Returns how many
/// samples it has.
///
/// # Errors
/// For the first line that breaks a rule.
pub fn check_classic(text: &str) -> Result<usize> {
    ensure!(text.ends_with('\n'), "the last line does not end");
    let mut groups: HashMap<String, Group> = HashMap::new();
    let mut current = String::new();
    let mut samples = 0;
    for line in text.lines() {
        let result = if line.starts_with('#') {
            read_comment(line, &mut groups, &mut current)
        } else {
            samples += 1;
            read_sample(line, &mut groups, &current)
        };
        result.with_context(|| format!("line {line:?}"))?;
    }
    for (name, group) in &groups {
        ensure!(group.has_help && group.kind.is_some(), "{name} has no help or no type");
        group.check_histogram().with_context(|| format!("histogram {name}"))?;
    }
    Ok(samples)
}

fn read_comment(line: &str, groups: &mut HashMap<String, Group>, current: &mut String) -> Result<()> {
    let words: Vec<_> = line.splitn(4, ' ').collect();
    let ["#", what, name, about] = words[..] else { bail!("not a comment of the format") };
    ensure!(is_name(name), "not a name");
    if name != current {
        ensure!(!groups.contains_key(name), "the lines of a metric are not together");
        name.clone_into(current);
    }
    let group = groups.entry(name.to_owned()).or_default();
    ensure!(group.series.is_empty(), "a comment after the first sample");
    match what {
        "HELP" => {
            ensure!(!std::mem::replace(&mut group.has_help, true), "a second help");
            let escapes = about.replace("\\\\", "").replace("\\n", "");
            ensure!(!escapes.contains('\\') && !about.trim().is_empty(), "not a help text");
        }
        "TYPE" => {
            let known = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&about);
            ensure!(known && group.kind.is_none(), "an unknown type, or a second one");
            ensure!(
                (about == "counter") == name.ends_with("_total"),
                "counters, and only they, end in _total"
            );
            group.kind = Some(about.to_owned());
        }
        _ => bail!("neither HELP nor TYPE"),
    }
    Ok(())
}

fn read_sample(line: &str, groups: &mut HashMap<String, Group>, current: &str) -> Result<()> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let number: f64 = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        other => other.parse()?,
    };
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => {
            (name, read_labels(labels.strip_suffix('}').context("no end of the labels")?)?)
        }
        None => (series, Vec::new()),
    };
    ensure!(is_name(name), "not a name");
    let group = groups.get_mut(current).context("a sample before its type")?;
    ensure!(group.series.insert(series.to_owned()), "the series is there twice");
    if group.kind.as_deref() != Some("histogram") {
        ensure!(name == current, "a sample of another metric");
        return Ok(());
    }
    let (limits, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(key, _)| key == "le");
    let others = format!("{others:?}");
    match (name.strip_prefix(current), &limits[..]) {
        (Some("_bucket"), [(_, limit)]) => {
            let limit = if limit == "+Inf" { f64::INFINITY } else { limit.parse()? };
            group.buckets.entry(others).or_default().push((limit, number));
        }
        (Some("_count"), []) => drop(group.counts.insert(others, number)),
        (Some("_sum"), []) => {}
        _ => bail!("no sample of a histogram"),
    }
    Ok(())
}

impl Group {
    fn check_histogram(&self) -> Result<()> {
        ensure!(self.buckets.len() == self.counts.len(), "buckets without a count, or the other way round");
        for (labels, buckets) in &self.buckets {
            let mut next = buckets.iter().zip(buckets.iter().skip(1));
            let grows = next.all(|(one, other)| one.0 < other.0 && one.1 <= other.1);
            ensure!(grows, "{labels}: the buckets do not grow");
            let all = self.counts.get(labels).copied();
            ensure!(
                buckets.last().copied() == all.map(|all| (f64::INFINITY, all)),
                "{labels}: the last is not all"
            );
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
}

fn read_labels(mut text: &str) -> Result<Vec<(String, String)>> {
    let mut labels: Vec<(String, String)> = Vec::new();
    while !text.is_empty() {
        let (key, rest) = text.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(key) && !key.contains(':'), "not the name of a label");
        ensure!(labels.iter().all(|(other, _)| other != key), "a label is there twice");
        let mut value = String::new();
        let mut chars = rest.chars();
        loop {
            match chars.next().context("no end of a value")? {
                '"' => break,
                '\\' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some(c @ ('\\' | '"')) => value.push(c),
                    _ => bail!("an unknown escape"),
                },
                c => value.push(c),
            }
        }
        labels.push((key.to_owned(), value));
        text = chars.as_str();
        if !text.is_empty() {
            text = text.strip_prefix(',').context("no comma between labels")?;
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_total Things \\\\ and \"others\".
# TYPE a_total counter
a_total{name=\"a, \\\"b\\\"\"} 1
a_total{name=\"c\"} 2.5
# HELP t Time.
# TYPE t histogram
t_bucket{le=\"0.5\"} 1
t_bucket{le=\"+Inf\"} 2
t_sum 3
t_count 2
";

    #[test]
    fn a_good_scrape_passes() {
        assert_eq!(check_classic(GOOD).unwrap(), 6);
    }

    #[test]
    fn what_strict_readers_refuse_fails() {
        for (from, to) in [
            ("t_count 2\n", "t_count 2\n# EOF\n"),
            ("t_count 2\n", "t_count 2"),
            ("t_count 2\n", "t_count 3\n"),
            ("t_bucket{le=\"+Inf\"} 2\n", ""),
            ("t_bucket{le=\"0.5\"} 1", "t_bucket{le=\"0.5\"} 3"),
            ("# TYPE t histogram", "# TYPE t info"),
            ("# TYPE t histogram", "# UNIT t seconds\n# TYPE t histogram"),
            ("# HELP t Time.\n", ""),
            ("a_total counter", "a counter"),
            ("# TYPE a_total counter\n", ""),
            ("# TYPE a_total counter", "# TYPE a_total gauge"),
            ("{name=\"c\"} 2.5", "{name=\"c\"} much"),
            ("{name=\"c\"}", "{name=\"a, \\\"b\\\"\"}"),
            ("{name=\"c\"}", "{name=\"\\c\"}"),
            ("{name=\"c\"}", "{name=\"c\" }"),
            ("Things \\\\ and \"", "Things \\\\ and \\\""),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert!(check_classic(&bad).is_err(), "{bad}");
        }
    }
}
