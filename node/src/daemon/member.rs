//! [driver] The file `member`: which member this node is, how it was told to run, whom it knows.
//!
//! Founders find themselves in the genesis by their key; for whoever joined, this file says the
//! number. It is replaced whole, so that a kill leaves the old one or the new one. Its contacts follow
//! the membership: a node whose index is gone asks them for what it lacks.

use super::unusable;
use crate::env::SystemEnv;
use crate::node::{Contact, Node};
use crate::reason::{Problem, Reason};
use crate::schedule::Schedule;
use aber_log::env::disk::{read_small, write_small};
use aber_log::env::network::{PEER_ADDRESSES, Peer};
use aber_log::env::{Env, Runtime};
use aber_materializer::members::Members;
use aber_proto::generated::store;
use aber_proto::{NodeId, PublicKey, limit, member};
use bytes::Bytes;
use prost::Message;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MEMBER_FILE: &str = "member";
const FORMAT: u32 = 1;
/// Longest file that is looked at: as many contacts as there may be members.
const FILE_BYTES: usize = 16 * 1024 * 1024;
/// Changes of the membership within this time are written once.
const CALM: Duration = Duration::from_secs(1);

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MemberFile {
    /// Never 0.
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Its own: a key file of somebody else beside this one is found out.
    pub(super) key: PublicKey,
    /// How it was told to run, the last time somebody said.
    pub(super) told: Told,
    pub(super) contacts: Vec<Contact>,
}

/// How a node was told to run: what is said once holds for later starts too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// Where links listen; `None`: everywhere, at the usual port.
    pub(super) listen: Option<SocketAddr>,
    /// Where others look for it; none: at the machine's own addresses.
    pub(super) addresses: Vec<String>,
    pub(super) plaintext: bool,
    /// Where the API is over TCP; `None`: nowhere.
    pub(super) api: Option<SocketAddr>,
    /// What part of its line is used when.
    pub(super) schedule: Schedule,
    /// `None`: `mirror` in the data directory.
    pub(super) mirror: Option<PathBuf>,
}

impl MemberFile {
    fn encode(&self) -> Vec<u8> {
        let listen = self.told.listen.map(|listen| listen.to_string());
        let mirror = self.told.mirror.as_deref().map(|path| path.as_os_str());
        let contact = |contact: &Contact| store::Contact {
            node: contact.node.0,
            name: contact.name.clone(),
            key: Bytes::copy_from_slice(&contact.peer.key.0),
            addresses: contact.peer.addresses.clone(),
        };
        let message = store::MemberFile {
            format: FORMAT,
            node: self.node.0,
            name: self.name.clone(),
            listen: listen.unwrap_or_default(),
            addresses: self.told.addresses.clone(),
            plaintext: self.told.plaintext,
            mirror: Bytes::copy_from_slice(mirror.map_or(b"", OsStrExt::as_bytes)),
            contacts: self.contacts.iter().map(contact).collect(),
            key: Bytes::copy_from_slice(&self.key.0),
            api: self.told.api.map(|api| api.to_string()).unwrap_or_default(),
            schedule: self.told.schedule.texts(),
        };
        message.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message = store::MemberFile::decode(bytes).map_err(|error| error.to_string())?;
        if message.format != FORMAT {
            return Err(format!("format {} is not known", message.format));
        }
        if message.node == 0 || !member::is_member_name(&message.name) {
            return Err("it names no member".to_owned());
        }
        let listen = address_of(&message.listen)?;
        let api = address_of(&message.api)?;
        let schedule = Schedule::parse(&message.schedule).map_err(|problem| problem.to_string())?;
        let mirror = Some(message.mirror.to_vec()).filter(|path| !path.is_empty());
        let contacts = message.contacts.into_iter().map(|contact| {
            let key = contact.key[..]
                .try_into()
                .map_err(|_| "a key is 32 bytes")?;
            contact_of(contact.node, contact.name, key, contact.addresses)
        });
        Ok(Self {
            node: NodeId(message.node),
            name: message.name,
            key: PublicKey(
                message.key[..]
                    .try_into()
                    .map_err(|_| "a key is 32 bytes")?,
            ),
            told: Told {
                listen,
                addresses: message.addresses,
                plaintext: message.plaintext,
                api,
                schedule,
                mirror: mirror.map(|path| PathBuf::from(OsString::from_vec(path))),
            },
            contacts: contacts.collect::<Result<_, _>>()?,
        })
    }
}

/// An address to listen at, if there is one.
fn address_of(text: &str) -> Result<Option<SocketAddr>, String> {
    let address = (!text.is_empty()).then(|| text.parse());
    address
        .transpose()
        .map_err(|_| format!("{text:?} is no address to listen at"))
}

/// A contact, its parts checked.
pub(super) fn contact_of(
    node: u64,
    name: String,
    key: [u8; 32],
    mut addresses: Vec<String>,
) -> Result<Contact, String> {
    if node == 0 || !member::is_member_name(&name) {
        return Err(format!("{name:?} with number {node} is no member"));
    }
    addresses.retain(|address| (1..=limit::ADDRESS_BYTES).contains(&address.len()));
    addresses.truncate(PEER_ADDRESSES);
    let key = PublicKey(key);
    Ok(Contact {
        node: NodeId(node),
        name,
        peer: Peer { key, addresses },
    })
}

