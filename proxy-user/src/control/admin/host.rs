//! Who a request on the HTTP address may be meant for. A web page can have its own name resolve to 127.0.0.1 (DNS rebinding), and then
//! read as its own what is served here: but its name stands in the request. An IP address does not resolve to another one.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Admin;

/// Lets requests pass that are meant for an IP address, for `localhost`, or for a name of the configuration.
pub(super) async fn check(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match judge(&request, &admin.hub.config.current().admin.hosts) {
        Ok(()) => next.run(request).await,
        Err((code, text)) => (code, text).into_response(),
    }
}

type Refusal = (StatusCode, &'static str);

fn judge(request: &Request, hosts: &[String]) -> Result<(), Refusal> {
    let bad = (StatusCode::BAD_REQUEST, "the request has no usable Host header\n");
    let stranger = (
        StatusCode::MISDIRECTED_REQUEST,
        "the Host header is a name that is not served here: use an IP address or localhost, or add the name to hosts in [admin]\n",
    );
    let mut lines = request.headers().get_all(header::HOST).iter();
    let given = match (lines.next(), lines.next()) {
        (Some(host), None) => Some(host.to_str().ok().and_then(|host| host.parse().ok()).ok_or(bad)?),
        // No browser is that old.
        (None, _) if request.version() < Version::HTTP_11 => None,
        _ => return Err(bad),
    };
    let named = request.uri().authority();
    let is_known = |authority: &Authority| is_known(authority, hosts);
    if given.iter().chain(named).all(is_known) { Ok(()) } else { Err(stranger) }
}

fn is_known(authority: &Authority, hosts: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn code(version: Version, uri: &str, hosts: &[&str]) -> u16 {
        let request = hosts.iter().fold(Request::builder().version(version).uri(uri), |request, host| {
            request.header(header::HOST, *host)
        });
        let request = request.body(Body::empty()).unwrap();
        match judge(&request, &["metrics.example".to_owned()]) {
            Ok(()) => 200,
            Err((code, _)) => code.as_u16(),
        }
    }

    #[test]
    fn addresses_and_known_names_are_served() {
        for host in [
            "127.0.0.1:10944",
            "127.0.0.1",
            "[::1]:10944",
            "10.0.0.1:10944",
            "localhost",
            "LocalHost.:9999",
            "Metrics.example:10944",
            "metrics.example.",
        ] {
            assert_eq!(code(Version::HTTP_11, "/metrics", &[host]), 200, "{host}");
        }
        assert_eq!(code(Version::HTTP_10, "/metrics", &[]), 200);
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "evil.example",
            "evil.example:10944",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "xmetrics.example",
        ] {
            assert_eq!(code(Version::HTTP_11, "/metrics", &[host]), 421, "{host}");
            assert_eq!(code(Version::HTTP_10, "/metrics", &[host]), 421, "{host}");
        }
        assert_eq!(code(Version::HTTP_11, "http://evil.example/metrics", &["127.0.0.1"]), 421);
        assert_eq!(code(Version::HTTP_11, "http://127.0.0.1/metrics", &["evil.example"]), 421);
        assert_eq!(code(Version::HTTP_11, "/metrics", &[]), 400);
        assert_eq!(code(Version::HTTP_11, "/metrics", &["127.0.0.1", "evil.example"]), 400);
        assert_eq!(code(Version::HTTP_11, "/metrics", &["a b"]), 400);
        assert_eq!(code(Version::HTTP_11, "/metrics", &[""]), 400);
    }
}
