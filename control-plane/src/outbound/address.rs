//! Which addresses may be connected to. What a host name resolves to is somebody else's choice, so every address is
//! looked at, and only those of the public Internet pass by themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why an address is not one of the public Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// This machine.
    Loopback,
    /// RFC 1918.
    Private,
    /// RFC 4193.
    UniqueLocal,
    /// RFC 6598: behind a carrier's translation.
    Shared,
    /// This link; cloud metadata services are here.
    LinkLocal,
    /// A metadata service elsewhere.
    Metadata,
    /// Many receivers, or all.
    Multicast,
    /// Set aside for documentation, benchmarks, protocols or the future.
    Reserved,
    /// It contains another address, which is the one that would be reached.
    Embedding,
}

impl Class {
    /// Its name, for errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::UniqueLocal => "unique local",
            Self::Shared => "shared (carrier NAT)",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Embedding => "embedding another address",
        }
    }

    /// Whether an operator may name networks of this class as reachable all the same.
    const fn may_be_allowed(self) -> bool {
        match self {
            Self::Loopback | Self::Private | Self::UniqueLocal | Self::Shared => true,
            Self::Unspecified | Self::LinkLocal | Self::Metadata | Self::Multicast | Self::Reserved | Self::Embedding => false,
        }
    }
}

/// Addresses that share a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network such as `10.1.0.0/16` or `fd12:3456::/32`")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits { Err(invalid()) } else { Ok(Self { address, prefix }) }
    }
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(segments: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, unused) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32_u32.saturating_sub(self.prefix.into()))
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128_u32.saturating_sub(self.prefix.into())),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        // A shift by all bits is nothing: everything is in a network without prefix.
        ours.checked_shr(unused) == theirs.checked_shr(unused)
    }
}

/// IANA's special-purpose registries, and metadata services that hide among ordinary addresses. The first hit counts.
const SPECIAL: [(Network, Class); 35] = [
    // Azure, Alibaba Cloud; Oracle Cloud's is in 192.0.0.0/24.
    (Network::v4(168, 63, 129, 16, 32), Class::Metadata),
    (Network::v4(100, 100, 100, 200, 32), Class::Metadata),
    (Network::v4(169, 254, 169, 254, 32), Class::Metadata),
    (Network::v4(169, 254, 0, 0, 16), Class::LinkLocal),
    (Network::v4(0, 0, 0, 0, 8), Class::Unspecified),
    (Network::v4(127, 0, 0, 0, 8), Class::Loopback),
    (Network::v4(10, 0, 0, 0, 8), Class::Private),
    (Network::v4(172, 16, 0, 0, 12), Class::Private),
    (Network::v4(192, 168, 0, 0, 16), Class::Private),
    (Network::v4(100, 64, 0, 0, 10), Class::Shared),
    (Network::v4(192, 0, 0, 0, 24), Class::Reserved),
    (Network::v4(192, 0, 2, 0, 24), Class::Reserved),
    (Network::v4(192, 88, 99, 0, 24), Class::Reserved),
    (Network::v4(198, 18, 0, 0, 15), Class::Reserved),
    (Network::v4(198, 51, 100, 0, 24), Class::Reserved),
    (Network::v4(203, 0, 113, 0, 24), Class::Reserved),
    (Network::v4(224, 0, 0, 0, 4), Class::Multicast),
    (Network::v4(240, 0, 0, 0, 4), Class::Reserved),
    // AWS, Google Cloud.
    (Network::v6([0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254], 128), Class::Metadata),
    (Network::v6([0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254], 128), Class::Metadata),
    (Network::v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Class::Unspecified),
    (Network::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Class::Loopback),
    (Network::v6([0, 0, 0, 0, 0, 0, 0, 0], 64), Class::Embedding), // IPv4-mapped, -compatible, -translated
    (Network::v6([0x0064, 0xff9b, 0, 0, 0, 0, 0, 0], 32), Class::Embedding), // NAT64
    (Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Class::Embedding), // Teredo
    (Network::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Class::Embedding), // 6to4
    (Network::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Class::Reserved), // benchmarks, ORCHID
    (Network::v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32), Class::Reserved),
    (Network::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Class::Reserved),
    (Network::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Class::UniqueLocal),
    (Network::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Class::LinkLocal),
    (Network::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Class::Reserved),
    (Network::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Class::Multicast),
    // Global unicast is 2000::/3 alone.
    (Network::v6([0, 0, 0, 0, 0, 0, 0, 0], 3), Class::Reserved),
    (Network::v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), Class::Reserved),
];

/// Global unicast starts with the bits 001; what starts with 1 is special in parts and unassigned else.
const UNASSIGNED: Network = Network::v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1);

/// What keeps an address from being one of the public Internet, if anything does.
#[must_use]
pub fn class(address: IpAddr) -> Option<Class> {
    let special = SPECIAL.iter().find(|(network, _)| network.contains(address)).map(|(_, class)| *class);
    special.or_else(|| UNASSIGNED.contains(address).then_some(Class::Reserved))
}

