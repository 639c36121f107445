//! [adapter] The commands there are, and who runs each.

use super::where_is;
use super::{Context, Outcome, help};
use super::{
    at, audit, blame, cluster, diff, doctor, file, get, history, invite, join, links, log,
};
use super::{members, metrics, prune, put, revert, service, show, start, tag, tree, volume, watch};
use clap::Subcommand;
use serde_json::json;

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Start several nodes on this machine, to try things out
    #[command(after_help = help::DEMO_HELP)]
    Demo(start::DemoArgs),
    /// Start the node; with nothing set up: a cluster of one
    #[command(after_help = help::UP_HELP)]
    Up(start::UpArgs),
    /// Stop the node
    Down,
    /// Make a ticket that lets one more node in
    #[command(after_help = help::INVITE_HELP)]
    Invite(invite::InviteArgs),
    /// Make this machine a node of somebody's cluster, by a ticket
    #[command(after_help = help::JOIN_HELP)]
    Join(join::JoinArgs),
    /// How the node and its cluster are
    #[command(after_help = help::STATUS_HELP)]
    Status(cluster::StatusArgs),
    /// Put local files into the tree
    #[command(after_help = help::PUT_HELP)]
    Put(put::PutArgs),
    /// Get files from the tree
    Get(get::GetArgs),
    /// List a directory
    Ls(file::LsArgs),
    /// Write files to standard output
    Cat(get::CatArgs),
    /// Rename or move
    Mv(file::MoveArgs),
    /// Copy within the tree; sends nothing
    Cp(file::MoveArgs),
    /// Remove; history keeps it
    Rm(file::RmArgs),
    /// Make directories; a top-level one is a volume
    Mkdir(file::MkdirArgs),
    /// Which nodes have a file
    Where(where_is::WhereArgs),
    /// What happens, as it happens; goes on from any cursor without a gap
    Watch(watch::WatchArgs),
    /// Who did what, newest first
    #[command(after_help = help::LOG_HELP)]
    Log(log::LogArgs),
    /// One entry in full, checked
    #[command(after_help = help::SHOW_HELP)]
    Show(show::ShowArgs),
    /// What differs between two moments
    #[command(after_help = help::DIFF_HELP)]
    Diff(diff::DiffArgs),
    /// Who last wrote each line of a file
    #[command(after_help = help::BLAME_HELP)]
    Blame(blame::BlameArgs),
    /// What a WHEN chooses, or a command as of then
    #[command(after_help = help::AT_HELP)]
    At(at::AtArgs),
    /// Bring one path back as it was
    #[command(after_help = help::RESTORE_HELP)]
    Restore(revert::RestoreArgs),
    /// Bring a directory, or everything, back as it was
    #[command(after_help = help::ROLLBACK_HELP)]
    Rollback(revert::RollbackArgs),
    /// Take back what this node did last; again: what it did before that
    #[command(after_help = help::UNDO_HELP)]
    Undo(revert::StepArgs),
    /// Do again what was undone last
    #[command(after_help = help::UNDO_HELP)]
    Redo(revert::StepArgs),
    /// Take one change back, or one event of it
    #[command(after_help = help::REVERT_HELP)]
    Revert(revert::RevertArgs),
    /// Check the whole history: one chain, signed, and who did how much
    #[command(after_help = help::AUDIT_HELP)]
    Audit(audit::AuditArgs),
    /// Write the log down, to be audited anywhere
    Export(audit::ExportArgs),
    /// Names of moments: all of them, or set or remove one
    #[command(after_help = help::TAG_HELP)]
    Tag(tag::TagArgs),
    /// The top-level directories, and how much of their past is kept
    Volume(volume::VolumeArgs),
    /// Let go of the past that is not to be kept, now
    #[command(after_help = help::PRUNE_HELP)]
    Prune(prune::PruneArgs),
    /// Who belongs to the cluster, and how they are
    #[command(after_help = help::MEMBERS_HELP)]
    Members(members::MembersArgs),
    /// Whom this node is connected to, and why not
    Links,
    /// The trees down which content or entries go
    #[command(after_help = help::TREE_HELP)]
    Tree(tree::TreeArgs),
    /// Counters and gauges of the node, as text that Prometheus reads
    #[command(after_help = help::METRICS_HELP)]
    Metrics,
    /// Read everything again, check it, and fetch from other nodes what is damaged
    Verify(history::VerifyArgs),
    /// Is everything here as a node needs it?
    #[command(after_help = help::DOCTOR_HELP)]
    Doctor,
    /// The node as a service of systemd
    Service(service::ServiceArgs),
    /// Follow a node into a directory, as a process of its own
    #[command(after_help = help::MATERIALIZE_HELP)]
    Materialize(start::MaterializeArgs),
    /// The version of this program
    Version,
}

