//! [pure] Texts line by line: what two have in common, a unified diff, and who wrote which line.

use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices, group_diff_ops};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Longer contents are not looked at as text.
pub(crate) const TEXT_BYTES: u64 = 1 << 20;
/// Nor such with more lines.
const LINES_MOST: usize = 20_000;
/// Lines of one text times lines of the other, once what they cannot have in common is left out:
/// about the most steps that a comparison takes.
const STEPS_MOST: usize = 200_000_000;
/// Lines around a change that a unified diff shows.
const CONTEXT: usize = 3;

/// A content as text; `None`: it is none, or too large to be compared.
pub(crate) fn text_of(bytes: &[u8]) -> Option<&str> {
    let is_small = u64::try_from(bytes.len()).is_ok_and(|length| length <= TEXT_BYTES);
    if !is_small || bytes.contains(&0) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    (split(text).len() <= LINES_MOST).then_some(text)
}

/// The lines of a text, each with its end.
pub(crate) fn split(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// The pairs of lines that two texts have in common, by their places from 0, rising in both.
/// `None`: too much differs to tell.
fn pairs(old: &[&str], new: &[&str]) -> Option<Vec<(usize, usize)>> {
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (old.get(head..)?, new.get(head..)?);
    let backwards = old_rest.iter().rev().zip(new_rest.iter().rev());
    let tail = backwards.take_while(same).count();
    let old_middle = old_rest.get(..old_rest.len() - tail)?;
    let new_middle = new_rest.get(..new_rest.len() - tail)?;
    // Lines that only one of them has cannot match, and would cost most.
    let mut numbers: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    for line in old_middle {
        let next = numbers.len();
        numbers.entry(line).or_insert((next, false));
    }
    for line in new_middle {
        if let Some((_, in_both)) = numbers.get_mut(line) {
            *in_both = true;
        }
    }
    let common = |lines: &[&str]| -> Vec<(usize, usize)> {
        let place = |(place, line): (usize, &&str)| match numbers.get(line) {
            Some((number, true)) => Some((*number, place)),
            _ => None,
        };
        lines.iter().enumerate().filter_map(place).collect()
    };
    let (a, b) = (common(old_middle), common(new_middle));
    if a.len().saturating_mul(b.len()) > STEPS_MOST {
        return None;
    }
    let number = |lines: &[(usize, usize)]| -> Vec<usize> {
        lines.iter().map(|(number, _)| *number).collect()
    };
    let mut found: Vec<(usize, usize)> = (0..head).map(|place| (place, place)).collect();
    for op in capture_diff_slices(Algorithm::Myers, &number(&a), &number(&b)) {
        if op.tag() == DiffTag::Equal {
            for (left, right) in op.old_range().zip(op.new_range()) {
                let ((_, left), (_, right)) = (a.get(left)?, b.get(right)?);
                found.push((head + left, head + right));
            }
        }
    }
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    found.extend((0..tail).map(|place| (old_end + place, new_end + place)));
    Some(found)
}

fn operations(old: usize, new: usize, pairs: &[(usize, usize)]) -> Vec<DiffOp> {
    let mut found = Vec::new();
    let (mut old_index, mut new_index) = (0, 0);
    for (left, right) in pairs.iter().copied().chain([(old, new)]) {
        let (old_len, new_len) = (left - old_index, right - new_index);
        match (old_len, new_len) {
            (0, 0) => {}
            (0, new_len) => found.push(DiffOp::Insert {
                old_index,
                new_index,
                new_len,
            }),
            (old_len, 0) => found.push(DiffOp::Delete {
                old_index,
                old_len,
                new_index,
            }),
            (old_len, new_len) => found.push(DiffOp::Replace {
                old_index,
                old_len,
                new_index,
                new_len,
            }),
        }
        (old_index, new_index) = (left + 1, right + 1);
        if left == old {
            break;
        }
        match found.last_mut() {
            Some(DiffOp::Equal { old_index, len, .. }) if *old_index + *len == left => *len += 1,
            _ => found.push(DiffOp::Equal {
                old_index: left,
                new_index: right,
                len: 1,
            }),
        }
    }
    found
}

/// `12,3` as unified diffs say it: begin from 1, and length where that is not 1.
fn range_text(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{length}", start + 1),
    }
}

