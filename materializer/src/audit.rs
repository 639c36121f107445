//! [pure] Auditing a log: is it one history, by whom, and within their rights?
//!
//! Takes all entries from the genesis on, of the control partition first, and trusts nothing else:
//! each must follow from the one before by the chain, be signed by who it says, and be judged by
//! members that the control partition itself made. What is wrong is named by partition and index.

use crate::judge::Judge;
use crate::members::Members;
use crate::memory::MemoryKv;
use crate::view::{Verdict, View, ViewProblem};
use aber_log::env::kv::KvBatch;
use aber_proto::Timestamp;
use aber_proto::{ChainHash, ClusterId, Entry, Genesis, Head, NodeId, PartitionId, SignedHead};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Findings that are kept; the rest is counted.
const FINDINGS: usize = 1000;

/// What is wrong with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It is not the next one of its partition: one is missing, or they were put in another order.
    Gap,
    /// It does not follow from the one before it: it, or the one before it, was changed.
    Chain,
    /// Its change cannot be read, or is not signed by its author.
    Signature,
    /// It says something else than a hash that was written down.
    Pin,
    /// Another history has something else there.
    OtherHistory,
    /// A member has signed another history.
    Head,
    /// A member has signed that the history goes on up to there: its end is missing.
    Cut,
    /// A head is not signed by who it says, or by no member.
    HeadSignature,
}

impl Wrong {
    /// A stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Gap => "ENTRY_MISSING",
            Self::Chain => "CHAIN_BROKEN",
            Self::Signature => "SIGNATURE_WRONG",
            Self::Pin => "PIN_DIFFERS",
            Self::OtherHistory => "HISTORIES_DIFFER",
            Self::Head => "HEAD_DIFFERS",
            Self::Cut => "END_MISSING",
            Self::HeadSignature => "HEAD_SIGNATURE_WRONG",
        }
    }
}

/// Something wrong, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditFinding {
    /// The partition.
    pub partition: PartitionId,
    /// The index.
    pub index: u64,
    /// What.
    pub wrong: Wrong,
}

/// What one author did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deeds {
    /// Changes that were within his rights.
    pub changes: u64,
    /// Events in them.
    pub events: u64,
    /// Changes that were not: they had no effect.
    pub refused: u64,
    /// Order time of the first and the last.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

/// A partition's history, as far as it was taken in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The index after the last one.
    pub next: u64,
    /// The chain hash at each index, from the first entry's on.
    pub chains: Vec<ChainHash>,
    /// The index of the first entry.
    pub first: u64,
    chain: ChainHash,
    is_begun: bool,
}

/// An audit under way.
pub struct Audit {
    control: View<MemoryKv>,
    judge: Judge,
    lines: BTreeMap<PartitionId, Line>,
    deeds: BTreeMap<NodeId, Deeds>,
    findings: Vec<AuditFinding>,
    /// Findings, those that are not kept included.
    wrong: u64,
    entries: u64,
    pins: BTreeMap<(PartitionId, u64), ChainHash>,
    cluster: ClusterId,
    /// Up to where each member has signed each partition.
    signed: BTreeMap<PartitionId, BTreeMap<NodeId, u64>>,
}

impl Audit {
    /// An audit of the cluster of this genesis. `pins` are chain hashes that were written down.
    ///
    /// # Errors
    /// Never in practice: the index is in memory.
    pub fn new(
        genesis: &Genesis,
        pins: BTreeMap<(PartitionId, u64), ChainHash>,
    ) -> Result<Self, ViewProblem> {
        let control = View::open(MemoryKv::default(), PartitionId::CONTROL, genesis)?;
        let cluster = genesis.cluster_id();
        let line = |partition| {
            let line = Line {
                next: 0,
                chains: Vec::new(),
                first: 0,
                chain: ChainHash::genesis(&cluster, partition),
                is_begun: false,
            };
            (partition, line)
        };
        Ok(Self {
            control,
            judge: Judge::new(),
            lines: genesis.partition_ids().map(line).collect(),
            deeds: BTreeMap::new(),
            findings: Vec::new(),
            wrong: 0,
            entries: 0,
            pins,
            cluster,
            signed: BTreeMap::new(),
        })
    }

    fn find(&mut self, partition: PartitionId, index: u64, wrong: Wrong) {
        self.wrong += 1;
        if self.findings.len() < FINDINGS {
            self.findings.push(AuditFinding {
                partition,
                index,
                wrong,
            });
        }
    }