impl Command {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "demo",
            Self::Up(_) => "up",
            Self::Down => "down",
            Self::Invite(_) => "invite",
            Self::Join(_) => "join",
            Self::Status(_) => "status",
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Ls(_) => "ls",
            Self::Cat(_) => "cat",
            Self::Mv(_) => "mv",
            Self::Cp(_) => "cp",
            Self::Rm(_) => "rm",
            Self::Mkdir(_) => "mkdir",
            Self::Where(_) => "where",
            Self::Watch(_) => "watch",
            Self::Log(_) => "log",
            Self::Show(_) => "show",
            Self::Diff(_) => "diff",
            Self::Blame(_) => "blame",
            Self::At(_) => "at",
            Self::Restore(_) => "restore",
            Self::Rollback(_) => "rollback",
            Self::Undo(_) => "undo",
            Self::Redo(_) => "redo",
            Self::Revert(_) => "revert",
            Self::Audit(_) => "audit",
            Self::Export(_) => "export",
            Self::Tag(_) => "tag",
            Self::Volume(_) => "volume",
            Self::Prune(_) => "prune",
            Self::Members(_) => "members",
            Self::Links => "links",
            Self::Tree(_) => "tree",
            Self::Metrics => "metrics",
            Self::Verify(_) => "verify",
            Self::Doctor => "doctor",
            Self::Service(_) => "service",
            Self::Materialize(_) => "materialize",
            Self::Version => "version",
        }
    }

    /// Whether it ends by itself on Ctrl-C, and uses `--timeout` in its own way.
    pub(super) fn is_its_own_master(&self) -> bool {
        match self {
            Self::Up(_) | Self::Demo(_) => true,
            Self::Join(args) => args.foreground,
            _ => false,
        }
    }

    /// Whether a change may be on its way when it is interrupted.
    pub(super) fn writes(&self) -> bool {
        use Command::{Cp, Invite, Members, Mkdir, Mv, Put, Rm};
        use Command::{Redo, Restore, Revert, Rollback, Undo};
        match self {
            Put(_) | Mv(_) | Cp(_) | Rm(_) | Mkdir(_) => true,
            Self::Tag(args) => args.writes(),
            Self::Volume(args) => args.writes(),
            Restore(_) | Rollback(_) | Undo(_) | Redo(_) | Revert(_) => true,
            Members(args) => args.writes(),
            Invite(args) => args.writes(),
            _ => false,
        }
    }
}

/// Runs a command.
pub(super) async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Demo(args) => start::demo(context, args).await,
        Command::Up(args) => start::up(context, args).await,
        Command::Down => start::down(context).await,
        Command::Invite(args) => invite::invite(context, args).await,
        Command::Join(args) => join::join(context, args).await,
        Command::Status(args) => cluster::status(context, args).await,
        Command::Put(args) => put::put(context, args).await,
        Command::Get(args) => get::get(context, args).await,
        Command::Ls(args) => file::ls(context, args).await,
        Command::Cat(args) => get::cat(context, args).await,
        Command::Mv(args) => file::mv(context, args).await,
        Command::Cp(args) => file::cp(context, args).await,
        Command::Rm(args) => file::rm(context, args).await,
        Command::Mkdir(args) => file::mkdir(context, args).await,
        Command::Where(args) => where_is::where_is(context, args).await,
        Command::Watch(args) => watch::watch(context, args).await,
        Command::Log(args) => log::log(context, args).await,
        Command::Show(args) => show::show(context, args).await,
        Command::Diff(args) => diff::diff(context, args).await,
        Command::Blame(args) => blame::blame(context, args).await,
        Command::At(args) => at::at(context, args).await,
        Command::Restore(args) => revert::restore(context, args).await,
        Command::Rollback(args) => revert::rollback(context, args).await,
        Command::Undo(args) => revert::step(context, args, false).await,
        Command::Redo(args) => revert::step(context, args, true).await,
        Command::Revert(args) => revert::revert(context, args).await,
        Command::Audit(args) => audit::audit(context, args).await,
        Command::Export(args) => audit::export(context, args).await,
        Command::Tag(args) => tag::tag(context, args).await,
        Command::Volume(args) => volume::volume(context, args).await,
        Command::Prune(args) => prune::prune(context, args).await,
        Command::Members(args) => members::members(context, args).await,
        Command::Links => links::links(context).await,
        Command::Tree(args) => tree::tree(context, args).await,
        Command::Metrics => metrics::metrics(context).await,
        Command::Verify(args) => history::verify(context, args).await,
        Command::Doctor => doctor::doctor(context).await,
        Command::Service(args) => service::service(context, args).await,
        Command::Materialize(args) => start::materialize(context, args).await,
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            context
                .out
                .result(Some(format!("aber {version}")), json!({"version": version}));
            Ok(0)
        }
    }
}