/// A unified diff, with names in its head. `None`: too much differs to tell; empty: nothing does.
pub(crate) fn unified(old: &str, new: &str, names: (&str, &str)) -> Option<String> {
    let (old, new) = (split(old), split(new));
    let pairs = pairs(&old, &new)?;
    let operations = operations(old.len(), new.len(), &pairs);
    let is_equal = |op: &DiffOp| op.tag() == DiffTag::Equal;
    if operations.iter().all(is_equal) {
        return Some(String::new());
    }
    let mut out = format!("--- {}\n+++ {}\n", names.0, names.1);
    for group in group_diff_ops(operations, CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let (old_start, new_start) = (first.old_range().start, first.new_range().start);
        let old_length = last.old_range().end - old_start;
        let new_length = last.new_range().end - new_start;
        let _ = writeln!(
            out,
            "@@ -{} +{} @@",
            range_text(old_start, old_length),
            range_text(new_start, new_length)
        );
        for op in group {
            let (tag, from, to) = op.as_tag_tuple();
            let sign = if tag == DiffTag::Equal { ' ' } else { '-' };
            push(&mut out, sign, old.get(from).unwrap_or_default());
            if tag != DiffTag::Equal {
                push(&mut out, '+', new.get(to).unwrap_or_default());
            }
        }
    }
    Some(out)
}

fn push(out: &mut String, sign: char, lines: &[&str]) {
    for line in lines {
        let _ = write!(out, "{sign}{line}");
        if !line.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    }
}

/// Who wrote which line of a text, found version by version, the newest first.
pub(crate) struct Blame<V> {
    owners: Vec<Option<V>>,
    /// Lines whose owner is not known: where they stand in the newest and in the present text.
    open: Vec<(usize, usize)>,
    text: String,
    version: V,
}

impl<V: Clone> Blame<V> {
    /// Of the newest version.
    pub(crate) fn new(text: &str, version: V) -> Self {
        let lines = split(text).len();
        Self {
            owners: vec![None; lines],
            open: (0..lines).map(|line| (line, line)).collect(),
            text: text.to_owned(),
            version,
        }
    }

    /// Takes the version before the last one; whether lines are left that may be older still.
    pub(crate) fn older(&mut self, text: &str, version: V) -> bool {
        let pairs = pairs(&split(text), &split(&self.text)).unwrap_or_default();
        let place: BTreeMap<usize, usize> =
            pairs.into_iter().map(|(old, new)| (new, old)).collect();
        let mut open = Vec::new();
        for (line, at) in std::mem::take(&mut self.open) {
            match place.get(&at) {
                Some(before) => open.push((line, *before)),
                None => self.own(line),
            }
        }
        self.open = open;
        text.clone_into(&mut self.text);
        self.version = version;
        !self.open.is_empty()
    }

    fn own(&mut self, line: usize) {
        if let Some(owner) = self.owners.get_mut(line) {
            *owner = Some(self.version.clone());
        }
    }

    /// The owner of each line; the last version taken has what is left.
    pub(crate) fn owners(self) -> Vec<V> {
        let last = self.version;
        let owners = self.owners.into_iter();
        owners
            .map(|owner| owner.unwrap_or_else(|| last.clone()))
            .collect()
    }
}

/// Who wrote which chunk of a content, found version by version, the newest first.
pub(crate) struct ChunkBlame<H, V> {
    chunks: Vec<(H, Option<V>)>,
    version: V,
}

impl<H: Ord, V: Clone> ChunkBlame<H, V> {
    /// Of the newest version.
    pub(crate) fn new(chunks: Vec<H>, version: V) -> Self {
        Self {
            chunks: chunks.into_iter().map(|hash| (hash, None)).collect(),
            version,
        }
    }

    /// Takes the version before the last one; whether chunks are left that may be older still.
    pub(crate) fn older(&mut self, chunks: &[H], version: V) -> bool {
        let had: std::collections::BTreeSet<&H> = chunks.iter().collect();
        let mut is_open = false;
        for (hash, owner) in &mut self.chunks {
            if owner.is_none() && had.contains(hash) {
                is_open = true;
            } else if owner.is_none() {
                *owner = Some(self.version.clone());
            }
        }
        self.version = version;
        is_open
    }