    /// Takes the next entry of a partition in; those of the control partition come before all others.
    ///
    /// # Errors
    /// Never in practice: the index is in memory.
    pub fn take(&mut self, entry: &Entry) -> Result<(), ViewProblem> {
        self.entries += 1;
        let (partition, index) = (entry.partition, entry.log_id.index);
        let Some(line) = self.lines.get_mut(&partition) else {
            self.find(partition, index, Wrong::Gap);
            return Ok(());
        };
        let is_next = !line.is_begun || index == line.next;
        // Whoever begins later has nothing to compare the first one with; he says so (`Line::first`).
        let begins_late = !line.is_begun && index > 1;
        let follows = begins_late || entry.verify(&line.chain).is_ok();
        if !line.is_begun {
            line.first = index;
        }
        line.is_begun = true;
        line.chain = entry.chain;
        line.next = index.saturating_add(1);
        line.chains.push(entry.chain);
        if !is_next {
            self.find(partition, index, Wrong::Gap);
        } else if !follows {
            self.find(partition, index, Wrong::Chain);
        }
        if let Some(pin) = self.pins.remove(&(partition, index))
            && pin != entry.chain
        {
            self.find(partition, index, Wrong::Pin);
        }
        let members = self.members();
        if !self.judge.is_signed(entry, &members) {
            self.find(partition, index, Wrong::Signature);
        }
        let judged = self.judge.judge(entry, &members);
        if let Some(change) = &judged.change {
            let deeds = self.deeds.entry(change.author).or_default();
            if deeds.changes + deeds.refused == 0 {
                deeds.first = entry.order_time;
            }
            deeds.last = deeds.last.max(entry.order_time);
            match judged.verdict {
                Verdict::Allowed => {
                    deeds.changes += 1;
                    deeds.events += change.events.len() as u64;
                }
                Verdict::Refused(_) => deeds.refused += 1,
            }
        }
        // A control partition that is broken makes no members from there on.
        if partition == PartitionId::CONTROL && is_next && follows {
            let batch = [(entry.clone(), judged.verdict)];
            self.control.apply_batch(&batch, KvBatch::default())?;
        }
        Ok(())
    }

    /// Holds what a member has signed against the history, once all of that was taken in.
    pub fn hold_against(&mut self, signed: &SignedHead) {
        let Head {
            partition,
            log_id,
            chain,
        } = signed.head;
        let key = self.members().key_of(signed.signer);
        let is_good = key.is_some_and(|key| signed.verify(&self.cluster, &key).is_ok());
        let line = self.lines.get(&partition);
        let (Some(line), true) = (line, is_good) else {
            return self.find(partition, log_id.index, Wrong::HeadSignature);
        };
        if log_id.index >= line.next {
            return self.find(partition, log_id.index, Wrong::Cut);
        }
        match line.chain_at(log_id.index) {
            Some(here) if here == chain => {
                let of_partition = self.signed.entry(partition).or_default();
                let reach = of_partition.entry(signed.signer).or_default();
                *reach = log_id.index.max(*reach);
            }
            Some(_) => self.find(partition, log_id.index, Wrong::Head),
            // From before the first entry that is there: nothing to compare it with.
            None => {}
        }
    }

    /// Who has signed a partition's history, and up to where.
    #[must_use]
    pub fn signed(&self, partition: PartitionId) -> Option<&BTreeMap<NodeId, u64>> {
        self.signed.get(&partition)
    }

    /// Compares with another history of the same cluster, wherever both reach.
    pub fn compare(&mut self, other: &Self) {
        let mut differ = Vec::new();
        for (partition, line) in &self.lines {
            let Some(theirs) = other.lines.get(partition) else {
                continue;
            };
            let (first, last) = (line.first.max(theirs.first), line.next.min(theirs.next));
            let found =
                (first..last).find(|index| line.chain_at(*index) != theirs.chain_at(*index));
            differ.extend(found.map(|index| (*partition, index)));
        }
        for (partition, index) in differ {
            self.find(partition, index, Wrong::OtherHistory);
        }
    }

    /// Members as of the control partition's last good entry.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.control.members().cloned().unwrap_or_default()
    }

    /// What is wrong, the first ones.
    #[must_use]
    pub fn findings(&self) -> &[AuditFinding] {
        &self.findings
    }

    /// How much is wrong.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        self.wrong
    }

    /// Entries taken in.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Who did how much.
    #[must_use]
    pub fn deeds(&self) -> &BTreeMap<NodeId, Deeds> {
        &self.deeds
    }

    /// The history of each partition.
    #[must_use]
    pub fn lines(&self) -> &BTreeMap<PartitionId, Line> {
        &self.lines
    }

    /// Pins at places that the history does not reach.
    #[must_use]
    pub fn pins_left(&self) -> Vec<(PartitionId, u64)> {
        self.pins.keys().copied().collect()
    }
}

