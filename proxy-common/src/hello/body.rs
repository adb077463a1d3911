//! The body of a `ClientHello` (RFC 8446 section 4.1.2), down to its server name.
//!
//! Only what must be walked to find the name is checked; the rest is the upstream's to judge. So the
//! extensions are taken as opaque blocks, known or not: one that is odd inside must not hide the name behind
//! it. The cipher suites are skipped, not listed as `tls-parser` would, which also saves their allocation.

use tls_parser::nom::IResult;
use tls_parser::nom::bytes::streaming::take;
use tls_parser::nom::combinator::verify;
use tls_parser::nom::multi::length_data;
use tls_parser::nom::number::streaming::{be_u8, be_u16};
use tls_parser::{
    SNIType, TlsExtension, TlsExtensionType, parse_tls_extension_sni_hostname, parse_tls_extension_unknown,
};

use super::{Defect, Sni};

/// The server name that the hello asks for.
pub(super) fn server_name(body: &[u8]) -> Result<Sni, Defect> {
    let mut extensions = extensions(body)?;
    let mut found = None;
    while !extensions.is_empty() {
        let (rest, extension) = parse_tls_extension_unknown(extensions).map_err(|_| Defect::Extensions)?;
        extensions = rest;
        if let TlsExtension::Unknown(TlsExtensionType::ServerName, content) = extension {
            // Two of a kind are forbidden (RFC 8446 section 4.2); the upstream might believe the other one.
            if found.replace(content).is_some() {
                return Err(Defect::ServerName);
            }
        }
    }
    found.map_or(Ok(Sni::Absent), |content| first_host_name(content).map_err(|()| Defect::ServerName))
}

/// The list of extensions. It is empty when the hello ends before it, as in TLS 1.0.
fn extensions(body: &[u8]) -> Result<&[u8], Defect> {
    let (rest, ()) = skip_to_extensions(body).map_err(|_| Defect::Body)?;
    if rest.is_empty() {
        return Ok(rest);
    }
    match length_list(rest) {
        Ok(([], list)) => Ok(list),
        _ => Err(Defect::Extensions),
    }
}

fn skip_to_extensions(body: &[u8]) -> IResult<&[u8], ()> {
    let (body, _version_and_random) = take(2_usize + 32)(body)?;
    let (body, _session_id) = verify(length_data(be_u8), |id: &[u8]| id.len() <= 32)(body)?;
    let (body, _cipher_suites) = verify(length_list, |list: &[u8]| list.len().is_multiple_of(2))(body)?;
    let (body, _compression_methods) = length_data(be_u8)(body)?;
    Ok((body, ()))
}

fn length_list(bytes: &[u8]) -> IResult<&[u8], &[u8]> {
    length_data(be_u16)(bytes)
}

/// The first entry of type `host_name` in a server name list, which is walked to its end.
fn first_host_name(content: &[u8]) -> Result<Sni, ()> {
    if content.is_empty() {
        return Ok(Sni::Unusable);
    }
    let Ok(([], mut list)) = length_list(content) else { return Err(()) };
    let mut found = None;
    while !list.is_empty() {
        let (rest, (kind, name)) = parse_tls_extension_sni_hostname(list).map_err(|_| ())?;
        list = rest;
        if kind == SNIType::HostName {
            found = found.or(Some(name));
        }
    }
    Ok(found.map_or(Sni::Unusable, Sni::from_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body with the given rest after its compression methods.
    fn body(rest: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(rest);
        body
    }

    /// A two-byte length and the content.
    fn list(content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap();
        [&len.to_be_bytes(), content].concat()
    }

    /// A body whose extensions are a server name extension with this content, and one that is unknown.
    fn with_sni(content: &[u8]) -> Vec<u8> {
        let sni = [&[0, 0][..], &list(content)].concat();
        body(&list(&[&[0xfa, 0xfa, 0, 1, 9], &sni[..]].concat()))
    }

    fn entry(kind: u8, name: &[u8]) -> Vec<u8> {
        [&[kind][..], &list(name)].concat()
    }

    fn name(text: &str) -> Sni {
        Sni::from_bytes(text.as_bytes())
    }

    #[test]
    fn no_extensions_at_all_means_no_name() {
        assert_eq!(server_name(&body(&[])), Ok(Sni::Absent));
        assert_eq!(server_name(&body(&[0, 0])), Ok(Sni::Absent));
        assert_eq!(server_name(&body(&[0, 4, 0xff, 1, 0, 0])), Ok(Sni::Absent));
    }

    #[test]
    fn the_first_host_name_counts() {
        assert_eq!(server_name(&with_sni(&list(&entry(0, b"a.b")))), Ok(name("a.b")));
        let entries = [entry(7, b"\x01"), entry(0, b"a.b"), entry(0, b"c.d")].concat();
        assert_eq!(server_name(&with_sni(&list(&entries))), Ok(name("a.b")));
    }

    #[test]
    fn a_name_extension_without_a_name_is_unusable() {
        for content in [vec![], list(&[]), list(&entry(0, b"")), list(&entry(7, b"x"))] {
            assert_eq!(server_name(&with_sni(&content)), Ok(Sni::Unusable), "{content:?}");
        }
    }

    #[test]
    fn an_extension_that_is_odd_inside_does_not_hide_the_name() {
        let sni = [&[0, 0][..], &list(&list(&entry(0, b"a.b")))].concat();
        // Content that status_request, ALPN, extended_master_secret and key_share cannot have.
        for odd in [&[0, 5, 0, 1, 9][..], &[0, 16, 0, 1, 9], &[0, 23, 0, 2, 9, 9], &[0, 51, 0, 0]] {
            assert_eq!(server_name(&body(&list(&[odd, &sni].concat()))), Ok(name("a.b")));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_told_apart() {
        let mut long_session = body(&[]);
        long_session.splice(34..35, [33]);
        long_session.extend([0; 40]);
        let mut odd_suites = body(&[]);
        odd_suites.splice(35..39, [0, 1, 9]);
        for broken in [&body(&[])[..40], &body(&[])[..20], &[], &long_session, &odd_suites] {
            assert_eq!(server_name(broken), Err(Defect::Body));
        }
        for rest in [&[0][..], &[0, 1], &[0, 0, 9], &[0, 3, 0, 9, 0], &[0, 5, 0, 9, 0, 2, 1]] {
            assert_eq!(server_name(&body(rest)), Err(Defect::Extensions), "{rest:?}");
        }
        for content in [&[0][..], &[0, 1], &[0, 0, 9], &[0, 2, 0, 0], &[0, 4, 0, 0, 2, 65]] {
            assert_eq!(server_name(&with_sni(content)), Err(Defect::ServerName), "{content:?}");
        }
    }

    #[test]
    fn a_second_name_extension_is_refused() {
        let sni = [&[0, 0][..], &list(&list(&entry(0, b"a.b")))].concat();
        assert_eq!(server_name(&body(&list(&[&sni[..], &sni].concat()))), Err(Defect::ServerName));
    }
}
