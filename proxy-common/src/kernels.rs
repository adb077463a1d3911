//! Which kernels are known to carry connections without a fault, and which are too old. All that is known stands in this file.
//!
//! Kernels outside [`GOOD`] may duplicate or lose bytes when a socket takes a part of a write
//! (`sk_psock_backlog` in `net/core/skmsg.c`), or crash in rare cases. The self-test at start cannot provoke every such
//! fault. So `auto` splices on these kernels only. The packet datapath has no part in these faults, and bounds of its own:
//! [`OFFLOADS`].

use core::fmt;

/// A mainline version of Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// `6` of 6.18.44.
    pub major: u16,
    /// `18` of 6.18.44.
    pub minor: u16,
    /// `44` of 6.18.44.
    pub patch: u16,
}

/// The first good version of each series. Later versions of the same series are good too.
pub const GOOD: [Version; 3] = [version(6, 1, 191), version(6, 12, 92), version(6, 18, 44)];

/// The packet datapath is known to work from the first of these series to the last. Both and series between them were tried
/// (docs/kernel.md).
pub const OFFLOADS: [Version; 2] = [version(6, 1, 0), version(7, 3, 0)];

/// What a kernel is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Splicing by sockmap.
    Sockmap,
    /// The same past the loopback connection of a server on this host.
    Local,
    /// Offloading.
    Packet,
    /// The guard.
    Guard,
}

impl Part {
    /// The first mainline version that has all that its BPF programs use.
    #[must_use]
    pub const fn oldest(self) -> Version {
        match self {
            Self::Sockmap | Self::Local => version(5, 13, 0),
            Self::Packet => version(5, 17, 0),
            Self::Guard => version(5, 18, 0),
        }
    }

    /// What came with that version, and in words what needs it.
    #[must_use]
    pub const fn need(self) -> &'static str {
        match self {
            Self::Sockmap => "splicing needs sockets in a map without a parser",
            Self::Local => "datapath \"local\" needs sockets in a map without a parser",
            Self::Packet => "offloading needs loops in BPF programs (bpf_loop)",
            Self::Guard => "the guard needs XDP programs for packets in several pieces",
        }
    }
}

const fn version(major: u16, minor: u16, patch: u16) -> Version {
    Version { major, minor, patch }
}

/// What a kernel says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// `uname -r`
    pub release: &'a str,
    /// `uname -v`
    pub build: &'a str,
    /// `/proc/version_signature`, which Ubuntu's kernels have.
    pub signature: Option<&'a str>,
}

impl Kernel<'_> {
    /// The mainline version that this kernel is built from; None if it does not say.
    ///
    /// Distributions keep the third number of the release at 0 and say elsewhere what they have merged:
    /// Ubuntu in the last word of the signature (`Ubuntu 6.8.0-45.45-generic 6.8.12`), Debian in the build
    /// (`#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-08-01)`). Red Hat says it nowhere.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let release = Version::parse(self.release)?;
        let ubuntu = self.signature.and_then(|text| text.split_whitespace().last());
        let debian = self.build.split_whitespace().skip_while(|word| *word != "Debian").nth(1);
        let told = [ubuntu, debian].into_iter().flatten().filter_map(Version::parse);
        let told = told.filter(|told| told.series() == release.series()).max();
        Some(told.map_or(release, |told| told.max(release)))
    }

    /// Whether this kernel is known to offload without a fault.
    #[must_use]
    pub fn offloads(&self) -> bool {
        let [first, last] = OFFLOADS;
        self.version().is_some_and(|version| (first.series()..=last.series()).contains(&version.series()))
    }

    /// Whether this kernel is known to splice without a fault.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let is_good = |version: Version| {
            GOOD.iter().any(|first| first.series() == version.series() && *first <= version)
        };
        self.version().is_some_and(is_good)
    }
}

impl Version {
    const fn series(self) -> (u16, u16) {
        (self.major, self.minor)
    }