    /// The owner of each chunk; the last version taken has what is left.
    pub(crate) fn owners(self) -> Vec<V> {
        let last = self.version;
        let owners = self.chunks.into_iter();
        owners
            .map(|(_, owner)| owner.unwrap_or_else(|| last.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn a_unified_diff_is_what_patch_reads() {
        let old: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        let new = old.replace("line 3\n", "line three\n") + "no end";
        let names = ("/a  3:1", "/a  3:2");
        expect![[r#"
            --- /a  3:1
            +++ /a  3:2
            @@ -1,6 +1,6 @@
             line 1
             line 2
            -line 3
            +line three
             line 4
             line 5
             line 6
            @@ -18,3 +18,4 @@
             line 18
             line 19
             line 20
            +no end
            \ No newline at end of file
        "#]]
        .assert_eq(&unified(&old, &new, names).expect("few lines"));
        assert_eq!(unified(&old, &old, names), Some(String::new()));
        let made = unified("", "one\n", names).expect("few lines");
        assert_eq!(made, "--- /a  3:1\n+++ /a  3:2\n@@ -0,0 +1 @@\n+one\n");
    }

    #[test]
    fn text_is_small_and_has_no_zero() {
        assert_eq!(text_of("é\n".as_bytes()), Some("é\n"));
        assert_eq!(text_of(b"a\0b"), None);
        assert_eq!(text_of(b"\xff\xfe"), None);
        assert_eq!(text_of(&vec![b'x'; (1 << 20) + 1]), None);
        assert!(text_of(&vec![b'\n'; LINES_MOST]).is_some());
        assert_eq!(text_of(&vec![b'\n'; LINES_MOST + 1]), None);
    }

    #[test]
    fn lines_belong_to_whom_wrote_them() {
        let mut blame = Blame::new("one\ntwo\nthree!\nfour\n", 4);
        assert!(blame.older("one\ntwo\nthree\nfour\n", 3));
        assert!(blame.older("one\nthree\nfour\n", 2));
        assert!(blame.older("one\n", 1));
        assert_eq!(blame.owners(), [1, 3, 4, 2]);
        let mut blame = Blame::new("a\n", 2);
        assert!(!blame.older("b\n", 1));
        assert_eq!(blame.owners(), [2]);
        let mut chunks = ChunkBlame::new(vec!['a', 'b', 'c'], 3);
        assert!(chunks.older(&['c', 'b'], 2));
        assert!(chunks.older(&['c', 'x'], 1));
        assert_eq!(chunks.owners(), [3, 2, 1]);
    }

    /// The old text again, out of the new one and a diff of it.
    fn undone(new: &[&str], diff: &str) -> String {
        let (mut out, mut at) = (String::new(), 0);
        for line in diff.split_inclusive('\n').skip(2) {
            if let Some(range) = line.strip_prefix("@@ ") {
                let to = range.split(['+', ' ']).nth(2).expect("a range");
                let (start, length) = to.split_once(',').unwrap_or((to, "1"));
                let start: usize = start.parse().expect("a number");
                let start = if length == "0" { start } else { start - 1 };
                out.extend(new[at..start].iter().copied());
                at = start;
            } else if let Some(text) = line.strip_prefix([' ', '-']) {
                out.push_str(text);
                at += usize::from(line.starts_with(' '));
            } else if line.starts_with('+') {
                at += 1;
            }
        }
        out.extend(new[at..].iter().copied());
        out
    }

    fn lines() -> impl Strategy<Value = String> {
        let line = proptest::sample::select(vec!["a\n", "b\n", "c\n", "d\n", "\n"]);
        proptest::collection::vec(line, 0..40).prop_map(|lines| lines.concat())
    }

    proptest! {
        /// A diff takes the new text back to the old one, and says no more than it must.
        #[test]
        fn a_diff_leads_from_one_text_to_the_other(old in lines(), new in lines()) {
            let diff = unified(&old, &new, ("a", "b")).expect("few lines");
            prop_assert_eq!(diff.is_empty(), old == new);
            prop_assert_eq!(undone(&split(&new), &diff), old);
        }

        /// Each line that is told as somebody's stands in that version, and in all later ones.
        #[test]
        fn a_line_is_in_all_versions_since_its_owner(
            versions in proptest::collection::vec(lines(), 1..6),
        ) {
            let newest = versions.last().expect("one at least");
            let mut blame = Blame::new(newest, versions.len() - 1);
            for (version, text) in versions.iter().enumerate().rev().skip(1) {
                blame.older(text, version);
            }
            for (line, owner) in split(newest).into_iter().zip(blame.owners()) {
                prop_assert!(versions[owner..].iter().all(|text| split(text).contains(&line)));
            }
        }
    }
}
