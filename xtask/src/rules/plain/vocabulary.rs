//! Names in the code that were replaced by the field's terms must not come back.

use super::super::Finding;
use super::super::source::Source;

/// Types and values, each with the name that it has now.
const IDENTIFIERS: [(&str, &str); 31] = [
    ("Road", "PacketDatapath"),
    ("Lot", "OffloadTable"),
    ("Parked", "OffloadedFlow"),
    ("Terms", "NegotiatedOptions"),
    ("Grace", "RcuBarrier"),
    ("Belief", "seq_validation"),
    ("Trust", "Acceptance"),
    ("Vigil", "Liveness"),
    ("Streak", "BulkDetector"),
    ("Proof", "RateGate"),
    ("Leftover", "slow_path"),
    ("Ahead", "local_slow_path"),
    ("Story", "AccessRecord"),
    ("Room", "ConnectionLimit"),
    ("Caps", "SourceLimiter"),
    ("Complaint", "LogThrottle"),
    ("Reach", "BackendLookup"),
    ("Errand", "Command"),
    ("Errands", "commands"),
    ("Homes", "Workers"),
    ("Exchange", "Workers"),
    ("Door", "Mailbox"),
    ("Desk", "Worker"),
    ("Means", "WorkerInputs"),
    ("Entrance", "WorkerInputs"),
    ("vigil", "liveness"),
    ("streak", "bulk_detector"),
    ("belief", "seq_validation"),
    ("leftover", "slow_path"),
    ("errands", "commands"),
    ("obey", "execute"),
];

/// Modules, files and folders, each with the name that it has now.
const MODULES: [(&str, &str); 23] = [
    ("lot", "offload_table"),
    ("road", "the name of the datapath"),
    ("homes", "workers"),
    ("exchange", "workers"),
    ("leave", "offload"),
    ("terms", "negotiated_options"),
    ("taken", "port_table"),
    ("grace", "rcu_barrier"),
    ("belief", "seq_validation"),
    ("vigil", "liveness"),
    ("streak", "bulk_detector"),
    ("proof", "rate_gate"),
    ("leftover", "slow_path"),
    ("ahead", "local_slow_path"),
    ("ending", "teardown"),
    ("story", "record"),
    ("way", "record"),
    ("room", "connection_limit"),
    ("caps", "source_limiter"),
    ("reach", "backend_lookup"),
    ("moves", "route_events"),
    ("errands", "commands"),
    ("obey", "execute"),
];

/// Finds names that must not come back.
pub(in super::super) fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for part in source.path.trim_end_matches(".rs").split('/') {
        found.extend(banned(&MODULES, part).map(|now| finding(source, 1, part, now)));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        let Some(name) = token.ident() else { continue };
        let module = at > 0 && source.ident(at - 1) == Some("mod");
        let now = banned(&IDENTIFIERS, name).or_else(|| banned(&MODULES, name).filter(|_| module));
        found.extend(now.map(|now| finding(source, token.line, name, now)));
    }
    found
}

fn banned(list: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    list.iter().find(|(banned, _)| *banned == name).map(|(_, now)| *now)
}

fn finding(source: &Source<'_>, line: usize, name: &str, now: &str) -> Finding {
    Finding::new(source.path, line, format!("{name} is no name that a newcomer understands: it is {now} now"))
        .of("names in the code")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&Source::parse(path, text).unwrap()).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn banned_names_are_found_in_paths_modules_and_types() {
        assert_eq!(lines("proxy-user/src/datapath/packet/lot.rs", ""), [1]);
        assert_eq!(lines("proxy-user/src/leave/mod.rs", ""), [1]);
        assert_eq!(
            lines("proxy-user/src/a.rs", "mod ahead;\nstruct Parked;\nfn f(a: Vec<Road>) {}"),
            [1, 2, 3]
        );
        assert_eq!(lines("proxy-user/src/a.rs", "let vigil = 1;\nself.obey(x);"), [1, 2]);
    }

    #[test]
    fn names_that_only_contain_one_and_words_in_text_pass() {
        let text =
            "// Lot, vigil\nconst A: &str = \"Road\";\nlet (way, taken, room, lots) = f();\nstruct Roadmap;";
        assert!(lines("proxy-user/src/datapath/offload_table.rs", text).is_empty());
    }
}
