//! [pure] Every maximum of the system, in one place.
//!
//! A limit is checked before anything is allocated for what it bounds, for callers and for other
//! nodes alike (promise B2). Limits that depend on each other are related by the assertions at
//! the end of this file, so that raising one without the other does not compile.

/// Longest name of a file, directory or symlink, in bytes of UTF-8 (rule NA-1).
pub const NAME_BYTES: usize = 255;
/// Longest path from the root of the tree, in bytes, separators included (rule NA-1).
pub const PATH_BYTES: usize = 4096;
/// Deepest path from the root of the tree, in components (rule NA-1).
pub const PATH_DEPTH: usize = 128;
/// Longest target of a symlink, in bytes (rule LI-1).
pub const SYMLINK_TARGET_BYTES: usize = 4095;
/// Most events in one change.
pub const CHANGE_EVENTS: usize = 1024;
/// Entries between two digests of a view that nodes compare (promise M4).
pub const DIGEST_ENTRIES: u64 = 1024;
/// Longest encoded change body, in bytes.
pub const CHANGE_BYTES: usize = 256 * 1024;
/// Longest comment of a change, in bytes.
pub const COMMENT_BYTES: usize = 200;
/// Longest `via` label of a change ("cli", "folder", "api:NAME"), in bytes.
pub const VIA_BYTES: usize = 64;
/// Longest content that travels inside its event instead of in chunks, in bytes.
pub const INLINE_BYTES: usize = 1024;
/// Smallest average chunk size the cutter is asked for, in bytes.
pub const CHUNK_AVERAGE_MIN_BYTES: usize = 16 * 1024;
/// Largest average chunk size the cutter is asked for, in bytes.
pub const CHUNK_AVERAGE_MAX_BYTES: usize = 256 * 1024;
/// Smallest cut the cutter makes, but for the last one of a file, in bytes.
pub const CHUNK_MIN_BYTES: usize = CHUNK_AVERAGE_MIN_BYTES / 4;
/// Largest chunk, in bytes.
pub const CHUNK_MAX_BYTES: usize = CHUNK_AVERAGE_MAX_BYTES * 4;
/// Most chunks listed in a manifest itself; longer lists are stored as chunks.
pub const MANIFEST_CHUNKS: usize = 1024;
/// Bytes of one row of a chunk list: hash and length.
pub const CHUNK_ROW_BYTES: usize = 36;
/// Longest chunk list, in bytes (with one level of indirection).
pub const CHUNK_LIST_BYTES: usize = MANIFEST_CHUNKS * CHUNK_MAX_BYTES;
/// Most heads that a node which follows a partition keeps for those that follow it: one for each
/// answer it was given.
pub const HEADS_KEPT: usize = 64;
/// Most nodes between one that follows and a voter, and most that pass on a change or a question
/// about a head.
pub const HOPS: usize = 64;
/// Longest message of any gRPC call, either way, in bytes.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Most messages of one priority that wait for a node's uplink.
pub const UPLINK_MESSAGES: u64 = 16 * 1024;
/// Most messages of one link that came in part and are not whole; the sender has one of each
/// priority on its way.
pub const MESSAGES_UNFINISHED: usize = 8;
/// Longest encoded log entry: a change and its envelope, in bytes.
pub const ENTRY_BYTES: usize = CHANGE_BYTES + 8 * 1024;
/// Longest body of an entry that is sent with it, in bytes; a longer one goes down the trees of
/// content, and entries name it. An append of so many bytes is vital and waits for nothing: what an
/// entry that is longer costs each of those it is sent to is a reference of about 600 bytes.
pub const BODY_BYTES: usize = 4 * 1024;
/// Most chunks asked for or announced in one message.
pub const PARCEL_CHUNKS: usize = 256;
/// Longest encoded genesis, in bytes.
pub const GENESIS_BYTES: usize = 2 * 1024 * 1024;
/// Longest name of a cluster, in bytes.
pub const CLUSTER_NAME_BYTES: usize = 255;
/// Longest name of a member, in bytes.
pub const MEMBER_NAME_BYTES: usize = 32;
/// Longest `host:port` of a member, in bytes: the longest host name, and a port.
pub const ADDRESS_BYTES: usize = 255 + 1 + 5;
/// Most members of a cluster.
pub const MEMBERS: usize = 5000;
/// Most members a cluster ever has, those included that were removed: their rows stay, so that what
/// they signed can be judged.
pub const MEMBERS_EVER: usize = 4 * MEMBERS;
/// Nodes that hold content before a change that needs it is ordered, as soon as there are so many
/// members (promise D2); a genesis may ask for more.
pub const MIN_COPIES: usize = 2;
/// Most addresses of a member.
pub const MEMBER_ADDRESSES: usize = 8;
/// Most neighbours a member declares.
pub const MEMBER_NEIGHBOURS: usize = 64;
/// Most links of a layout: each member declares its neighbours, and both ends must.
pub const LAYOUT_LINKS: usize = MEMBERS * MEMBER_NEIGHBOURS / 2;
/// The fastest uplink that trees count on, in kbit/s; what is declared beyond it counts as this.
pub const UPLINK_KBIT: u64 = 1_000_000_000;
/// Sets of trees that are kept: one for each layout, writer and set of nodes that want its content.
pub const TREES_KEPT: usize = 64;
/// Most roles a member has one after the other, the first included; they are remembered for good.
pub const MEMBER_ROLES: usize = 256;
/// Longest name of a tag, in bytes.
pub const TAG_NAME_BYTES: usize = 64;
/// Most tags of a cluster.
pub const TAGS: usize = 1024;
/// Most tickets that are neither used, revoked nor expired.
pub const TICKETS_OPEN: usize = 1024;
/// Most tickets remembered, open or not.
pub const TICKETS: usize = 4 * TICKETS_OPEN;
/// The longest a ticket is good for, in milliseconds of order time.
pub const TICKET_VALID_MS: i64 = 31 * 24 * 3600 * 1000;
/// How long a ticket is remembered after its end, in milliseconds of order time.
pub const TICKET_KEPT_MS: i64 = 30 * 24 * 3600 * 1000;
/// Most addresses in the text of a ticket.
pub const TICKET_ADDRESSES: usize = 4;
/// Longest host name in the text of a ticket, in bytes.
pub const TICKET_HOST_BYTES: usize = 64;
/// Longest text of a ticket that is looked at, in bytes, spaces and dashes included.
pub const TICKET_TEXT_BYTES: usize = 2048;
/// Most partitions of a cluster, the control partition included.
pub const PARTITIONS: usize = 256;
/// Most request ids a partition remembers (promise D3).
pub const REQUESTS_REMEMBERED: u64 = 1 << 20;
/// Most names a listing returns at once.
pub const PAGE_ITEMS: usize = 5000;
/// Most changes signed by one signature.
pub const BATCH_CHANGES: usize = 256;
/// Most hashes on the way from a change of a batch to the batch's root.
pub const BATCH_DEPTH: usize = 8;

