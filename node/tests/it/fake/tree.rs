//! What writes do to the tree of a fake node.

use super::{State, problem};
use aber_node::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, event::Operation};
use bytes::Bytes;

impl State {
    pub fn kind(&self, path: &str) -> Option<ItemKind> {
        if path == "/" {
            return Some(ItemKind::Directory);
        }
        self.items.get(path).map(|(item, _)| item.kind())
    }

    fn parents(&mut self, path: &str, make: bool) -> Result<(), Problem> {
        let parsed = TreePath::parse(path).map_err(|rule| Problem::name(path, rule))?;
        let Some(parent) = parsed.parent() else {
            return Err(problem(Reason::RootFixed, path));
        };
        match self.kind(parent.as_str()) {
            Some(ItemKind::Directory) => Ok(()),
            Some(_) => Err(problem(Reason::NotADirectory, parent.as_str())),
            None if make => self.directory(parent.as_str(), true),
            None => Err(problem(Reason::NoParent, path)),
        }
    }

    fn directory(&mut self, path: &str, parents: bool) -> Result<(), Problem> {
        self.parents(path, parents)?;
        match self.kind(path) {
            Some(ItemKind::Directory) => return Ok(()),
            Some(_) => return Err(problem(Reason::NotADirectory, path)),
            None => {}
        }
        let mut item = self.item(path, ItemKind::Directory);
        item.mode = 0o755;
        self.items.insert(path.to_owned(), (item, Bytes::new()));
        Ok(())
    }

    pub fn item(&self, path: &str, kind: ItemKind) -> v1::Item {
        let entry = v1::EntryId {
            partition: 1,
            index: self.index,
        };
        v1::Item {
            path: path.to_owned(),
            kind: kind.into(),
            entry: Some(entry),
            etag: format!("1:{}.1", self.index),
            author: "fake".to_owned(),
            ..Default::default()
        }
    }

    pub fn put(&mut self, put: &v1::Put, content: &Bytes) -> Result<(), Problem> {
        self.parents(&put.path, put.parents)?;
        if self.kind(&put.path) == Some(ItemKind::Directory) {
            return Err(problem(Reason::IsADirectory, &put.path));
        }
        let mut item = self.item(&put.path, ItemKind::File);
        item.size = content.len() as u64;
        item.blake3 = Bytes::copy_from_slice(blake3::hash(content).as_bytes());
        item.mode = put.mode.unwrap_or(0o644);
        item.modify_time = put.modify_time;
        self.items.insert(put.path.clone(), (item, content.clone()));
        Ok(())
    }

    pub fn apply(&mut self, event: &v1::Event) -> Result<(), Problem> {
        match event.operation.as_ref().expect("an operation") {
            Operation::Put(put) => match &put.source {
                Some(v1::put::Source::Content(content)) => self.put(put, content),
                _ => Err(Problem::usage("no content")),
            },
            Operation::MakeDirectory(make) => {
                let absent = event
                    .precondition
                    .as_ref()
                    .is_some_and(|guard| guard.absent);
                if absent && self.kind(&make.path).is_some() {
                    return Err(problem(Reason::PathExists, &make.path));
                }
                self.directory(&make.path, make.parents)
            }
            Operation::MakeSymlink(make) => {
                self.parents(&make.path, make.parents)?;
                let mut item = self.item(&make.path, ItemKind::Symlink);
                item.symlink_target.clone_from(&make.target);
                self.items.insert(make.path.clone(), (item, Bytes::new()));
                Ok(())
            }
            Operation::Rename(rename) => {
                let found = self.items.remove(&rename.from_path);
                let mut found =
                    found.ok_or_else(|| problem(Reason::PathNotFound, &rename.from_path))?;
                found.0.path.clone_from(&rename.to_path);
                self.items.insert(rename.to_path.clone(), found);
                Ok(())
            }
            Operation::Remove(remove) => {
                let below = format!("{}/", remove.path);
                if !remove.recursive && self.items.keys().any(|path| path.starts_with(&below)) {
                    return Err(problem(Reason::DirectoryNotEmpty, &remove.path));
                }
                if self.items.remove(&remove.path).is_none() {
                    return Err(problem(Reason::PathNotFound, &remove.path));
                }
                self.items.retain(|path, _| !path.starts_with(&below));
                Ok(())
            }
            Operation::SetAttributes(set) => {
                let found = self.items.get_mut(&set.path);
                let found = found.ok_or_else(|| problem(Reason::PathNotFound, &set.path))?;
                found.0.mode = set.mode.unwrap_or(found.0.mode);
                Ok(())
            }
            _ => Err(Problem::new(Reason::NotOffered)),
        }
    }

    pub fn write(
        &mut self,
        options: &v1::WriteOptions,
        apply: impl FnOnce(&mut Self) -> Result<usize, Problem>,
    ) -> Result<v1::WriteResult, Problem> {
        assert!(options.wait_at_most.is_some_and(|wait| wait.seconds <= 59));
        if let Some(refusal) = self.refuse.pop() {
            return Err(refusal);
        }
        if let Some(known) = self.requests.get(&options.request_id) {
            return Ok(known.clone());
        }
        self.index += 1;
        self.asked.push(options.via.clone());
        let before = self.items.clone();
        match apply(self) {
            Ok(events) => self.changes.push(events),
            Err(problem) => {
                self.items = before;
                return Err(problem);
            }
        }
        let result = v1::WriteResult {
            request_id: options.request_id.clone(),
            acknowledgement: self.level.into(),
            entry: Some(v1::EntryId {
                partition: 1,
                index: self.index,
            }),
            ..Default::default()
        };
        self.requests
            .insert(options.request_id.clone(), result.clone());
        Ok(result)
    }
}
