//! [pure] Hashes: BLAKE3, each use in a context of its own, so that no hash can stand for another.
//!
//! Chunks and whole contents are hashed plainly, as `b3sum` does: they name bytes, whoever made
//! them. `docs/format.md` lists the contexts.

use std::fmt;

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Takes 32 bytes; any other length is `None`.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hex = data_encoding::HEXLOWER.encode(&self.0);
                write!(f, concat!(stringify!($name), "({})"), hex.get(..12).unwrap_or_default())
            }
        }
    };
}

hash_type!(
    /// Names a chunk: plain BLAKE3 of its raw bytes.
    ChunkHash
);
hash_type!(
    /// Plain BLAKE3 of a whole file's bytes, as `b3sum` prints it.
    ContentHash
);
hash_type!(
    /// `h(i) = BLAKE3(h(i-1) ‖ header ‖ BLAKE3(body))`: proves a log up to an index (promise I2).
    ChainHash
);
hash_type!(
    /// BLAKE3 of a signed change's body; what its signature covers.
    ChangeHash
);
hash_type!(
    /// Digest of a partition's view at an index; equal on all nodes (promise M4).
    ViewDigest
);

hash_type!(
    /// Names a ticket: hash of its secret, which alone is in the log (promise S5).
    TicketId
);
hash_type!(
    /// Hash of a node's key, by which a ticket pins its inviter.
    KeyPin
);

impl ChunkHash {
    /// The hash of a chunk's raw bytes.
    #[must_use]
    pub fn of(raw: &[u8]) -> Self {
        Self(*blake3::hash(raw).as_bytes())
    }
}

impl ContentHash {
    /// The hash of a whole content held in memory.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }
}

impl ChangeHash {
    /// The hash of a change's encoded body.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(
            *blake3::Hasher::new_derive_key("aber 2026 change v1")
                .update(body)
                .finalize()
                .as_bytes(),
        )
    }
}