impl Line {
    /// The chain hash at an index.
    #[must_use]
    pub fn chain_at(&self, index: u64) -> Option<ChainHash> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.chains.get(position).copied()
    }

    /// The last index, and the chain hash there.
    #[must_use]
    pub fn head(&self) -> Option<(u64, ChainHash)> {
        let chain = self.chains.last()?;
        Some((self.next.checked_sub(1)?, *chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Log, at, genesis, key_of, make_dir, make_volume, put};

    const V: u64 = 1 << 10;
    const DATA: PartitionId = PartitionId(1);

    fn history() -> Vec<Entry> {
        let mut control = Log::new(0);
        let mut entries = vec![control.signed(1, vec![make_volume("v", 1)])];
        let mut data = Log::new(1);
        data.control_index = 1;
        for (author, name) in [(1, "a"), (2, "b"), (3, "c"), (2, "d")] {
            entries.push(data.signed(author, vec![make_dir(at(V, name)), put(at(V, "f"), name)]));
        }
        entries
    }

    fn audit(entries: &[Entry], pins: &[(u64, ChainHash)]) -> Audit {
        let pins = pins.iter().map(|(index, chain)| ((DATA, *index), *chain));
        let mut audit = Audit::new(&genesis(), pins.collect()).expect("opens");
        for entry in entries {
            audit.take(entry).expect("works");
        }
        audit
    }

    fn wrongs(audit: &Audit) -> Vec<(u64, Wrong)> {
        let found = audit.findings().iter();
        found.map(|found| (found.index, found.wrong)).collect()
    }

    #[test]
    fn a_good_history_says_who_did_what() {
        let entries = history();
        let audit = audit(&entries, &[(2, entries[2].chain)]);
        assert_eq!(wrongs(&audit), []);
        assert_eq!((audit.wrong(), audit.entries()), (0, 5));
        let deeds = audit.deeds();
        let did = |node: u64| {
            let deeds = &deeds[&NodeId(node)];
            (deeds.changes, deeds.events, deeds.refused)
        };
        assert_eq!(
            [did(1), did(2), did(3)],
            [(2, 3, 0), (2, 4, 0), (0, 0, 1)],
            "3 is a reader"
        );
        assert_eq!(audit.lines()[&DATA].head(), Some((4, entries[4].chain)));
        assert!(audit.pins_left().is_empty());
    }

    /// I2, I4, S1: what was forged, left out, put in another order, or pinned is named by its index.
    #[test]
    fn what_is_wrong_is_named_by_its_index() {
        let good = history();
        let mut changed = good.clone();
        changed[2].order_time.0 += 1;
        assert_eq!(wrongs(&audit(&changed, &[])), [(2, Wrong::Chain)]);
        let mut left_out = good.clone();
        left_out.remove(2);
        assert_eq!(wrongs(&audit(&left_out, &[])), [(3, Wrong::Gap)]);
        let mut swapped = good.clone();
        swapped.swap(2, 3);
        let found = wrongs(&audit(&swapped, &[]));
        assert_eq!(found, [(3, Wrong::Gap), (2, Wrong::Gap), (4, Wrong::Gap)]);
        let mut forged = good.clone();
        forged[3].body = good[2].body.slice(..good[2].body.len() - 1);
        forged[3].chain = forged[3].chain_after(&good[2].chain);
        forged[4].chain = forged[4].chain_after(&forged[3].chain);
        assert_eq!(wrongs(&audit(&forged, &[])), [(3, Wrong::Signature)]);
        // A whole history made anew is found by a hash that was written down, or by another copy.
        let mut anew = forged.clone();
        anew[3] = good[4].clone();
        anew[3].log_id.index = 3;
        anew[3].chain = anew[3].chain_after(&good[2].chain);
        anew.truncate(4);
        let mut other = audit(&anew, &[(3, good[3].chain), (9, good[1].chain)]);
        assert_eq!(wrongs(&other), [(3, Wrong::Pin)]);
        assert_eq!(other.pins_left(), [(DATA, 9)]);
        other.compare(&audit(&good, &[]));
        assert_eq!(wrongs(&other), [(3, Wrong::Pin), (3, Wrong::OtherHistory)]);
    }

    /// I4, S4: what a member has signed cannot be told otherwise, nor cut off.
    #[test]
    fn a_signed_head_vouches_for_all_before_it() {
        let good = history();
        let head = |number: usize, node: u8, key: u8| {
            let entry = &good[number];
            let head = Head {
                partition: DATA,
                log_id: entry.log_id,
                chain: entry.chain,
            };
            let cluster = genesis().cluster_id();
            head.sign(&cluster, NodeId(node.into()), &key_of(key))
        };
        let held = |entries: &[Entry], signed: SignedHead| {
            let mut audit = audit(entries, &[]);
            audit.hold_against(&signed);
            let reach = audit.signed(DATA).cloned().unwrap_or_default();
            (wrongs(&audit), reach.into_iter().collect::<Vec<_>>())
        };
        let vouched = (vec![], vec![(NodeId(1), 4)]);
        assert_eq!(held(&good, head(4, 1, 1)), vouched);
        let missing = (vec![(4, Wrong::Cut)], vec![]);
        assert_eq!(held(&good[..4], head(4, 1, 1)), missing);
        let forged = (vec![(4, Wrong::HeadSignature)], vec![]);
        assert_eq!(held(&good, head(4, 1, 2)), forged, "by another key");
        assert_eq!(held(&good, head(4, 9, 9)), forged, "by no member");
        let mut other = good.clone();
        other[4].order_time.0 += 1;
        other[4].chain = other[4].chain_after(&good[3].chain);
        let differs = (vec![(4, Wrong::Head)], vec![]);
        assert_eq!(held(&other, head(4, 1, 1)), differs);
    }
}
