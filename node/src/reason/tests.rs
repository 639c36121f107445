//! The table of reasons is whole.

use super::*;
use aber_proto::generated::v1::ErrorReason;

/// E1: every reason has its row, and its row is whole.
#[test]
fn every_reason_has_status_exit_code_and_three_sentences() {
    for reason in Reason::ALL {
        let row = reason.row();
        assert_ne!(row.code, Code::Ok, "{reason:?}");
        assert_ne!(row.exit, 0, "{reason:?}");
        for text in [row.what, row.why, row.mend] {
            assert!(text.len() > 3, "{reason:?}");
        }
        assert!(reason.name().len() <= 63);
        assert_eq!(Reason::parse(reason.name()), Some(*reason));
    }
}

#[test]
fn the_table_and_the_protocol_name_the_same_reasons() {
    for reason in Reason::ALL {
        let name = format!("ERROR_REASON_{}", reason.name());
        assert!(ErrorReason::from_str_name(&name).is_some(), "{name}");
    }
    let known = (1..200).filter(|n| ErrorReason::try_from(*n).is_ok());
    assert_eq!(known.count(), Reason::ALL.len());
}

#[test]
fn every_placeholder_is_a_declared_key() {
    for reason in Reason::ALL {
        let row = reason.row();
        for text in [row.what, row.why, row.mend] {
            for key in placeholders(text) {
                assert!(row.keys.contains(&key), "{reason:?}: {key}");
            }
            assert_eq!(text.matches('[').count(), text.matches(']').count());
            assert_eq!(text.matches('{').count(), text.matches('}').count());
        }
    }
}

#[test]
fn optional_parts_need_their_facts() {
    let facts = |pairs: &[(&str, &str)]| {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        pairs.iter().map(owned).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(render("a {x}[, b {y}].", &facts(&[("x", "1")])), "a 1.");
    assert_eq!(
        render("a {x}[, b {y}].", &facts(&[("x", "1"), ("y", "2")])),
        "a 1, b 2."
    );
    assert_eq!(render("a {x}", &facts(&[])), "a ?");
    // A fact is data: braces and brackets in it mean nothing.
    assert_eq!(render("{x}", &facts(&[("x", "{y}[z]")])), "{y}[z]");
}

#[test]
fn a_problem_survives_the_wire() {
    let problem = Problem::new(Reason::PathNotFound)
        .with("path", "/music/â\u{202e}x")
        .with("entry", "3:1842");
    let status = Status::from(problem.clone());
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(Problem::from(status), problem);
}

#[test]
fn long_facts_are_cut() {
    let problem = Problem::internal("é".repeat(5000));
    assert_eq!(problem.fact("detail").map(|d| d.chars().count()), Some(601));
}

#[test]
fn a_status_of_somebody_else_becomes_a_reason_of_ours() {
    let problem = Problem::from(Status::unavailable("gone"));
    assert_eq!(problem.reason, Reason::Stopping);
    let problem = Problem::from(Status::unknown("?"));
    assert_eq!(problem.reason, Reason::Internal);
}

/// The sentences of every reason with each fact shown as its key.
#[test]
fn golden_sentences() {
    let mut text = String::new();
    for reason in Reason::ALL {
        let mut problem = Problem::new(*reason);
        for key in reason.row().keys {
            problem = problem.with(key, format!("<{key}>"));
        }
        let row = reason.row();
        text += &format!(
            "{} {:?} exit {}{}\n  what: {}\n  why:  {}\n  mend: {}\n",
            reason.name(),
            row.code,
            row.exit,
            if row.retry { " retry" } else { "" },
            problem.what(),
            problem.why(),
            problem.mend()
        );
    }
    expect_test::expect_file!["golden.txt"].assert_eq(&text);
}
