//! Folders of what a daemon has pinned: which network namespace each belongs to, and which are left over.

use core::fmt;

/// A network namespace. The kernel gives its cookie to no other one as long as the host runs, and what is pinned does not outlive the
/// host either. The inode number is given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// `SO_NETNS_COOKIE`.
    pub cookie: u64,
    /// Of the file in `/proc/PID/ns/net`.
    pub inode: u64,
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netns-{}-{}", self.cookie, self.inode)
    }
}

/// What the name of a folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// It belongs to this namespace.
    Of(Namespace),
    /// It belongs to a namespace that had this inode number: earlier versions named it so.
    Former(u64),
}

impl Name {
    /// None: it is no folder of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        let Some(rest) = text.strip_prefix("netns-") else { return number(text).map(Self::Former) };
        let (cookie, inode) = rest.split_once('-')?;
        Some(Self::Of(Namespace { cookie: number(cookie)?, inode: number(inode)? }))
    }

    const fn inode(self) -> u64 {
        match self {
            Self::Of(namespace) => namespace.inode,
            Self::Former(inode) => inode,
        }
    }
}

/// What is known of a folder.
#[expect(clippy::struct_excessive_bools, reason = "independent answers of the kernel")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// A daemon has it locked.
    pub is_locked: bool,
    /// One of its programs is at an interface of this network namespace.
    pub is_attached_here: bool,
    /// One of its links leads to an interface, of whatever namespace. The kernel cuts a link off when its interface goes, and all
    /// interfaces of a namespace go with it.
    pub is_attached: bool,
    /// The kernel does not tell of all its links and filters where they are.
    pub is_unclear: bool,
    /// It has connections by addresses of this network namespace.
    pub is_addressed_here: bool,
    /// It has filters, and the kernel does not tell whether those of other namespaces are still there.
    pub has_filters: bool,
    /// A process or a mount of a network namespace with its inode number is known.
    pub is_inhabited: bool,
}

/// Whose a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This network namespace.
    Ours,
    /// Another one, which may be alive.
    Other,
    /// One that is gone, as far as can be told: nobody is seen in it, and it has filters, which cannot be asked for.
    Deserted,
    /// One that is gone, or one in which nothing of the folder is attached any more: no packet is forwarded by it.
    Gone,
}

/// Whose the folder with this name is, seen from the namespace `own`.
#[must_use]
pub fn owner(name: Name, own: Namespace, facts: Facts) -> Owner {
    let is_own = match name {
        Name::Of(namespace) => namespace.cookie == own.cookie,
        // The number alone proves nothing. Somebody may have detached the programs while no daemon ran: then the addresses tell.
        Name::Former(inode) => {
            let is_alive = facts.is_attached_here || facts.is_locked;
            inode == own.inode && (is_alive || (!facts.is_attached && facts.is_addressed_here))
        }
    };
    if is_own {
        return Owner::Ours;
    }
    // What is not known is not taken for gone.
    if facts.is_locked || facts.is_unclear {
        return Owner::Other;
    }
    // Of two namespaces with one number one is gone, and it is not this one.
    if name.inode() == own.inode {
        return Owner::Gone;
    }
    match facts {
        Facts { is_inhabited: true, .. } | Facts { is_attached: true, .. } => Owner::Other,
        Facts { has_filters: true, .. } => Owner::Deserted,
        _ => Owner::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Namespace = Namespace { cookie: 7, inode: 4_026_532_000 };
    const NOTHING: Facts = Facts {
        is_locked: false,
        is_attached_here: false,
        is_attached: false,
        is_unclear: false,
        is_addressed_here: false,
        has_filters: false,
        is_inhabited: false,
    };

    #[test]
    fn a_name_is_understood_as_it_is_written() {
        assert_eq!(Name::parse(&OWN.to_string()), Some(Name::Of(OWN)));
        assert_eq!(Name::parse("4026532000"), Some(Name::Former(OWN.inode)));
        for strange in [
            "",
            "tc",
            "netns-",
            "netns-1",
            "netns-1-",
            "netns--1",
            "+5",
            "netns-1-2-3",
            "99999999999999999999",
        ] {
            assert_eq!(Name::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn the_cookie_proves_whose_it_is_and_the_number_alone_does_not() {
        let moved = Namespace { inode: 1, ..OWN };
        assert_eq!(owner(Name::Of(moved), OWN, NOTHING), Owner::Ours);
        let former = Name::Former(OWN.inode);
        let here = Facts { is_attached_here: true, is_attached: true, ..NOTHING };
        assert_eq!(owner(former, OWN, here), Owner::Ours);
        assert_eq!(
            owner(former, OWN, Facts { is_locked: true, ..NOTHING }),
            Owner::Ours,
            "an earlier version runs"
        );
        assert_eq!(
            owner(former, OWN, Facts { has_filters: true, is_inhabited: true, ..NOTHING }),
            Owner::Gone
        );
        assert_eq!(owner(former, OWN, Facts { is_attached: true, ..NOTHING }), Owner::Gone, "elsewhere");
        let other = Name::Of(Namespace { cookie: 6, ..OWN });
        assert_eq!(
            owner(other, OWN, Facts { is_inhabited: true, ..here }),
            Owner::Gone,
            "its number was given out again"
        );
        assert_eq!(owner(other, OWN, Facts { is_locked: true, ..NOTHING }), Owner::Other);
    }

    #[test]
    fn connections_by_addresses_of_this_namespace_are_kept_though_their_programs_were_detached() {
        let facts = Facts { is_addressed_here: true, ..NOTHING };
        for facts in [facts, Facts { has_filters: true, ..facts }] {
            assert_eq!(owner(Name::Former(OWN.inode), OWN, facts), Owner::Ours);
        }
        let elsewhere = Facts { is_attached: true, ..facts };
        assert_eq!(owner(Name::Former(OWN.inode), OWN, elsewhere), Owner::Gone, "it has the same addresses");
        assert_eq!(owner(Name::Former(1), OWN, facts), Owner::Gone);
        assert_eq!(owner(Name::Of(Namespace { cookie: 6, ..OWN }), OWN, facts), Owner::Gone);
    }

    #[test]
    fn a_folder_of_which_the_kernel_does_not_tell_all_is_left_alone() {
        let facts = Facts { is_unclear: true, ..NOTHING };
        for name in [
            Name::Former(5),
            Name::Former(OWN.inode),
            Name::Of(Namespace { cookie: 6, inode: 5 }),
            Name::Of(Namespace { cookie: 6, ..OWN }),
        ] {
            assert_eq!(owner(name, OWN, facts), Owner::Other, "{name:?}");
        }
    }

    #[test]
    fn a_folder_of_another_namespace_is_left_alone_unless_nothing_of_it_is_attached() {
        for name in [Name::Former(5), Name::Of(Namespace { cookie: 6, inode: 5 })] {
            assert_eq!(owner(name, OWN, NOTHING), Owner::Gone);
            assert_eq!(owner(name, OWN, Facts { has_filters: true, ..NOTHING }), Owner::Deserted);
            for facts in [
                Facts { is_locked: true, ..NOTHING },
                Facts { is_attached: true, ..NOTHING },
                Facts { is_inhabited: true, ..NOTHING },
                Facts { is_inhabited: true, has_filters: true, ..NOTHING },
            ] {
                assert_eq!(owner(name, OWN, facts), Owner::Other, "{facts:?}");
            }
        }
    }
}
