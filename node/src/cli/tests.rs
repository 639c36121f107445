//! What the command line understands.

use super::*;

fn parsed(arguments: &[&str]) -> Cli {
    let arguments = std::iter::once("aber").chain(arguments.iter().copied());
    Cli::try_parse_from(arguments).expect("a good command")
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for arguments in [["--data", "/d", "ls", "/"], ["ls", "/", "--data", "/d"]] {
        let cli = parsed(&arguments);
        assert_eq!(cli.global.data, Some(PathBuf::from("/d")));
        assert!(matches!(cli.command, Some(Command::Ls(_))));
    }
    let cli = parsed(&[
        "put",
        "-r",
        "a",
        "b",
        "/",
        "--json",
        "-vv",
        "--timeout",
        "90s",
    ]);
    assert!(cli.global.json);
    assert_eq!(cli.global.verbose, 2);
    assert_eq!(cli.global.timeout, Some(Duration::from_secs(90)));
}

#[test]
fn times_have_units() {
    let seconds = |text| parse_duration(text).map(|time| time.as_millis());
    assert_eq!(seconds("250ms"), Ok(250));
    assert_eq!(seconds("30"), Ok(30_000));
    assert_eq!(seconds("5m"), Ok(300_000));
    assert_eq!(seconds("2h"), Ok(7_200_000));
    for bad in [
        "",
        "s",
        "5 parsecs",
        "-1s",
        "99999999999999999999s",
        "9999999999999999h",
    ] {
        assert!(seconds(bad).is_err(), "{bad}");
    }
}

#[test]
fn paths_of_the_tree_are_absolute() {
    let problem = parse_path("music").expect_err("relative");
    assert_eq!(
        (problem.reason, problem.reason.row().exit),
        (Reason::NameNotAllowed, 2)
    );
    assert_eq!(
        parse_path("/music/").map(|path| path.to_string()),
        Ok("/music".to_owned())
    );
}

/// A change that is interrupted on its way is not called off.
#[test]
fn commands_that_change_members_are_writes() {
    let writes = |arguments: &[&str]| parsed(arguments).command.is_some_and(|c| c.writes());
    assert!(writes(&["members", "set", "gwen", "--vote", "no"]));
    assert!(writes(&["members", "rm", "gwen", "--yes"]));
    assert!(writes(&["invite", "revoke", "abcd"]));
    for reads in [
        &["members"][..],
        &["members", "rm", "gwen", "--dry-run"],
        &["invite", "ls"],
        &["links"],
    ] {
        assert!(!writes(reads), "{reads:?}");
    }
}
