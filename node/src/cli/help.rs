//! What `--help` says below the options.

pub(super) const EXAMPLES: &str = "\
Examples:
  aber demo                          three nodes on this machine, to look around
  aber up                            start a node here; makes a cluster of one if there is none
  aber invite                        a ticket for one more machine; there: aber join
  aber put song.flac /music/         a file into the tree; -r for directories
  aber put -r photos /               makes /photos
  date | aber put - /notes/now.txt   from standard input
  aber ls -l /music                  what is there
  aber get -r /music ~/copy          a copy of it
  aber log /music                    who did what
  aber status --wait                 until it is safe to switch off
  aber --node PIN@HOST:7789 ls /     a node elsewhere; there: aber up --api

Paths of the tree start with '/'. Nothing that is overwritten or removed is lost: see aber log.
Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 4 not found, 5 guard failed, 6 no majority,
  7 safe in the outbox but not further yet, 8 damage, 9 no node running, 10 not allowed,
  11 no space, 12 version, 124 --timeout, 130 Ctrl-C. Any other means failure.";

pub(super) const AT_HELP: &str = "\
WHEN is the same everywhere: --at, --since, --until, --to.
  2h, 30m, 1d12h                 so long ago
  yesterday, \"yesterday 18:00\", today, 18:00, 2026-11-22, \"2026-11-22 18:00\"
                                 the last thing before then, in local time; RFC 3339 too
  3:1842  3:1842-                just after, just before this entry (aber log shows them)
  -1                             one version ago, of the path given
  before-the-party               a tag

Examples:
  aber at 2h                                     what that chooses
  aber at yesterday ls /music                    short for: aber ls /music --at yesterday
  aber at 3:1842- cat /notes/todo.txt            the file just before that entry";

pub(super) const RESTORE_HELP: &str = "\
What is missing comes back, and files get the content they had. Nothing is moved or removed, and
nothing is lost: what is replaced stays in the history. A plan is shown first.

Examples:
  aber restore /notes/todo.txt --at -1           the version before this one
  aber restore /photos --at yesterday            all that stood there, where it is missing
  aber restore /photos --at 3:1842- --dry-run    what that would do";

pub(super) const ROLLBACK_HELP: &str = "\
Everything at or below the directory becomes what it was: what was removed comes back, what was made
since goes, names and contents are as before. Files that others wrote since are left alone and
listed, unless --all is said. What it undoes stays in the history, and undo takes the rollback back.

Examples:
  aber rollback /music --to 3:1842- --dry-run    the plan: nothing changes
  aber rollback /music --to 2h                   asks before it does anything
  aber rollback --to yesterday --by malo --yes   only what malo did since";

pub(super) const UNDO_HELP: &str = "\
undo walks back over what this node did, one action at a time: a put of a whole directory is one.
redo walks forward again. What somebody changed afterwards is left alone and listed, unless --all
is said.

Examples:
  aber undo                                      shows what, then asks
  aber undo --yes                                does not ask
  aber undo --anyone --dry-run                   what anybody did last";

pub(super) const REVERT_HELP: &str = "\
Examples:
  aber log /music                                shows changes and their names
  aber revert 3:1842                             the whole change
  aber revert 3:1842.7 --dry-run                 its seventh event alone";

pub(super) const AUDIT_HELP: &str = "\
Reads every entry from the genesis on and believes nobody: each must follow from the one before,
and be signed by a member that the log itself admitted. The hashes at the end prove all that came
before them: write them down, and nobody can rewrite history unnoticed.

Examples:
  aber audit                                     what this machine's node holds
  aber audit --pin 3:1842:5f0c...                and is it still what I wrote down?
  aber export --log log.aud                      take it along
  aber audit --file log.aud                      on another machine, without any node
  aber audit --compare log.aud                   do two copies tell one history?";

pub(super) const TAG_HELP: &str = "\
A tag names a moment of the whole tree, and what it shows is kept, whatever the volumes keep.

Examples:
  aber tag                                       all tags, the newest moment first
  aber tag before-the-party                      as it is now
  aber tag release-1 3:1842 --comment \"sent out\"
  aber ls /photos --at before-the-party          anywhere a WHEN can be
  aber tag rm before-the-party                   the name goes, not the files";

pub(super) const PRUNE_HELP: &str = "\
Each node does this by itself once a day. What a volume keeps is set by aber volume set. What goes
does not come back, so look first.

Examples:
  aber prune --dry-run                           what would go
  aber prune /music                              now, here, of this volume alone";

pub(super) const DEMO_HELP: &str = "\
Each node is a process with a directory and a mirror of its own; one that dies is started again.
Without --data everything is in a temporary directory that is removed at the end.

Examples:
  aber demo                                      three nodes, until Ctrl-C
  aber demo --put ~/Music --exit                 are all mirrors equal to ~/Music?
  aber demo --nodes 1 --data /tmp/d              one node, in a directory that is kept";

pub(super) const UP_HELP: &str = "\
Runs in the foreground and logs to standard error. With nothing set up it makes a cluster of one
that works at once; its files appear, read-only, in the mirror directory.

