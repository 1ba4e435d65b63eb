//! How many connections each client address has on this shard.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Number of a counted address; 0 where none is counted.
pub type AddressNumber = u32;

/// The addresses with open connections. Bounded by the connections of the shard.
#[derive(Default, Debug)]
pub struct Addresses {
    numbers: BTreeMap<IpAddr, AddressNumber>,
    /// By number less 1: the address and its connections.
    places: Vec<(IpAddr, u32)>,
    free: Vec<AddressNumber>,
}

impl Addresses {
    /// Counts one connection more. Gives the address's number and how many connections it has now.
    pub fn enter(&mut self, address: IpAddr) -> (AddressNumber, u32) {
        let address = counted_as(address);
        if let Some(&number) = self.numbers.get(&address) {
            let count = &mut self.places[number as usize - 1].1;
            *count += 1;
            return (number, *count);
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.places[number as usize - 1] = (address, 1);
                number
            }
            None => {
                self.places.push((address, 1));
                u32::try_from(self.places.len()).expect("no more addresses than connections")
            }
        };
        self.numbers.insert(address, number);
        (number, 1)
    }

    /// One connection less.
    pub fn leave(&mut self, number: AddressNumber) {
        if number == 0 {
            return;
        }
        let (address, count) = &mut self.places[number as usize - 1];
        *count = count.checked_sub(1).expect("a counted address has connections");
        if *count == 0 {
            self.numbers.remove(address);
            self.free.push(number);
        }
    }

    /// The address of a number.
    pub fn of(&self, number: AddressNumber) -> Option<IpAddr> {
        (number > 0).then(|| self.places[number as usize - 1].0)
    }
}

/// A client is given a whole /64 of IPv6 (RFC 6177 section 2), so that is what counts as one address.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_and_go() {
        let mut addresses = Addresses::default();
        let (one, two): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (first, count) = addresses.enter(one);
        assert_eq!((count, addresses.of(first)), (1, Some(one)));
        assert_eq!(addresses.enter("::ffff:192.0.2.1".parse().unwrap()), (first, 2));
        let (second, _) = addresses.enter(two);
        addresses.leave(first);
        assert_eq!(addresses.enter(one), (first, 2));
        addresses.leave(first);
        addresses.leave(first);
        // The place is used again; nothing is left of who had it.
        assert_eq!(addresses.enter("192.0.2.3".parse().unwrap()), (first, 1));
        assert_ne!(first, second);
        assert_eq!(addresses.numbers.len(), 2);
        addresses.leave(0);
        assert_eq!(addresses.of(0), None);
    }

    #[test]
    fn a_network_of_version_6_is_one_client() {
        let mut addresses = Addresses::default();
        let (number, _) = addresses.enter("2001:db8:1:2:3::4".parse().unwrap());
        assert_eq!(addresses.enter("2001:db8:1:2:5::6".parse().unwrap()), (number, 2));
        assert_ne!(addresses.enter("2001:db8:1:3::1".parse().unwrap()).0, number);
    }
}