    /// Reads the numbers at the start of `text`. The third one may be missing.
    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut numbers = text.get(..end)?.split('.').map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let patch = numbers.next().map_or(Some(0), Result::ok)?;
        Some(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The good kernels in words: `6.1.191, 6.12.92 or 6.18.44, or later versions of these series`.
#[must_use]
pub fn good_kernels() -> String {
    let [before @ .., last] = &GOOD;
    let before = before.each_ref().map(ToString::to_string).join(", ");
    format!("{before} or {last}, or later versions of these series")
}

/// The series that the packet datapath is known to work on, in words: `6.1 to 7.3`.
#[must_use]
pub fn offloading_kernels() -> String {
    let [first, last] = OFFLOADS;
    format!("{}.{} to {}.{}", first.major, first.minor, last.major, last.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel<'a>(release: &'a str, build: &'a str, signature: Option<&'a str>) -> Kernel<'a> {
        Kernel { release, build, signature }
    }

    #[test]
    fn the_version_is_the_one_that_the_distribution_has_merged() {
        let cases = [
            ("6.18.44", "#1 SMP PREEMPT_DYNAMIC", None, Some(version(6, 18, 44))),
            ("6.18.50+", "#1 SMP", None, Some(version(6, 18, 50))),
            ("6.8.12-4-pve", "#1 SMP PREEMPT_DYNAMIC PMX 6.8.12-4", None, Some(version(6, 8, 12))),
            ("6.1.0-53-amd64", "#1 SMP Debian 6.1.192-1 (2026-08-01)", None, Some(version(6, 1, 192))),
            ("6.12.118+deb13-amd64", "#1 SMP Debian 6.12.118-1", None, Some(version(6, 12, 118))),
            (
                "6.8.0-45-generic",
                "#45-Ubuntu SMP",
                Some("Ubuntu 6.8.0-45.45-generic 6.8.12\n"),
                Some(version(6, 8, 12)),
            ),
            ("5.14.0-427.13.1.el9_4.x86_64", "#1 SMP", None, Some(version(5, 14, 0))),
            ("7.3-rc1", "#1", None, Some(version(7, 3, 0))),
            // `setarch --uname-2.6`: another series than the one that it was built from.
            ("2.6.78", "#1 SMP Debian 6.18.44-1", None, Some(version(2, 6, 78))),
            ("", "", None, None),
            ("linux", "Debian", Some(""), None),
            ("6", "", None, None),
            ("6.99999.1", "", None, None),
        ];
        for (release, build, signature, expected) in cases {
            assert_eq!(kernel(release, build, signature).version(), expected, "{release} {build}");
        }
    }

    #[test]
    fn only_known_series_from_their_first_good_version_on_are_good() {
        let good = ["6.1.191", "6.1.300", "6.12.92", "6.18.44-cloud", "6.18.45"];
        let others =
            ["5.10.262", "5.15.200", "6.1.190", "6.8.12", "6.12.91", "6.18.43", "6.17.13", "6.19.5", "7.3.4"];
        for release in good {
            assert!(kernel(release, "", None).is_good(), "{release}");
        }
        for release in others {
            assert!(!kernel(release, "", None).is_good(), "{release}");
        }
        assert!(kernel("6.1.0-53-amd64", "Debian 6.1.192-1", None).is_good());
        assert!(!kernel("6.8.0-45-generic", "", Some("Ubuntu 6.8.0-45.45-generic 6.8.12")).is_good());
    }

    #[test]
    fn the_packet_datapath_has_bounds_of_its_own() {
        let releases = ["6.1.10", "6.8.12", "6.12.1", "6.18.44", "7.3.4"];
        assert!(releases.iter().all(|release| kernel(release, "", None).offloads()));
        let others = ["5.10.262", "5.15.200", "6.0.9", "7.4.1", "8.0.0", ""];
        assert!(!others.iter().any(|release| kernel(release, "", None).offloads()));
        let ubuntu = kernel("6.8.0-45-generic", "", Some("Ubuntu 6.8.0-45.45-generic 6.8.12"));
        assert!(ubuntu.offloads() && !ubuntu.is_good());
    }

    #[test]
    fn the_good_kernels_are_said_in_words() {
        assert_eq!(good_kernels(), "6.1.191, 6.12.92 or 6.18.44, or later versions of these series");
    }
}