With --api whoever has the key of a member's node may use this one from elsewhere, by TLS: readers
read, writers write too, and history says who asked. Members are changed, and a node is stopped, on
the machine itself. aber status says the whole address, with the pin of this node's key.

Examples:
  aber up                                        everything in the default places
  aber up --data /srv/aber --listen 127.0.0.1:0  elsewhere, on any free port
  aber up --api [::]:7789                        members may use this node from elsewhere";

pub(super) const INVITE_HELP: &str = "\
The ticket works once. Whoever has it gets in, so hand it over as you would a key.

Examples:
  aber invite                                    a writer, until tomorrow
  aber invite --role reader --valid 1h --qr      to be scanned from the terminal
  aber invite --address my.example.org:7787      where the other machine should call";

pub(super) const JOIN_HELP: &str = "\
Asks for the ticket, which is better than to write it here: arguments show in ps. The node runs in
the background afterwards; aber down stops it, and aber up starts it again, without a ticket.

Examples:
  aber join                                      asks for the ticket
  aber join --ticket-file ticket.txt             or - for standard input
  aber join --listen '[::]:7000' --name attic    another port, a name of its own";

pub(super) const PUT_HELP: &str = "\
Ends when the files are ordered by a majority and on two nodes. When nothing moves for 30 seconds it
says what it waits for and ends with 7: what is queued is safe and goes on by itself.

Examples:
  aber put song.flac /music/                     /music/song.flac
  aber put song.flac /music/best.flac            under another name
  aber put -r photos /                           /photos and all that is in it
  aber put -p report.pdf /work/2026/             makes /work/2026 first
  tar c . | aber put - /backup.tar               from standard input";

pub(super) const STATUS_HELP: &str = "\
Examples:
  aber status --wait                             until this machine may be switched off
  aber status --check                            for monitoring: one line and an exit code";

pub(super) const MEMBERS_HELP: &str = "\
Examples:
  aber members                                   names, roles, who votes, who is away
  aber members set gwen --role admin             aber members set --help shows all that can be set
  aber members rm gwen --dry-run                 what would follow from putting it out";

pub(super) const TREE_HELP: &str = "\
Each node computes the same trees by itself, from the members, their lines and their neighbours.
Supposed: nobody declared that line, so it is taken for one like the others.

Examples:
  aber tree                                      how this node's content goes to all others
  aber tree /music/song.flac                     how that of its author went
  aber tree --partition 0                        how entries go, from the leader";

pub(super) const METRICS_HELP: &str = "\
Numbers are of this node since it started. What each means is said beside it.

Examples:
  aber metrics                                   all of them
  aber metrics | grep copies_ratio               copies of its own content that this node sent";

pub(super) const DOCTOR_HELP: &str = "\
Looks at the disk, the key, the ports, the limits of the system and, if the node runs, at addresses
and clocks of all members. Changes nothing. Exit code 1 if there is something to mend.

Examples:
  aber doctor                                    before and after setting a node up
  aber doctor --json                             a line of JSON for each check";

pub(super) const MATERIALIZE_HELP: &str = "\
Without --at it trusts the node with nothing: the chain of entries and the hash of every piece are checked here.

Examples:
  aber materialize --from ~/.local/share/aber --into /srv/mirror
  aber materialize --from /srv/aber --into copy --once
  aber materialize --at yesterday --into y       all as it was, in a directory that is made
  aber materialize --at 3:1842- --into d /music  one directory, just before that entry";

pub(super) const LOG_HELP: &str = "\
One line a file operation: entry, local time, who, + made or written, - removed, > renamed, ~ set,
* members and volumes, then path, size and by what means. Of a file that is gone: what it was.

Examples:
  aber log /music --since 1d                     since this time yesterday
  aber log /notes/todo.txt --follow-renames      all its life
  aber log --removed --by malo                   what malo removed, and how much it was
  aber log --comment \"spring clean\" --until 3:1842
  aber log /notes/todo.txt --versions            its versions, to be read with --at
  aber log /notes/todo.txt -n 1 --json           for programs";

pub(super) const SHOW_HELP: &str = "\
Chain and signature are checked here, from the bytes that the node gives; what is bad ends with 8.
The chain says that the entry follows from the one before it, the signature that its author's key,
as the node knows it, signed this change.

Examples:
  aber show 3:1842                               all events, what each did and what it replaced
  aber show 3:1842.7                             the seventh event alone";

pub(super) const DIFF_HELP: &str = "\
+ added, - removed, ! changed, > renamed (a directory with all below it), ~ mode or time. Of a change
it says how much was written anew, by chunk.

Examples:
  aber diff yesterday                            since then
  aber diff 3:1842- 3:1842                       what this entry did
  aber diff 2026-11-01 2026-11-08 /photos --stat
  aber diff -1 /notes/todo.txt --text            since the version before";

pub(super) const BLAME_HELP: &str = "\
By line for text up to 1 MiB, by chunk otherwise: entry, local time, who, where. A copy is followed to
what it is a copy of. The newest 1,000 versions are looked at.

Examples:
  aber blame /notes/todo.txt
  aber blame /notes/todo.txt --at yesterday";