/// Refuses an address that is neither public nor in a network that the operator named.
///
/// # Errors
/// What it is.
pub fn check(address: IpAddr, allowed: &[Network]) -> Result<(), Class> {
    match class(address) {
        None => Ok(()),
        Some(class) if class.may_be_allowed() && allowed.iter().any(|network| network.contains(address)) => Ok(()),
        Some(class) => Err(class),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(table: &[(&str, Option<Class>)]) {
        for (text, expected) in table {
            assert_eq!(class(text.parse().unwrap()), *expected, "{text}");
        }
    }

    #[test]
    fn each_class_of_ipv4_addresses_is_told_at_both_its_ends() {
        use Class::{LinkLocal, Loopback, Metadata, Multicast, Private, Reserved, Shared, Unspecified};
        classes(&[
            ("0.0.0.0", Some(Unspecified)),
            ("0.255.255.255", Some(Unspecified)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(Private)),
            ("10.255.255.255", Some(Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Shared)),
            ("100.100.100.200", Some(Metadata)),
            ("100.127.255.255", Some(Shared)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.1", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("168.63.129.16", Some(Metadata)),
            ("169.253.255.255", None),
            ("169.254.0.0", Some(LinkLocal)),
            ("169.254.169.254", Some(Metadata)),
            ("169.255.0.0", None),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Private)),
            ("172.31.255.255", Some(Private)),
            ("172.32.0.0", None),
            ("192.0.0.192", Some(Reserved)),
            ("192.0.1.0", None),
            ("192.0.2.1", Some(Reserved)),
            ("192.88.99.1", Some(Reserved)),
            ("192.168.0.0", Some(Private)),
            ("192.169.0.0", None),
            ("198.18.0.0", Some(Reserved)),
            ("198.19.255.255", Some(Reserved)),
            ("198.20.0.0", None),
            ("198.51.100.7", Some(Reserved)),
            ("203.0.113.7", Some(Reserved)),
            ("223.255.255.255", None),
            ("224.0.0.1", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("240.0.0.0", Some(Reserved)),
            ("255.255.255.255", Some(Reserved)),
        ]);
    }

    #[test]
    fn each_class_of_ipv6_addresses_is_told() {
        use Class::{Embedding, LinkLocal, Loopback, Metadata, Multicast, Reserved, UniqueLocal, Unspecified};
        classes(&[
            ("::", Some(Unspecified)),
            ("::1", Some(Loopback)),
            ("::ffff:8.8.8.8", Some(Embedding)),
            ("::ffff:169.254.169.254", Some(Embedding)),
            ("::8.8.8.8", Some(Embedding)),
            ("::ffff:0:8.8.8.8", Some(Embedding)),
            ("64:ff9b::8.8.8.8", Some(Embedding)),
            ("64:ff9b:1::a00:1", Some(Embedding)),
            ("100::1", Some(Reserved)),
            ("2001::1", Some(Embedding)),
            ("2001:2::1", Some(Reserved)),
            ("2001:20::1", Some(Reserved)),
            ("2001:db8::1", Some(Reserved)),
            ("2002:a00:1::", Some(Embedding)),
            ("2001:4860:4860::8888", None),
            ("2606:4700::1111", None),
            ("3fff::1", Some(Reserved)),
            ("4000::1", Some(Reserved)),
            ("5f00::1", Some(Reserved)),
            ("9000::1", Some(Reserved)),
            ("fc00::1", Some(UniqueLocal)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fd20:ce::254", Some(Metadata)),
            ("fdff:ffff::1", Some(UniqueLocal)),
            ("fe80::1", Some(LinkLocal)),
            ("febf::1", Some(LinkLocal)),
            ("fec0::1", Some(Reserved)),
            ("ff02::1", Some(Multicast)),
        ]);
    }

    #[test]
    fn an_operator_may_open_private_networks_and_never_metadata_or_link_local_ones() {
        let everything: Vec<Network> = ["0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap()).to_vec();
        for open in ["10.1.2.3", "127.0.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "8.8.8.8"] {
            assert_eq!(check(open.parse().unwrap(), &everything), Ok(()), "{open}");
        }
        let closed = ["169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "0.0.0.0", "::ffff:10.0.0.1", "224.0.0.1", "192.0.2.1"];
        for closed in closed {
            assert!(check(closed.parse().unwrap(), &everything).is_err(), "{closed}");
        }
        let one: Vec<Network> = vec!["10.1.0.0/16".parse().unwrap()];
        assert_eq!(check("10.1.255.255".parse().unwrap(), &one), Ok(()));
        assert_eq!(check("10.2.0.0".parse().unwrap(), &one), Err(Class::Private));
        assert_eq!(check("fd12::1".parse().unwrap(), &one), Err(Class::UniqueLocal));
    }

    #[test]
    fn a_network_is_an_address_and_a_prefix() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "host/8", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
