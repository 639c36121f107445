//! [pure] The table of reasons: those of the tree, the cluster and its members. Those of a machine
//! and its programs stand behind them, in `local.rs`.

use super::Row;
use tonic::Code;

with_local_reasons! {
    /// A path of the tree does not exist.
    PathNotFound "PATH_NOT_FOUND" NotFound exit 4 retry false
        keys ["path", "removedBy", "entry"]
        what "{path} does not exist"
        why "nothing stands at this path in the tree, as this node knows it[; {removedBy} \
            removed it in {entry}]"
        mend "see what is there: aber ls -R /";
    /// The path must be free and is not.
    PathExists "PATH_EXISTS" AlreadyExists exit 5 retry false
        keys ["path", "etag", "changedBy"]
        what "{path} exists already"
        why "it was to be free, and something stands there[, written by {changedBy}]"
        mend "choose another name, or remove it first: aber rm";
    /// A guard named another version.
    EtagStale "ETAG_STALE" Aborted exit 5 retry false
        keys ["path", "wanted", "found", "changedBy", "changedAt", "entry"]
        what "{path} has changed meanwhile"
        why "the change was for version {wanted}, but {found} is there now[, by {changedBy}]"
        mend "read it again and decide again: aber log {path}";
    /// The directory above is missing.
    NoParent "NO_PARENT" FailedPrecondition exit 4 retry false
        keys ["path"]
        what "the directory of {path} does not exist"
        why "a file or directory is only made in a directory that is there"
        mend "make it first: aber mkdir -p";
    /// A directory is wanted.
    NotADirectory "NOT_A_DIRECTORY" FailedPrecondition exit 1 retry false
        keys ["path"]
        what "{path} is not a directory"
        why "a file or a symbolic link stands where a directory is wanted"
        mend "see what it is: aber ls -l {path}";
    /// A file is wanted.
    IsADirectory "IS_A_DIRECTORY" FailedPrecondition exit 1 retry false
        keys ["path"]
        what "{path} is a directory"
        why "a file is wanted here, and a directory stands there"
        mend "name a file below it, or use -r for whole trees";
    /// A directory is removed or replaced with what is in it.
    DirectoryNotEmpty "DIRECTORY_NOT_EMPTY" FailedPrecondition exit 1 retry false
        keys ["path", "children"]
        what "{path} is not empty"
        why "[{children} names are in it; ]a directory goes only when it is empty, or with -r"
        mend "to remove it with all that is in it: aber rm -r {path}";
    /// A directory moves into itself.
    RenameCycle "RENAME_CYCLE" FailedPrecondition exit 1 retry false
        keys ["path", "target"]
        what "{path} cannot move to {target}"
        why "the new place lies inside the directory that moves"
        mend "choose a place outside of it";
    /// A name breaks a rule.
    NameNotAllowed "NAME_NOT_ALLOWED" InvalidArgument exit 2 retry false
        keys ["path", "rule", "detail"]
        what "{path} is not a path of the tree"
        why "{detail}[ (rule {rule})]"
        mend "paths look like /music/song.flac: they start with '/', and no name is '.', '..', \
            '.aber' or above 255 bytes";
    /// A change is above its limits.
    ChangeTooLarge "CHANGE_TOO_LARGE" InvalidArgument exit 1 retry false
        keys ["events", "bytes", "limit"]
        what "the change is too large"
        why "[it has {events} events; ][it has {bytes} bytes; ]the limit is {limit}"
        mend "send it as several changes";
    /// One change touches two partitions.
    CrossPartition "CROSS_PARTITION" FailedPrecondition exit 1 retry false
        keys ["paths"]
        what "{paths} are in different partitions"
        why "a change is atomic, and only within one partition; top-level directories may live \
            in different ones"
        mend "copy by hand: aber get, aber put, then aber rm";
    /// A regular file is wanted.
    NotAFile "NOT_A_FILE" FailedPrecondition exit 1 retry false
        keys ["path"]
        what "{path} is not a file"
        why "only files have content; a directory or a symbolic link stands there"
        mend "see what it is: aber ls -l {path}";
    /// The root cannot be changed.
    RootFixed "ROOT_FIXED" FailedPrecondition exit 1 retry false
        keys ["path"]
        what "the root of the tree stays as it is"
        why "/ cannot be removed, renamed, replaced or given attributes"
        mend "name something below it: aber ls /";
    /// An answer needs a majority of voters.
    NoMajority "NO_MAJORITY" Unavailable exit 6 retry true
        keys ["partition", "votersUp", "votersNeeded", "votersAway"]
        what "partition {partition} has no majority"
        why "{votersUp} of its voters are here, {votersNeeded} are needed[; away: {votersAway}]"
        mend "start the nodes that are away, then try again";
    /// A chunk is on no node that can be reached.
    ContentNotHere "CONTENT_NOT_HERE" Unavailable exit 6 retry true
        keys ["path", "missingBytes", "holders"]
        what "the content of {path} is not here"
        why "[{missingBytes} bytes of it are missing, and ]no node that has it can be reached \
            now[; it is on {holders}]"
        mend "start a node that has it: aber where {path}";
    /// No known node holds a chunk.
    ContentLost "CONTENT_LOST" DataLoss exit 8 retry false
        keys ["path", "entry"]
        what "the content of {path} is lost"
        why "no member holds all of it any more[; it was written by {entry}]"
        mend "look at what is damaged: aber verify; an older version may be whole: aber log {path}";
    /// Min_index was not applied in time.
    IndexNotReached "INDEX_NOT_REACHED" Unavailable exit 6 retry true
        keys ["wanted", "applied"]
        what "this node is not there yet"
        why "entry {wanted} was asked for, and {applied} is applied here"
        mend "try again in a moment: aber status";
    /// This node's view differs from the others'.
    DigestDiffers "DIGEST_DIFFERS" Unavailable exit 8 retry false
        keys ["partition", "index"]
        what "partition {partition} differs on this node"
        why "its digest at index {index} is not the one the other nodes have"
        mend "ask another node; on this one: aber verify";
    /// The disk is below its reserve.
    NoSpace "NO_SPACE" ResourceExhausted exit 11 retry false
        keys ["freeBytes", "neededBytes", "reserveBytes"]
        what "no space left on this node"
        why "{freeBytes} bytes are free[, {neededBytes} are needed][, and {reserveBytes} are \
            kept for the log]"
        mend "free space on its disk; nothing that was acknowledged is lost";
    /// Too much waits to be ordered.
    OutboxFull "OUTBOX_FULL" ResourceExhausted exit 11 retry true
        keys ["bytes", "limit"]
        what "the outbox is full"
        why "{bytes} of {limit} bytes wait to be ordered"
        mend "wait until they are, or see what they wait for: aber status";
    /// A bound on work in progress was reached.
    Overloaded "OVERLOADED" ResourceExhausted exit 1 retry true
        keys ["detail"]
        what "the node has too much to do"
        why "[{detail}; ]it takes no more work until some is done"
        mend "try again in a moment";
    /// Content is not what its hash says.
    ContentMismatch "CONTENT_MISMATCH" InvalidArgument exit 1 retry false
        keys ["path", "wanted", "found"]
        what "the content arrived changed[: {path}]"
        why "its BLAKE3 is {found}, and {wanted} was announced"
        mend "send it again; if it happens again, check the file with b3sum";
    /// Data of a newer version.
    VersionTooOld "VERSION_TOO_OLD" FailedPrecondition exit 12 retry false
        keys ["what", "found", "supported"]
        what "this aber is too old for {what}"
        why "it has format {found}, and this program knows up to {supported}"
        mend "install a newer aber; nothing was changed";
    /// What was asked for is no longer kept.
    HistoryForgotten "HISTORY_FORGOTTEN" OutOfRange exit 1 retry false
        keys ["partition", "wanted", "oldest", "oldestTime", "detail"]
        what "this part of history is not kept here"
        why "[index {wanted} of partition {partition} was asked for, and the oldest here is \
            {oldest}][, of {oldestTime}][{detail}]"
        mend "[start at index {oldest}, or ]ask a node that keeps more; what each volume keeps: aber \
            volume; to keep a moment from now on: aber tag";
    /// Nobody gave a moment this name.
    TagUnknown "TAG_UNKNOWN" NotFound exit 4 retry false
        keys ["tag"]
        what "there is no tag {tag}"
        why "a WHEN that is no time, no entry and no number of versions names a tag"
        mend "see which there are: aber tag; and what else a WHEN can be: aber at --help";
    /// The cluster has as many tags as it may have.
    TooManyTags "TOO_MANY_TAGS" ResourceExhausted exit 1 retry false
        keys []
        what "the cluster takes no more tags"
        why "1,024 are the most"
        mend "remove some: aber tag, aber tag rm NAME";
    /// Nothing was done that could be undone.
    NothingToUndo "NOTHING_TO_UNDO" NotFound exit 4 retry false
        keys []
        what "there is nothing to undo"
        why "this node has made no change that is not undone already"
        mend "see who did what: aber log; to take back what others did: aber rollback";
    /// Nothing was undone that could be done again.
    NothingToRedo "NOTHING_TO_REDO" NotFound exit 4 retry false
        keys []
        what "there is nothing to do again"
        why "nothing was undone since this node's last change"
        mend "see who did what: aber log";
    /// A file has fewer versions than were asked for.
    VersionNotFound "VERSION_NOT_FOUND" NotFound exit 4 retry false
        keys ["path", "wanted"]
        what "{path} has no version {wanted} before the present one"
        why "it was written fewer times"
        mend "see its versions: aber log {path}";
    /// A cursor or page token of another cluster or call.
    CursorForeign "CURSOR_FOREIGN" InvalidArgument exit 1 retry false
        keys ["detail"]
        what "this cursor is not one of ours"
        why "it is damaged, of another cluster or of another call[: {detail}]"
        mend "list again from the start";
    /// One request id for two requests.
    RequestIdReused "REQUEST_ID_REUSED" InvalidArgument exit 1 retry false
        keys ["requestId"]
        what "request id {requestId} was used for something else"
        why "the same id must come with the same request"
        mend "use a new id for a new request";
    /// This node knows no such change.
    ChangeUnknown "CHANGE_UNKNOWN" NotFound exit 4 retry false
        keys ["requestId"]
        what "this node knows no change {requestId}"
        why "it was made on another node, or never arrived"
        mend "send it again with the same id: it is done once";
    /// No such entry.
    EntryNotFound "ENTRY_NOT_FOUND" NotFound exit 4 retry false
        keys ["entry"]
        what "there is no entry {entry}"
        why "this node has not seen it[, or it is not kept any more]"
        mend "see which there are: aber log";
    /// The caller may not do this.
    NotAllowed "NOT_ALLOWED" PermissionDenied exit 10 retry false
        keys ["user", "caller", "member", "role", "needed", "call", "who", "detail"]
        what "this is not allowed[: {member} is a {role}]"
        why "[{detail}; ][the node's socket serves its own user and root only, and the caller is user \
            {caller}][it takes the role {needed}][over the \
            network {call} is for {who}]"
        mend "[run it as user {user}][an admin's node can raise the role: aber members set \
            {member} --role {needed}][run it on that machine ({call}); members and tickets can be \
            changed at any admin's own node]";
    /// The author of a change is no member.
    NotAMember "NOT_A_MEMBER" PermissionDenied exit 10 retry false
        keys ["member", "entry"]
        what "this node is no member of the cluster"
        why "the others order nothing from a node that never joined or was removed"
        mend "ask an admin for a ticket";
    /// A key that the node's API does not serve.
    KeyNotAllowed "KEY_NOT_ALLOWED" Unauthenticated exit 10 retry false
        keys ["key"]
        what "the node does not serve this key"
        why "no member of its cluster has the key[ {key}], or that member was removed"
        mend "name the data directory of a member's node: --data DIR; if there is none: aber join";
    /// A ticket would be good for too long.
    TicketTooLong "TICKET_TOO_LONG" InvalidArgument exit 10 retry false
        keys []
        what "a ticket cannot be good for so long"
        why "31 days are the most"
        mend "choose a shorter time";
    /// Too many tickets are open.
    TooManyTickets "TOO_MANY_TICKETS" ResourceExhausted exit 10 retry false
        keys []
        what "too many tickets are open"
        why "1,024 are the most"
        mend "revoke some: aber invite ls, aber invite revoke ID";
    /// Content is nowhere else.
    LastCopy "LAST_COPY" FailedPrecondition exit 1 retry false
        keys ["node", "bytes"]
        what "{node} may have the last copy of {bytes} bytes"
        why "no other node that can be reached now is known to hold them"
        mend "start the nodes that are away, or wait until the others have it: aber status; to \
            remove it all the same: --accept-loss";
    /// Nobody would be left to admit and remove.
    LastAdmin "LAST_ADMIN" FailedPrecondition exit 10 retry false
        keys ["member", "entry"]
        what "{member} is the last admin"
        why "without one nobody could let members in, or put them out, ever again"
        mend "make another member an admin first: aber members set NAME --role admin";
    /// No such member.
    MemberUnknown "MEMBER_UNKNOWN" NotFound exit 4 retry false
        keys ["member", "entry"]
        what "there is no member {member}"
        why "none has this name, as this node knows it"
        mend "see who there is: aber members";
    /// The member was removed.
    MemberRemoved "MEMBER_REMOVED" FailedPrecondition exit 10 retry false
        keys ["member", "entry"]
        what "{member} was removed from the cluster"
        why "a removal is for good[: it is entry {entry}]; number and key are never used again"
        mend "it can only join anew, as another member, with a new ticket and an empty data \
            directory";
    /// The cluster is full.
    TooManyMembers "TOO_MANY_MEMBERS" ResourceExhausted exit 10 retry false
        keys []
        what "the cluster takes no more members"
        why "5,000 at once and 20,000 ever are the most"
        mend "remove members that are gone: aber members rm";
    /// A member's role changed too often.
    TooManyRoles "TOO_MANY_ROLES" FailedPrecondition exit 10 retry false
        keys ["member"]
        what "the role of {member} was changed too often"
        why "each change is kept for ever, and 256 are the most"
        mend "remove it, and let it join anew";
    /// A name is in use.
    NameTaken "NAME_TAKEN" AlreadyExists exit 5 retry false
        keys ["name", "entry"]
        what "the name {name} is taken"
        why "something else has it already, and names are unique"
        mend "choose another one";
    /// A plan does not fit any more.
    PlanStale "PLAN_STALE" Aborted exit 5 retry false
        keys ["plan", "detail"]
        what "the plan is stale"
        why "[{detail}; ]what it was made for has changed meanwhile; nothing was done"
        mend "plan again";
    /// No such plan.
    PlanUnknown "PLAN_UNKNOWN" NotFound exit 4 retry false
        keys ["plan"]
        what "there is no plan {plan}"
        why "it was made on another node, was done, or is older than an hour or this node's start"
        mend "plan again";
    /// A directory or node of another cluster.
    OtherCluster "OTHER_CLUSTER" FailedPrecondition exit 1 retry false
        keys ["what", "found", "wanted"]
        what "{what} belongs to another cluster"
        why "its cluster is {found}, not {wanted}"
        mend "use the directory of this cluster, or another --data; nothing was changed";
    /// A ticket has a typing error, or is none.
    TicketDamaged "TICKET_DAMAGED" InvalidArgument exit 10 retry false
        keys ["detail"]
        what "this is not a whole ticket"
        why "{detail}; nothing was sent to anybody"
        mend "compare it with the original, letter by letter, or paste it: a ticket is all that \
            aber invite printed, from aber1- on";
    /// A ticket was not used in time.
    TicketExpired "TICKET_EXPIRED" PermissionDenied exit 10 retry false
        keys ["cluster", "expiredAt", "inviter"]
        what "[cannot join {cluster}: ]this ticket has expired"
        why "it was good until {expiredAt}"
        mend "ask[ {inviter}] for a new one (aber invite); typing it again will not help";
    /// A ticket let somebody in before.
    TicketUsed "TICKET_USED" PermissionDenied exit 10 retry false
        keys ["cluster", "usedBy", "usedAt", "inviter"]
        what "[cannot join {cluster}: ]this ticket was already used"
        why "it let {usedBy} in on {usedAt}; a ticket is good for one node"
        mend "ask[ {inviter}] for a new one (aber invite); typing it again will not help";
    /// A ticket was taken back.
    TicketRevoked "TICKET_REVOKED" PermissionDenied exit 10 retry false
        keys ["cluster", "revokedBy", "revokedAt", "inviter"]
        what "[cannot join {cluster}: ]this ticket was revoked"
        why "{revokedBy} took it back on {revokedAt}"
        mend "ask[ {inviter}] for a new one (aber invite); typing it again will not help";
    /// The cluster knows no such ticket.
    TicketUnknown "TICKET_UNKNOWN" PermissionDenied exit 10 retry false
        keys ["cluster", "inviter", "detail", "ticket"]
        what "[cannot join {cluster}: ]nobody knows this ticket[: {ticket}]"
        why "[{detail}; ]it was never ordered, or ended more than 30 days ago"
        mend "ask[ {inviter}] for a new one (aber invite); typing it again will not help";
    /// Nobody answers at any address of a ticket.
    InviterAway "INVITER_AWAY" Unavailable exit 6 retry true
        keys ["tried"]
        what "nobody who could let this node in answers"
        why "tried {tried}"
        mend "start the node that made the ticket and open the way to it, then run the same \
            command again: the ticket is as good as before";
    /// Another key than the ticket's answers.
    OtherKey "OTHER_KEY" FailedPrecondition exit 10 retry false
        keys ["address"]
        what "at {address} answers somebody else than who made the ticket"
        why "its key is not the one in the ticket: another machine has that address now, or \
            somebody sits in between; nothing was told to it"
        mend "ask whoever made the ticket where the node is, and for a new ticket with that address \
            (aber invite --address HOST:PORT)";
    /// One side uses TLS and the other does not, or another version of it.
    OtherMode "OTHER_MODE" FailedPrecondition exit 1 retry false
        keys ["address", "detail"]
        what "{address} cannot be talked to like this"
        why "{detail}"
        mend "run aber join with --plaintext if the cluster uses it, without if not; the ticket is as \
            good as before";
    /// The other side is older or newer.
    OtherProtocol "OTHER_PROTOCOL" FailedPrecondition exit 12 retry false
        keys ["detail"]
        what "the versions of aber on the two machines do not fit together"
        why "{detail}"
        mend "install the same version on both, then run the same command again: the ticket is as \
            good as before";
    /// The cluster did not let the node in, or not yet.
    NotAdmitted "NOT_ADMITTED" Unavailable exit 6 retry true
        keys ["detail"]
        what "this node is not let in yet"
        why "{detail}"
        mend "run the same command with the same ticket again in a while: it goes on where it stopped";
}