/// Reads the file, if there is one.
pub(super) fn load(env: &SystemEnv) -> Result<Option<MemberFile>, Problem> {
    let data = env.data().path();
    let bytes = match read_small(env.disk(), Path::new(MEMBER_FILE), FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(data, error)),
    };
    let file = MemberFile::decode(&bytes).map_err(|why| {
        let why = format!("its file {MEMBER_FILE} is damaged: {why}");
        Problem::new(Reason::DataDirUnusable)
            .with("dir", data.display())
            .with("detail", why)
    })?;
    Ok(Some(file))
}

/// Writes the file, durably.
pub(super) async fn save(env: &SystemEnv, file: &MemberFile) -> Result<(), Problem> {
    let written = write_small(env.disk(), Path::new(MEMBER_FILE), &file.encode()).await;
    written.map_err(|error| unusable(env.data().path(), error))
}

/// The members as contacts; what was believed before as long as this node's own admission is not
/// known here.
fn contacts_of(me: NodeId, members: &Members, before: &[Contact]) -> Vec<Contact> {
    if members.member(me).is_none() {
        return before.to_vec();
    }
    let others = members.present().filter(|row| row.node != me);
    let contact = |row: &aber_materializer::members::MemberRow| Contact {
        node: row.node,
        name: row.name.clone(),
        peer: Peer {
            key: row.key,
            addresses: row.addresses.clone(),
        },
    };
    others.map(contact).collect()
}

/// Keeps name and contacts of the file equal to the membership.
pub(super) fn keep(env: &SystemEnv, node: &Node<SystemEnv>, mut file: MemberFile) {
    let (env, mut members) = (env.clone(), node.parts.members.clone());
    let runtime = env.runtime().clone();
    runtime.clone().spawn("member file", async move {
        loop {
            let now = members.get();
            let mut next = file.clone();
            next.contacts = contacts_of(file.node, &now, &file.contacts);
            if let Some(me) = now.member(file.node) {
                next.name.clone_from(&me.name);
            }
            if next != file {
                match save(&env, &next).await {
                    Ok(()) => file = next,
                    // The next change of the membership tries again; the old file is still whole.
                    Err(problem) => tracing::warn!(%problem, "contacts are not written"),
                }
            }
            members.changed().await;
            runtime.sleep(CALM).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> MemberFile {
        let addresses = vec!["[::1]:2".to_owned(), "a:1".to_owned()];
        MemberFile {
            node: NodeId(7),
            name: "yann".to_owned(),
            key: PublicKey([9; 32]),
            told: Told {
                listen: Some("[::]:7787".parse().expect("address")),
                addresses: vec!["host:1".to_owned()],
                plaintext: true,
                api: Some("127.0.0.1:7789".parse().expect("address")),
                schedule: Schedule::parse(&["23:00-07:00 up=100%"]).expect("a schedule"),
                mirror: Some(PathBuf::from("/srv/mirror")),
            },
            contacts: vec![contact_of(1, "enora".to_owned(), [3; 32], addresses).expect("one")],
        }
    }

    #[test]
    fn the_file_says_what_was_written() {
        for written in [
            file(),
            MemberFile {
                told: Told::default(),
                contacts: Vec::new(),
                ..file()
            },
        ] {
            assert_eq!(MemberFile::decode(&written.encode()), Ok(written));
        }
    }

    #[test]
    fn a_file_that_names_nobody_is_refused() {
        let nobody = MemberFile {
            node: NodeId(0),
            ..file()
        };
        assert!(MemberFile::decode(&nobody.encode()).is_err());
        let nameless = MemberFile {
            name: "Not A Name".to_owned(),
            ..file()
        };
        assert!(MemberFile::decode(&nameless.encode()).is_err());
        assert!(MemberFile::decode(b"").is_err());
        let astray = store::MemberFile {
            api: "somewhere".to_owned(),
            ..store::MemberFile::decode(&file().encode()[..]).expect("whole")
        };
        assert!(MemberFile::decode(&astray.encode_to_vec()).is_err());
        let never = store::MemberFile {
            schedule: vec!["at night".to_owned()],
            ..store::MemberFile::decode(&file().encode()[..]).expect("whole")
        };
        assert!(MemberFile::decode(&never.encode_to_vec()).is_err());
        let newer = store::MemberFile {
            format: 2,
            ..store::MemberFile::default()
        };
        assert!(MemberFile::decode(&newer.encode_to_vec()).is_err());
    }

    /// What the inviter said stays until the control partition has told of this node itself.
    #[test]
    fn contacts_are_believed_until_the_membership_is_known() {
        let members = Members::default();
        let told = file().contacts;
        assert_eq!(contacts_of(NodeId(7), &members, &told), told);
    }
}
