//! What the daemon and the kernel keep for the verdict, in plain maps.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proxy_common::guard::{
    Address, Bucket, Endpoint, Endpoints, Key, Listed, Rate, Source, Table, World, search,
};

use super::harness::model::Site;

pub struct Plain {
    ports: HashSet<u16>,
    endpoints: Endpoints,
    table: Table,
    pub banned: HashMap<Source, u64>,
    pub live: HashSet<Source>,
    pub now: Cell<u64>,
    pub source: Rate,
    pub ceiling: Rate,
    pub reserve: Rate,
    pub buckets: RefCell<HashMap<Source, Bucket>>,
    ceilings: RefCell<[Bucket; 2]>,
}

pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.into()),
        IpAddr::V6(ip) => {
            let [first, rest] = [0, 64].map(|shift| u64::try_from(u128::from(ip) << shift >> 64).unwrap());
            Address::v6(first, rest)
        }
    }
}

pub fn net((ip, bits): (IpAddr, u8)) -> IpNet {
    IpNet::new(ip, bits).unwrap().trunc()
}

pub fn source(ip: IpAddr) -> Source {
    Source::of(address(ip), u64::MAX, u64::MAX)
}

impl Plain {
    pub fn new(site: &Site) -> Self {
        let endpoint = |&(ip, port): &(IpAddr, u16)| Endpoint { address: address(ip), port };
        Self {
            ports: site.listeners.iter().map(|(_, port)| *port).collect(),
            endpoints: Endpoints::build(&site.listeners.iter().map(endpoint).collect()).unwrap(),
            table: Table::build(site.allow.iter().copied().map(net), site.deny.iter().copied().map(net))
                .unwrap(),
            banned: HashMap::new(),
            live: HashSet::new(),
            now: Cell::new(1_000_000_000),
            source: Rate::UNLIMITED,
            ceiling: Rate::UNLIMITED,
            reserve: Rate::UNLIMITED,
            buckets: RefCell::default(),
            ceilings: RefCell::default(),
        }
    }
}

pub fn find(table: &Table, ip: IpAddr) -> Listed {
    let Address { first, rest, .. } = address(ip);
    let listing = if ip.is_ipv4() { &table.v4 } else { &table.v6 };
    search(listing, Key { first, rest })
}

impl World for Plain {
    fn is_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    fn is_listener(&self, endpoint: Endpoint) -> bool {
        self.endpoints.contains(endpoint)
    }

    fn listed(&self, source: Address) -> Listed {
        let listing = match source.family {
            proxy_common::guard::Family::V4 => &self.table.v4,
            proxy_common::guard::Family::V6 => &self.table.v6,
        };
        search(listing, Key { first: source.first, rest: source.rest })
    }

    fn source(&self, source: Address) -> Source {
        Source::of(source, u64::MAX, u64::MAX)
    }

    fn may_be_banned(&self, source: Source) -> bool {
        self.banned.keys().any(|banned| banned.bit() == source.bit())
    }

    fn banned_until(&self, source: Source) -> u64 {
        self.banned.get(&source).copied().unwrap_or_default()
    }

    fn now_ns(&self) -> u64 {
        self.now.get()
    }

    fn is_live(&self, source: Source) -> bool {
        self.live.contains(&source)
    }

    fn source_rate(&self) -> Rate {
        self.source
    }

    fn bucket(&self, source: Source) -> Option<Bucket> {
        self.buckets.borrow().get(&source).copied()
    }

    fn put_bucket(&self, source: Source, is_new: bool, after: Bucket) {
        let before = self.buckets.borrow_mut().insert(source, after);
        assert_eq!(before.is_none(), is_new);
    }

    fn ceiling_rate(&self, reserve: bool) -> Rate {
        if reserve { self.reserve } else { self.ceiling }
    }

    fn ceiling(&self, reserve: bool) -> Bucket {
        self.ceilings.borrow()[usize::from(reserve)]
    }

    fn put_ceiling(&self, reserve: bool, after: Bucket) {
        self.ceilings.borrow_mut()[usize::from(reserve)] = after;
    }
}
