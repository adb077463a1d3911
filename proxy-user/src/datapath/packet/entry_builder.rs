//! What a flow that leaves its sockets becomes: its entries, as its sockets tell.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use proxy_common::abi::packet::{Answer, Entry, Key, Socket};
use proxy_common::packet::eligible::{self, Leg, Obstacle};
use tokio::net::TcpStream;

use super::{PacketDatapath, key, negotiated_options};
use crate::hub::Flow;
use crate::kernel::Armed;
use crate::sys;

/// What a flow becomes.
pub(super) struct Plan {
    pub(super) legs: [Leg; 2],
    devices: [u32; 2],
    /// Of routes, so far.
    pub(super) changes: u64,
    pub(super) keys: [Key; 2],
}

impl Plan {
    pub(super) async fn make(
        datapath: &PacketDatapath,
        flow: &Flow,
        sockets: &[&TcpStream; 2],
    ) -> Result<Self, Obstacle> {
        let changes = datapath.routes.changes();
        let [client, server] = sockets;
        let (client, server) = (Ends::of(client), Ends::of(server));
        // A socket that has failed has no ends any more.
        let (Ok(client), Ok(server)) = (client, server) else { return Err(Obstacle::HalfClosed) };
        let leg = |ends: &Ends, socket| {
            let route = sys::route(Some(ends.near.ip()), ends.far.ip()).map_err(|_| Obstacle::Device)?;
            let leg = sys::leg(socket).map_err(|_| Obstacle::Refused)?;
            let leg = Leg { is_ipv6: ends.far.is_ipv6(), is_here: route.is_here, ..leg };
            Ok((leg, route.device))
        };
        let ((one, near), (other, far)) = (leg(&client, &sockets[0])?, leg(&server, &sockets[1])?);
        eligible::check([&one, &other]).inspect_err(|obstacle| {
            if *obstacle == Obstacle::TooLarge {
                datapath.clamp.learn(&flow.listener, eligible::most_for(other.path, other.is_ipv6));
            }
        })?;
        if !datapath.ports.is_own(server.near.port()) {
            return Err(Obstacle::Port);
        }
        if let Some(reason) = datapath.packet.hindrance() {
            tracing::debug!(reason, "no connection can be offloaded");
            return Err(Obstacle::Device);
        }
        for device in [near, far] {
            datapath.attach(device).await.map_err(|reason| {
                tracing::debug!(%reason, "an interface does not take the programs");
                if datapath.packet.is_joining(device) { Obstacle::LargeReceive } else { Obstacle::Device }
            })?;
        }
        let keys = [key(client.far, client.near), key(server.far, server.near)];
        Ok(Self { legs: [one, other], devices: [near, far], changes, keys })
    }

    /// Has the flow's packets watched. Says whether the sockets know their peers' time stamps.
    pub(super) fn arm(&self, flow: &Flow, armed: &mut Armed<'_>) -> io::Result<Result<bool, Obstacle>> {
        let sockets = match armed.look()? {
            Ok(sockets) => sockets,
            Err(Answer::Backlog) => return Ok(Err(Obstacle::Backlog)),
            Err(_) => return Ok(Err(Obstacle::Unseen)),
        };
        let [one, other] = &self.legs;
        let [client, server] = &sockets;
        if !eligible::can_tell(client.snd_wnd, one.peer_scale, other.own_scale)
            || !eligible::can_tell(server.snd_wnd, other.peer_scale, one.own_scale)
        {
            return Ok(Err(Obstacle::Window));
        }
        let delta = self.delta(flow, &sockets);
        let entry = |leg| self.entry(leg, delta, &sockets, flow);
        armed.arm(delta, [entry(0), entry(1)])?;
        Ok(Ok(self.are_stamped(&sockets)))
    }

    /// Whether both sockets know their peers' time stamps, if there are any: one that was made for a connection that existed
    /// already has to see a packet first.
    pub(super) fn are_stamped(&self, sockets: &[Socket; 2]) -> bool {
        !negotiated_options::have_stamps(&self.legs) || sockets.iter().all(|socket| socket.ts_recent != 0)
    }

    /// The first byte that a socket sent is the first one that the other one received: what userspace holds is not sent yet.
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap round")]
    fn delta(&self, flow: &Flow, [client, server]: &[Socket; 2]) -> [u32; 2] {
        let [up, down] = flow.copied_here();
        let first_sent = |socket: &Socket, bytes: u64| socket.write_seq.wrapping_sub(bytes as u32);
        [
            first_sent(server, up).wrapping_sub(client.first()),
            first_sent(client, down).wrapping_sub(server.first()),
        ]
    }

    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap round")]
    fn entry(&self, leg: u8, delta: [u32; 2], sockets: &[Socket; 2], flow: &Flow) -> Entry {
        let [up, down] = flow.restored.each_ref().map(|bytes| bytes.load(Ordering::Relaxed));
        // What its end had sent before it got its socket.
        let before = if leg == 0 { up } else { down };
        let turn = |pair: [u32; 2]| if leg == 0 { pair } else { [pair[1], pair[0]] };
        let [own_delta, other_delta] = turn(delta);
        let [_, device] = turn(self.devices);
        let ([client, server], [client_leg, server_leg]) = (sockets, &self.legs);
        let [client_key, server_key] = &self.keys;
        let (own, own_leg, other_leg, other_key) = if leg == 0 {
            (client, client_leg, server_leg, server_key)
        } else {
            (server, server_leg, client_leg, client_key)
        };
        Entry {
            leg,
            scales: Entry::scales_of(own_leg.peer_scale, other_leg.own_scale),
            window: u16::try_from(own.snd_wnd >> own_leg.peer_scale).unwrap_or(u16::MAX),
            sent: own.received() + before,
            device,
            source: other_key.target,
            target: other_key.source,
            source_port: other_key.target_port,
            target_port: other_key.source_port,
            seq: own_delta,
            ack: 0_u32.wrapping_sub(other_delta),
            start: own.first().wrapping_sub(before as u32),
            acked: own.snd_una,
            stamped: own.ts_recent,
            active_ms: sys::now_ms(),
            ..Entry::default()
        }
    }
}

/// Addresses of a connection.
struct Ends {
    near: SocketAddr,
    far: SocketAddr,
}

impl Ends {
    fn of(socket: &TcpStream) -> io::Result<Self> {
        let socket = socket2::SockRef::from(socket);
        let address = |address: socket2::SockAddr| {
            let address = address.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok::<_, io::Error>(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        Ok(Self { near: address(socket.local_addr()?)?, far: address(socket.peer_addr()?)? })
    }
}
