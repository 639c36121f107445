//! [pure] What can go wrong, in one table: reason -> gRPC status, exit code, retry, and the words
//! for it (what, why, mend).
//!
//! A [`Problem`] is a reason and the facts its sentences need. The table stands in
//! `reason/table.rs`, and goes on in `reason/local.rs`; command line, notices and gRPC answers all
//! read it, so that an error says the same everywhere. A template names facts as `{key}`; a part in `[...]` is left out when one of
//! its facts is not known. No mend that cannot work.

/// Declares the reasons and their rows together, so that none can lack one.
macro_rules! reasons {
    ($(
        $(#[$doc:meta])* $variant:ident $name:literal $code:ident exit $exit:literal
        retry $retry:literal keys [$($key:literal),*]
        what $what:literal why $why:literal mend $mend:literal;
    )*) => {
        /// Why something went wrong. Names are those of `ErrorReason` in `common.proto`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire and in brackets behind an error, as `PATH_NOT_FOUND`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason with this name.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// What the table says.
            #[must_use]
            pub fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: Code::$code,
                        exit: $exit,
                        retry: $retry,
                        keys: &[$($key),*],
                        what: $what,
                        why: $why,
                        mend: $mend,
                    },)*
                }
            }
        }
    };
}

#[macro_use]
mod local;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub use table::Reason;

/// The domain of our reasons in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "aber";

/// Most characters of a fact that are kept: facts travel in HTTP headers.
const FACT_CHARS: usize = 600;

/// What the table says of a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The status of a gRPC answer.
    pub code: Code,
    /// The exit code of the command line.
    pub exit: u8,
    /// Whether the same call can work a moment later.
    pub retry: bool,
    /// The facts its texts may use.
    pub keys: &'static [&'static str],
    /// What happened.
    pub what: &'static str,
    /// Why.
    pub why: &'static str,
    /// What to do about it.
    pub mend: &'static str,
}

/// Something went wrong: why, and the facts that tell one such case from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Why.
    pub reason: Reason,
    /// The facts, by the keys of the reason's row.
    pub metadata: BTreeMap<String, String>,
}

impl Problem {
    /// A problem without facts.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            metadata: BTreeMap::new(),
        }
    }

    /// The problem with one more fact. Facts are cut to a length that fits in an answer.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        let mut text = value.to_string();
        if let Some((cut, _)) = text.char_indices().nth(FACT_CHARS) {
            text.truncate(cut);
            text.push('…');
        }
        self.metadata.insert(key.to_owned(), text);
        self
    }

    /// A problem of ours that no user can mend.
    #[must_use]
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(Reason::Internal).with("detail", detail)
    }

    /// A command that cannot be understood.
    #[must_use]
    pub fn usage(detail: impl fmt::Display) -> Self {
        Self::new(Reason::Usage).with("detail", detail)
    }

    /// A path that breaks a rule for names.
    #[must_use]
    pub fn name(path: &str, problem: aber_proto::PathProblem) -> Self {
        Self::new(Reason::NameNotAllowed)
            .with("path", path)
            .with("rule", problem.rule())
            .with("detail", problem)
    }

    /// One fact.
    #[must_use]
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// What happened, in a sentence.
    #[must_use]
    pub fn what(&self) -> String {
        render(self.reason.row().what, &self.metadata)
    }

    /// Why, in a sentence.
    #[must_use]
    pub fn why(&self) -> String {
        render(self.reason.row().why, &self.metadata)
    }

    /// What to do about it, in a sentence.
    #[must_use]
    pub fn mend(&self) -> String {
        render(self.reason.row().mend, &self.metadata)
    }

    /// Whether the same call can work a moment later.
    #[must_use]
    pub fn retry(&self) -> bool {
        self.reason.row().retry
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) [{}]",
            self.what(),
            self.why(),
            self.reason.name()
        )
    }
}

impl std::error::Error for Problem {}

/// Fills a template: `{key}` by its fact, or `?` where it is not known; a part in `[...]` is left
/// out when it names a fact that is not known.
fn render(template: &str, facts: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('[') {
        let (before, after) = rest.split_at(start);
        fill(before, facts, &mut out);
        let inner = after.strip_prefix('[').unwrap_or(after);
        let (part, tail) = inner.split_once(']').unwrap_or((inner, ""));
        if placeholders(part).all(|key| facts.contains_key(key)) {
            fill(part, facts, &mut out);
        }
        rest = tail;
    }
    fill(rest, facts, &mut out);
    out
}

fn fill(part: &str, facts: &BTreeMap<String, String>, out: &mut String) {
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (key, tail) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(facts.get(key).map_or("?", String::as_str));
        rest = tail;
    }
    out.push_str(rest);
}

/// The keys a template names.
fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}').map(|(key, _)| key))
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let row = problem.reason.row();
        #[expect(clippy::disallowed_types, reason = "the library wants this map")]
        let facts: std::collections::HashMap<_, _> = problem.metadata.clone().into_iter().collect();
        let details = ErrorDetails::with_error_info(problem.reason.name(), DOMAIN, facts);
        Self::with_error_details(row.code, problem.what(), details)
    }
}

impl From<&Status> for Problem {
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let ours = info.filter(|info| info.domain == DOMAIN);
        if let Some(info) = ours
            && let Some(reason) = Reason::parse(&info.reason)
        {
            let metadata = info.metadata.into_iter().collect();
            return Self { reason, metadata };
        }
        let reason = match status.code() {
            Code::DeadlineExceeded => Reason::TimedOut,
            Code::Unavailable | Code::Cancelled | Code::Aborted => Reason::Stopping,
            Code::Unimplemented => Reason::NotOffered,
            Code::ResourceExhausted => Reason::Overloaded,
            _ => Reason::Internal,
        };
        Self::new(reason).with("detail", status.message())
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self::from(&status)
    }
}

#[cfg(test)]
mod tests;
