//! [pure] The first frames of a link: who speaks, to whom, and why not.

use super::handshake::short;
use aber_log::env::network::LinkClass;
use aber_proto::generated::linkservice::{
    LinkClass as WireClass, LinkFrame, LinkHello, LinkRefusal, LinkRefusalCode, link_frame::Frame,
};
use aber_proto::{ClusterId, NodeId, PublicKey, limit};

/// The version of the link protocol; both ends must speak the same.
pub const PROTOCOL_VERSION: u32 = 7;
/// Of a reason that another node gave, this much is shown.
const REASON_CHARS: usize = 200;

/// What a node says of itself when a link opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Its program's version, for people.
    pub version: String,
}

/// Why there is no link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) code: LinkRefusalCode,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(code: LinkRefusalCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }

    /// What a key that is in nobody's row hears.
    pub(super) fn not_a_member(key: &PublicKey) -> Self {
        let reason = format!(
            "the key of this connection ({}) is no member's: its node never joined, or was removed",
            short(key)
        );
        Self::new(LinkRefusalCode::NotAMember, reason)
    }

    pub(super) fn to_message(&self) -> LinkRefusal {
        LinkRefusal {
            code: self.code.into(),
            reason: self.reason.clone(),
        }
    }

    pub(super) fn to_frame(&self) -> LinkFrame {
        frame(Frame::Refusal(self.to_message()))
    }
}

fn frame(frame: Frame) -> LinkFrame {
    LinkFrame { frame: Some(frame) }
}

fn to_wire(class: LinkClass) -> WireClass {
    match class {
        LinkClass::Control => WireClass::Control,
        LinkClass::Bulk => WireClass::Bulk,
    }
}

/// What another node said, fit for a log or a terminal.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .take(REASON_CHARS)
        .flat_map(|c| {
            let is_plain = c == ' ' || (c.is_ascii_graphic() && c != '\\');
            let escaped = (!is_plain).then(|| c.escape_default());
            is_plain
                .then_some(c)
                .into_iter()
                .chain(escaped.into_iter().flatten())
        })
        .collect()
}

fn name_of(cluster: &[u8]) -> String {
    let start = cluster.get(..4).unwrap_or(cluster);
    data_encoding::HEXLOWER.encode(start)
}

#[cfg(test)]
impl LinkIdentity {
    /// A node of a cluster that tests share.
    pub(crate) fn example(number: u64) -> Self {
        Self {
            cluster: ClusterId([7; 32]),
            node: NodeId(number),
            name: format!("n{number}"),
            version: "0.1.0".to_owned(),
        }
    }
}

impl LinkIdentity {
    /// The first frame to node `to`.
    pub(super) fn hello(&self, to: NodeId, class: LinkClass) -> LinkFrame {
        let bounded = |text: &str| text.chars().take(limit::NAME_BYTES).collect();
        frame(Frame::Hello(LinkHello {
            cluster: self.cluster.0.to_vec().into(),
            node: self.node.0,
            to_node: to.0,
            class: to_wire(class).into(),
            protocol: PROTOCOL_VERSION,
            name: bounded(&self.name),
            version: bounded(&self.version),
        }))
    }

    /// The sentence for one of another protocol: which versions, and who must upgrade.
    pub(crate) fn other_protocol(&self, theirs: u32, version: &str) -> String {
        let (me, version) = (self.node, shown(version));
        let late = if theirs > PROTOCOL_VERSION {
            format!("node {me} must upgrade")
        } else {
            "the other must upgrade".to_owned()
        };
        format!(
            "node {me} (aber {}) speaks link protocol {PROTOCOL_VERSION}, the other {theirs} \
             (aber {version}): {late}",
            self.version,
        )
    }

    /// The sentence for one of another cluster.
    pub(super) fn other_cluster(&self, theirs: &[u8]) -> String {
        let (mine, theirs) = (name_of(&self.cluster.0), name_of(theirs));
        format!("this is cluster {mine}, not {theirs}")
    }

    fn check(&self, hello: &LinkHello) -> Result<LinkClass, Refusal> {
        if hello.protocol != PROTOCOL_VERSION {
            let why = self.other_protocol(hello.protocol, &hello.version);
            return Err(Refusal::new(LinkRefusalCode::Protocol, why));
        }
        if hello.cluster[..] != self.cluster.0 {
            let why = self.other_cluster(&hello.cluster);
            return Err(Refusal::new(LinkRefusalCode::Cluster, why));
        }
        if hello.to_node != self.node.0 {
            return Err(Refusal::new(
                LinkRefusalCode::Node,
                format!("this is node {}, not {}", self.node, hello.to_node),
            ));
        }
        if hello.node == self.node.0 {
            return Err(Refusal::new(
                LinkRefusalCode::Node,
                format!("both ends say that they are node {}", self.node),
            ));
        }
        match hello.class() {
            WireClass::Control => Ok(LinkClass::Control),
            WireClass::Bulk => Ok(LinkClass::Bulk),
            WireClass::Unspecified => Err(Refusal::new(
                LinkRefusalCode::Protocol,
                format!("class {} of a link is unknown", hello.class),
            )),
        }
    }

