//! [pure] Signed heads as messages between nodes and as notes of the log.

use aber_proto::generated::rpc;
use aber_proto::{ChainHash, Head, LogId, NodeId, PartitionId, SignedHead};
use bytes::Bytes;

/// A head as a message.
#[must_use]
pub fn head_message(signed: &SignedHead) -> rpc::Head {
    let LogId { term, index } = signed.head.log_id;
    rpc::Head {
        partition: signed.head.partition.0,
        log_id: Some(rpc::LogId { term, index }),
        chain: Bytes::copy_from_slice(&signed.head.chain.0),
        signer: signed.signer.0,
        signature: Bytes::copy_from_slice(&signed.signature),
    }
}

/// The inverse of [`head_message`]; `None` for anything else. The signature is not checked.
#[must_use]
pub fn head_of(message: &rpc::Head) -> Option<SignedHead> {
    let id = message.log_id.as_ref()?;
    let log_id = LogId {
        term: id.term,
        index: id.index,
    };
    let chain = ChainHash::from_slice(&message.chain)?;
    let head = Head {
        partition: PartitionId(message.partition),
        log_id,
        chain,
    };
    let signature = message.signature.as_ref().try_into().ok()?;
    Some(SignedHead {
        head,
        signer: NodeId(message.signer),
        signature,
    })
}
