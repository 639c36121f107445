//! [pure] The table of reasons, its second part: those of one machine and its programs.

/// Declares all reasons: those that it is given, then those that stand here.
macro_rules! with_local_reasons {
    ($($before:tt)*) => { reasons! {
    $($before)*
    /// Nobody answers at the socket.
    DaemonNotRunning "DAEMON_NOT_RUNNING" Unavailable exit 9 retry true
        keys ["socket", "detail"]
        what "no node is running here"
        why "nobody answers at {socket}[: {detail}]"
        mend "start it: aber up; if it has its data elsewhere, name it: --data DIR";
    /// Nobody answers where a node's API is said to be.
    NodeAway "NODE_AWAY" Unavailable exit 9 retry true
        keys ["address", "detail"]
        what "nobody answers at {address}"
        why "the node does not run, or its API is not open there, or the way to it is closed[: \
            {detail}]"
        mend "on that machine: aber status says where its API is; aber up --api HOST:PORT opens it";
    /// Another key than the one that was named answers.
    NodeKeyDiffers "NODE_KEY_DIFFERS" FailedPrecondition exit 10 retry false
        keys ["address", "key"]
        what "at {address} answers another node than the one that was named"
        why "its key[ ({key})] is not the one before the @: another machine has that address now, or \
            somebody sits in between; nothing was told to it"
        mend "compare what stands before the @ with aber status on that node";
    /// What answers at an address is no API of a node.
    NotAnApi "NOT_AN_API" FailedPrecondition exit 1 retry false
        keys ["address", "detail"]
        what "{address} is not the API of a node"
        why "{detail}"
        mend "look at the port: other nodes are served at another one than the API; aber status on \
            that node says which";
    /// A second daemon on one directory.
    DataDirInUse "DATA_DIR_IN_USE" FailedPrecondition exit 1 retry false
        keys ["dir", "pid"]
        what "{dir} is in use"
        why "another aber[, process {pid},] runs on this directory"
        mend "stop it first: aber down --data {dir}";
    /// The data directory cannot be used.
    DataDirUnusable "DATA_DIR_UNUSABLE" FailedPrecondition exit 1 retry false
        keys ["dir", "detail"]
        what "{dir} cannot be used as data directory"
        why "{detail}"
        mend "name another one by --data, or mend its owner and mode; nothing was changed";
    /// The address is taken.
    PortInUse "PORT_IN_USE" FailedPrecondition exit 1 retry false
        keys ["address", "option", "detail"]
        what "{address} cannot be used"
        why "another program listens there, or the address is not of this machine[: {detail}]"
        mend "choose another one: aber up {option} 127.0.0.1:0 takes any free port";
    /// The mirror directory cannot be used.
    MirrorUnusable "MIRROR_UNUSABLE" FailedPrecondition exit 1 retry false
        keys ["dir", "detail"]
        what "{dir} cannot be used as mirror"
        why "{detail}"
        mend "name an empty directory: --mirror DIR";
    /// A local file does not exist.
    SourceMissing "SOURCE_MISSING" NotFound exit 4 retry false
        keys ["path"]
        what "{path} does not exist on this machine"
        why "the first arguments of put are local files"
        mend "check the name; nothing of it was sent";
    /// A local file cannot be read.
    SourceUnreadable "SOURCE_UNREADABLE" FailedPrecondition exit 1 retry false
        keys ["path", "detail"]
        what "{path} cannot be read"
        why "{detail}"
        mend "mend its mode or owner, then put it again";
    /// A local file cannot be written.
    TargetUnwritable "TARGET_UNWRITABLE" FailedPrecondition exit 1 retry false
        keys ["path", "detail"]
        what "{path} cannot be written"
        why "{detail}"
        mend "name another place; what was there is as it was";
    /// An upload did not come to its end.
    UploadBroken "UPLOAD_BROKEN" Unavailable exit 1 retry true
        keys ["bytes", "detail"]
        what "the upload broke off"
        why "it ended after {bytes} bytes without its end mark[: {detail}]"
        mend "send it again: nothing of it became a file, and what arrived is not sent twice";
    /// The disk failed the node.
    StorageFailed "STORAGE_FAILED" Internal exit 74 retry false
        keys ["detail"]
        what "the storage of this node failed"
        why "{detail}"
        mend "check its disk, then start it again; nothing acknowledged is lost";
    /// The log on disk is damaged.
    LogDamaged "LOG_DAMAGED" DataLoss exit 8 retry false
        keys ["file", "offset", "detail"]
        what "the log of this node is damaged[: {file}]"
        why "[at byte {offset}: ]{detail}"
        mend "keep the directory, check the disk; another node has the same log";
    /// What is shown here is not what the others have.
    OtherView "OTHER_VIEW" DataLoss exit 8 retry false
        keys ["path", "partition"]
        what "this node does not serve {path}"
        why "after the same entries a majority of the voters has another tree of partition {partition}, \
            and building the index anew did not help"
        mend "read it at another node; here: the same aber as on the others, a look at the memory, \
            then stop it, remove its directory index, and start it";
    /// The node is going away.
    Stopping "STOPPING" Unavailable exit 9 retry true
        keys ["detail"]
        what "the node stopped before it answered"
        why "it is shutting down or was killed[: {detail}]"
        mend "start it again if it does not by itself, then repeat the command";
    /// The time given is over.
    TimedOut "TIMED_OUT" DeadlineExceeded exit 124 retry true
        keys ["seconds", "detail"]
        what "not done within the time given"
        why "[{seconds} seconds are over; ][{detail}; ]a write that was under way may still be \
            done"
        mend "look what became of it: aber status; a longer time: --timeout";
    /// Ctrl-C.
    Interrupted "INTERRUPTED" Cancelled exit 130 retry false
        keys []
        what "interrupted"
        why "Ctrl-C was pressed, or the terminal closed"
        mend "run the command again to go on";
    /// A call this node does not know.
    NotOffered "NOT_OFFERED" Unimplemented exit 1 retry false
        keys ["detail"]
        what "this node cannot do that"
        why "[{detail}; ]its version does not know the call"
        mend "run the same version of aber as node and as command";
    /// An entry was ordered and had no effect.
    ChangeRejected "CHANGE_REJECTED" FailedPrecondition exit 1 retry false
        keys ["entry", "detail"]
        what "the change was rejected[ as {entry}]"
        why "{detail}"
        mend "read the tree again and decide again";
    /// A command that cannot be understood.
    Usage "USAGE" InvalidArgument exit 2 retry false
        keys ["detail"]
        what "the command cannot be done as given"
        why "{detail}"
        mend "see: aber help";
    /// A defect of ours.
    Internal "INTERNAL" Internal exit 1 retry false
        keys ["detail"]
        what "aber made a mistake"
        why "{detail}"
        mend "please report it with the log of the node; what was acknowledged is safe";
    /// Demo found a difference.
    MirrorsDiffer "MIRRORS_DIFFER" DataLoss exit 8 retry false
        keys ["count", "first"]
        what "a mirror is not what was put"
        why "{count} differences, the first: {first}"
        mend "keep the directory and look at the nodes' logs in it; then aber verify --data DIR/n1";
    /// No systemd that runs units of users.
    NoSystemd "NO_SYSTEMD" FailedPrecondition exit 1 retry false
        keys ["detail"]
        what "systemd does not run units for this user"
        why "{detail}"
        mend "log in to a session of your own and try again; without systemd, let another \
            supervisor run: aber up";
    /// A unit that this program did not write, or that was edited.
    UnitForeign "UNIT_FOREIGN" FailedPrecondition exit 1 retry false
        keys ["path"]
        what "{path} is left as it is"
        why "aber service install did not write it, or it was edited since"
        mend "move it away, then try again; changes of your own go into a drop-in: systemctl \
            --user edit aber";
    /// Some of many were left out.
    PartlyDone "PARTLY_DONE" Unknown exit 3 retry false
        keys ["done", "left", "first"]
        what "partly done: {left} left out"
        why "{done} were done; the first that was not: {first}"
        mend "mend what is listed above, then run the same command again";
} };
}
