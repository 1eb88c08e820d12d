//! What the host tells the guest on the kernel command line: `pandastack.data`, `pandastack.control`, `pandastack.dns`.

use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::failure::Failure;

/// An address with the length of its network's prefix, as in `10.200.0.2/30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address itself, not the network's.
    pub address: Ipv4Addr,
    /// 0 to 32.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::new(format!(
                "the kernel command line says {text:?} where an address like 10.0.0.2/30 belongs"
            ))
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 {
            return Err(wrong());
        }
        Ok(Self {
            address: address.parse().map_err(|_| wrong())?,
            prefix,
        })
    }
}

/// The network as the host planned it.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Address of the workload's NIC.
    pub data: Cidr,
    /// Default route of the workload.
    pub gateway: Ipv4Addr,
    /// Address of the agent's NIC, in a namespace that the workload does not share.
    pub control: Cidr,
    /// The only resolver, when there is one.
    pub dns: Option<Ipv4Addr>,
}

impl Plan {
    /// Reads the plan; of a word said twice the last counts, words that are not ours are the kernel's.
    pub fn parse(line: &str) -> Result<Self, Failure> {
        let (mut data, mut control, mut dns) = (None, None, None);
        for word in line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("pandastack.data", value)) => data = Some(value),
                Some(("pandastack.control", value)) => control = Some(value),
                Some(("pandastack.dns", value)) => dns = Some(value),
                _ => {}
            }
        }
        let missing = |name: &str| {
            Failure::new(format!(
                "the kernel command line has no {name}=, so the network is unknown"
            ))
        };
        let (data, gateway) = data
            .ok_or_else(|| missing("pandastack.data"))?
            .split_once(',')
            .ok_or_else(|| {
                Failure::new(
                    "pandastack.data= on the kernel command line names no gateway after a comma",
                )
            })?;
        Ok(Self {
            data: data.parse()?,
            gateway: address(gateway)?,
            control: control
                .ok_or_else(|| missing("pandastack.control"))?
                .parse()?,
            dns: dns.map(address).transpose()?,
        })
    }
}

fn address(text: &str) -> Result<Ipv4Addr, Failure> {
    text.parse().map_err(|_| {
        Failure::new(format!(
            "the kernel command line says {text:?} where an IPv4 address belongs"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "console=ttyS0 pandastack.data=10.200.0.2/30,10.200.0.1 pandastack.control=169.254.77.2/30 pandastack.dns=10.200.0.1 panic=-1";

    #[test]
    fn reads_the_hosts_plan() {
        let plan = Plan::parse(FULL).expect("a whole command line");
        assert_eq!(
            plan.data,
            Cidr {
                address: Ipv4Addr::new(10, 200, 0, 2),
                prefix: 30
            }
        );
        assert_eq!(plan.gateway, Ipv4Addr::new(10, 200, 0, 1));
        assert_eq!(
            plan.control,
            Cidr {
                address: Ipv4Addr::new(169, 254, 77, 2),
                prefix: 30
            }
        );
        assert_eq!(plan.dns, Some(Ipv4Addr::new(10, 200, 0, 1)));
    }

    #[test]
    fn goes_without_a_resolver() {
        let plan =
            Plan::parse("pandastack.data=10.0.0.2/30,10.0.0.1 pandastack.control=169.254.77.2/30");
        assert_eq!(plan.expect("complete without dns").dns, None);
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        for (line, word) in [
            ("pandastack.control=169.254.77.2/30", "pandastack.data"),
            ("pandastack.data=10.0.0.2/30,10.0.0.1", "pandastack.control"),
            (
                "pandastack.data=10.0.0.2/30 pandastack.control=169.254.77.2/30",
                "gateway",
            ),
            (
                "pandastack.data=10.0.0.2/33,10.0.0.1 pandastack.control=169.254.77.2/30",
                "10.0.0.2/33",
            ),
            (
                "pandastack.data=10.0.0.2/30,there pandastack.control=169.254.77.2/30",
                "there",
            ),
        ] {
            let failure = Plan::parse(line).expect_err(line).to_string();
            assert!(failure.contains(word), "{failure:?} does not name {word:?}");
        }
    }
}