    /// Judges the first frame of somebody who opened a link: who it is and what for.
    pub(super) fn check_caller(&self, first: &LinkFrame) -> Result<(NodeId, LinkClass), Refusal> {
        match &first.frame {
            Some(Frame::Hello(hello)) => Ok((NodeId(hello.node), self.check(hello)?)),
            _ => Err(Refusal::new(
                LinkRefusalCode::Protocol,
                "a link opens with a hello",
            )),
        }
    }

    /// Judges the first frame that came back from node `to`.
    pub(super) fn check_answer(
        &self,
        first: &LinkFrame,
        to: NodeId,
        class: LinkClass,
    ) -> Result<(), Refusal> {
        match &first.frame {
            Some(Frame::Refusal(refusal)) => {
                Err(Refusal::new(refusal.code(), shown(&refusal.reason)))
            }
            Some(Frame::Hello(hello)) => {
                let their_class = self.check(hello)?;
                if hello.node != to.0 {
                    return Err(Refusal::new(
                        LinkRefusalCode::Node,
                        format!("node {} answered for it", hello.node),
                    ));
                }
                if their_class != class {
                    return Err(Refusal::new(
                        LinkRefusalCode::Protocol,
                        "another class answered",
                    ));
                }
                Ok(())
            }
            _ => Err(Refusal::new(
                LinkRefusalCode::Protocol,
                "it did not answer with a hello",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u64) -> LinkIdentity {
        LinkIdentity::example(number)
    }

    fn code(outcome: Result<(NodeId, LinkClass), Refusal>) -> Option<LinkRefusalCode> {
        outcome.err().map(|refusal| refusal.code)
    }

    #[test]
    fn a_member_is_let_in_and_its_answer_believed() {
        let (one, two) = (node(1), node(2));
        let hello = one.hello(NodeId(2), LinkClass::Bulk);
        assert_eq!(two.check_caller(&hello), Ok((NodeId(1), LinkClass::Bulk)));
        let answer = two.hello(NodeId(1), LinkClass::Bulk);
        assert_eq!(
            one.check_answer(&answer, NodeId(2), LinkClass::Bulk),
            Ok(())
        );
    }

    /// S2, S3: strangers, mistaken numbers and other versions are refused, and told why.
    #[test]
    fn what_does_not_fit_is_refused() {
        let me = node(2);
        let stranger = LinkIdentity {
            cluster: ClusterId([8; 32]),
            ..node(1)
        };
        let hello = stranger.hello(NodeId(2), LinkClass::Bulk);
        assert_eq!(
            code(me.check_caller(&hello)),
            Some(LinkRefusalCode::Cluster)
        );
        let hello = node(1).hello(NodeId(3), LinkClass::Bulk);
        assert_eq!(code(me.check_caller(&hello)), Some(LinkRefusalCode::Node));
        let hello = node(2).hello(NodeId(2), LinkClass::Bulk);
        assert_eq!(code(me.check_caller(&hello)), Some(LinkRefusalCode::Node));
        let mut hello = node(1).hello(NodeId(2), LinkClass::Bulk);
        if let Some(Frame::Hello(hello)) = &mut hello.frame {
            hello.protocol += 1;
        }
        let refusal = me.check_caller(&hello).expect_err("newer");
        assert_eq!(refusal.code, LinkRefusalCode::Protocol);
        assert_eq!(
            refusal.reason,
            format!(
                "node 2 (aber 0.1.0) speaks link protocol {PROTOCOL_VERSION}, the other {} \
                 (aber 0.1.0): node 2 must upgrade",
                PROTOCOL_VERSION + 1
            )
        );
        let older = me.other_protocol(PROTOCOL_VERSION - 1, "0.0.9\u{1b}");
        assert!(
            older.ends_with(&format!(
                "{} (aber 0.0.9\\u{{1b}}): the other must upgrade",
                PROTOCOL_VERSION - 1
            )),
            "{older}"
        );
        let silent = LinkFrame { frame: None };
        assert_eq!(
            code(me.check_caller(&silent)),
            Some(LinkRefusalCode::Protocol)
        );
        let payload = frame(Frame::Payload(vec![1].into()));
        assert_eq!(
            code(me.check_caller(&payload)),
            Some(LinkRefusalCode::Protocol)
        );
    }

    #[test]
    fn an_answer_by_another_node_is_refused() {
        let answer = node(3).hello(NodeId(1), LinkClass::Control);
        let outcome = node(1).check_answer(&answer, NodeId(2), LinkClass::Control);
        assert_eq!(outcome.err().map(|r| r.code), Some(LinkRefusalCode::Node));
        let long = Refusal::new(LinkRefusalCode::Busy, "\u{1b}[31m".repeat(1000)).to_frame();
        let outcome = node(1).check_answer(&long, NodeId(2), LinkClass::Control);
        let reason = outcome.expect_err("refused").reason;
        assert!(
            reason.starts_with("\\u{1b}[31m") && reason.len() < 3000,
            "{reason}"
        );
    }
}
