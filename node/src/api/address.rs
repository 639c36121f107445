//! [pure] Where a node's API is, and whose key answers there: `PIN@HOST:PORT`.
//!
//! The pin is that of tickets, `key_pin` of the node's key, in 52 letters of base32. With it the
//! caller knows whom it talks to; without it there is no address.

use aber_proto::TicketAddress;
use data_encoding::BASE32_NOPAD;
use std::fmt;

/// The API of a node, over TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiAddress {
    /// The pin of the node's key.
    pub pin: [u8; 32],
    /// `host:port`.
    pub address: String,
}

impl ApiAddress {
    /// Reads `PIN@HOST:PORT`, in capitals or not.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (pin, address) = text.split_once('@').ok_or(
            "the pin of the node's key is missing; aber status on that node says all of it: \
             PIN@HOST:PORT",
        )?;
        let pin = BASE32_NOPAD.decode(pin.to_ascii_uppercase().as_bytes());
        let pin = pin.ok().and_then(|pin| <[u8; 32]>::try_from(pin).ok());
        let pin = pin.ok_or("what stands before the @ is no whole pin: 52 letters and digits")?;
        let address = TicketAddress::parse(address);
        let address = address.ok_or("what stands behind the @ is no HOST:PORT")?;
        Ok(Self {
            pin,
            address: address.to_string(),
        })
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pin = BASE32_NOPAD.encode(&self.pin).to_ascii_lowercase();
        write!(f, "{pin}@{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_shown() {
        for address in ["10.0.0.1:7789", "[2001:db8::1]:7789", "enora.lan:7789"] {
            let whole = ApiAddress {
                pin: [0xA5; 32],
                address: address.to_owned(),
            };
            let text = whole.to_string();
            assert_eq!(text.len(), 52 + 1 + address.len());
            assert_eq!(ApiAddress::parse(&text), Ok(whole.clone()));
            assert_eq!(
                ApiAddress::parse(&text.to_uppercase()).map(|a| a.pin),
                Ok(whole.pin)
            );
        }
    }

    /// S5: a pin that was cut or mistyped is none, and no pin is none.
    #[test]
    fn what_is_not_whole_is_refused() {
        let pin = "a".repeat(52);
        assert!(ApiAddress::parse(&format!("{pin}@host:1")).is_ok());
        for text in [
            "host:1".to_owned(),
            "@host:1".to_owned(),
            format!("{}@host:1", "a".repeat(51)),
            format!("{}@host:1", "a".repeat(53)),
            format!("{}b@host:1", "a".repeat(51)),
            format!("{}1@host:1", "a".repeat(51)),
            format!("{pin}@host"),
            format!("{pin}@"),
            format!("{pin}@a b:1"),
        ] {
            assert!(ApiAddress::parse(&text).is_err(), "{text}");
        }
    }
}