const _: () = assert!(NAME_BYTES < PATH_BYTES);
const _: () = assert!(SYMLINK_TARGET_BYTES < PATH_BYTES);
const _: () = assert!(MANIFEST_CHUNKS * CHUNK_ROW_BYTES + 2 * PATH_BYTES < CHANGE_BYTES);
const _: () = assert!(CHUNK_MIN_BYTES.is_multiple_of(2) && CHUNK_MAX_BYTES.is_multiple_of(2));
const _: () = assert!(CHUNK_MAX_BYTES < MESSAGE_BYTES && ENTRY_BYTES < MESSAGE_BYTES);
const _: () = assert!(GENESIS_BYTES < MESSAGE_BYTES);
const _: () = assert!(BATCH_CHANGES <= 1 << BATCH_DEPTH);
// Beside text, a member is at most a node id, a key, a role, and the tags and lengths of them all.
const _: () = assert!(MEMBERS * (MEMBER_NAME_BYTES + ADDRESS_BYTES + 64) < GENESIS_BYTES);
// Body and signature of a change.
const _: () = assert!(CHANGE_BYTES + 64 + 32 * BATCH_DEPTH + 64 < ENTRY_BYTES);
const _: () = assert!(TICKETS_OPEN < TICKETS && MEMBERS < MEMBERS_EVER);
// A member's row is a part of a snapshot, which is at most 64 KiB long.
const _: () = assert!(
    MEMBER_ADDRESSES * (ADDRESS_BYTES + 2) + MEMBER_NEIGHBOURS * 10 + MEMBER_ROLES * 12 + 256
        < 64 * 1024
);
// So is a tag's row: comment, times, and a partition and an index for each place.
const _: () = assert!(PARTITIONS * 15 + COMMENT_BYTES + 256 < 64 * 1024);
const _: () = assert!(INLINE_BYTES < CHUNK_MIN_BYTES);
// A body is one parcel.
const _: () = assert!(BODY_BYTES < ENTRY_BYTES && ENTRY_BYTES / CHUNK_MIN_BYTES < PARCEL_CHUNKS);
// The relay's sums: all uplinks in 16 stripes, in fixed point of scale 1,024, as u64.
const _: () = assert!((MEMBERS as u64) < u64::MAX / (UPLINK_KBIT * 16 * 1024));
const _: () = assert!(
    CHANGE_EVENTS <= 1 << 10,
    "a volume id packs the event's ordinal in 10 bits"
);
