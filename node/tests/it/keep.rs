//! The commands on tags, retention and pruning, against a fake node.

use super::Served;
use super::command::{check, run};
use expect_test::expect;

#[tokio::test]
async fn tags_are_listed_set_and_removed() {
    let served = Served::start().await;
    check(
        &served,
        &["tag"],
        0,
        expect![[r#"
        before-the-party         2026-11-22T18:00:00Z  yann         all is well
    "#]],
    )
    .await;
    check(
        &served,
        &["tag", "v1", "--comment", "sent out"],
        0,
        expect![[r#"
            v1                       2026-11-22T18:00:00Z  yann         sent out
        "#]],
    )
    .await;
    check(
        &served,
        &["tag", "v1", "yesterday"],
        0,
        expect![[r#"
        v1                       2026-11-22T18:00:00Z  yann
    "#]],
    )
    .await;
    check(
        &served,
        &["tag", "rm", "before-the-party"],
        0,
        expect![[r#"
            removed tag before-the-party
        "#]],
    )
    .await;
    check(
        &served,
        &["tag", "rm", "v9"],
        4,
        expect![[r#"
        error: there is no tag v9  [TAG_UNKNOWN]
          why:  a WHEN that is no time, no entry and no number of versions names a tag
          mend: see which there are: aber tag; and what else a WHEN can be: aber at --help
    "#]],
    )
    .await;
    check(
        &served,
        &["tag", "taken"],
        5,
        expect![[r#"
        error: the name taken is taken  [NAME_TAKEN]
          why:  something else has it already, and names are unique
          mend: choose another one
    "#]],
    )
    .await;
    check(&served, &["tag", "today"], 2, expect![[r#"
        error: the command cannot be done as given  [USAGE]
          why:  "today" cannot be a tag: 1 to 64 of a-z, 0-9, '-', '.' and '_', a letter first, and nothing that means another time, as today does
          mend: see: aber help
    "#]]).await;
    for words in [
        &["tag", "2h"][..],
        &["tag", "rm"],
        &["tag", "--comment", "x"],
        &["tag", "a", "now", "b"],
    ] {
        assert_eq!(run(&served, words).await.code, 2, "{words:?}");
    }
}

#[tokio::test]
async fn a_volumes_retention_is_set() {
    let served = Served::start().await;
    for (keep, text) in [
        ("365d", "what was there within 365 days"),
        ("versions=10", "10 versions of a file"),
        ("size=10GiB", "10.0 GiB of history"),
        ("forever", "all of its history"),
    ] {
        let ran = run(&served, &["volume", "set", "/music", "--keep", keep]).await;
        let line = format!("/music                   partition 3    keeps {text}\n");
        assert_eq!((ran.code, ran.out), (0, line));
    }
    let wrong = ["volume", "set", "/music", "--keep", "never"];
    check(&served, &wrong, 2, expect![[r#"
        error: invalid value 'never' for '--keep <HOW>': forever, an age as 365d, versions=10 or size=10GiB

        For more information, try '--help'.
    "#]]).await;
    let json = ["volume", "set", "/music", "--keep", "2d", "--json"];
    check(&served, &json, 0, expect![[r#"
        {"entry":"0:9","level":"committed","schema":"aber.volume/1","type":"result","volume":{"keep_bytes":null,"keep_seconds":172800,"keep_versions":null,"partition":3,"path":"/music"},"waiting_for":null}
    "#]]).await;
}

#[tokio::test]
async fn what_goes_is_shown_before_it_goes() {
    let served = Served::start().await;
    check(
        &served,
        &["prune", "--dry-run"],
        0,
        expect![[r#"
          2 versions    80.0 MiB  /music/a.flac
           1 version     1.5 KiB  /music/old/b.flac   (removed)
        3 versions of 2 files, 80.0 MiB: would go. Nothing has changed yet.
    "#]],
    )
    .await;
    check(&served, &["prune"], 0, expect![[r#"
        3 versions, 80.0 MiB: gone from the history of this node; what nothing else needs leaves the disk in 24 h
    "#]]).await;
    check(&served, &["prune", "--json"], 0, expect![[r#"
        {"content_bytes":83887616,"done":true,"files_count":null,"freed_bytes":0,"schema":"aber.prune/1","type":"result","versions_count":3}
    "#]]).await;
}
