//! The commands on members, links and tickets, against a fake node.

use super::Served;
use super::command::{check, run};
use expect_test::expect;

#[tokio::test]
async fn members_are_listed() {
    let served = Served::start().await;
    check(&served, &["members"], 0, expect![[r#"
        enora        admin   up               votes   [fd42::1]:7787
        gwen         writer  away since 2025-11-22T12:00:00Z   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s   linked to enora, yann
        phone        reader  catching up (1,200 entries) never votes
    "#]]).await;
    check(&served, &["members", "--all", "-v"], 0, expect![[r#"
        enora        admin   up               votes   [fd42::1]:7787   number 1   leads 0, 2   aber 0.1.0
        gwen         writer  away since 2025-11-22T12:00:00Z   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s   linked to enora, yann   number 7   aber 0.1.0
        phone        reader  catching up (1,200 entries) never votes   number 9
        old          writer  removed in 0:31    \u{1b}[2J:1   number 12   aber 0.1.0
    "#]]).await;
    let ran = run(&served, &["members", "--json", "--all"]).await;
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 5, "{}", ran.out);
    assert_eq!(
        (&lines[4]["type"], &lines[4]["members_count"]),
        (&"result".into(), &4.into())
    );
    let gwen = &lines[1];
    assert_eq!(gwen["schema"], "aber.members/1");
    assert_eq!(gwen["clock_skew_ms"], -1500);
    assert_eq!(gwen["uplink_bits_per_second"], 1_000_000);
    assert_eq!(
        (&gwen["state"], &gwen["removed_index"]),
        (&"away".into(), &().into())
    );
    let mut keys: Vec<&[String]> = Vec::new();
    let all: Vec<Vec<String>> = lines[..4]
        .iter()
        .map(|line| {
            line.as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect()
        })
        .collect();
    keys.extend(all.iter().map(Vec::as_slice));
    assert!(
        keys.windows(2).all(|pair| pair[0] == pair[1]),
        "every key is always there"
    );
}

#[tokio::test]
async fn members_are_set() {
    let served = Served::start().await;
    let set = [
        "members", "set", "gwen", "--role", "admin", "--name", "gwenn", "--vote", "no",
    ];
    check(&served, &set, 0, expect![[r#"
        gwenn        admin   away since 2025-11-22T12:00:00Z never votes   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s   linked to enora, yann
    "#]]).await;
    let set = [
        "members",
        "set",
        "gwen",
        "--address",
        "a:1",
        "--address",
        "[::1]:2",
        "--up",
        "1.5 Mbit/s",
        "--down",
        "auto",
        "--neighbours",
        "enora, phone",
    ];
    check(&served, &set, 0, expect![[r#"
        gwen         writer  away since 2025-11-22T12:00:00Z   a:1, [::1]:2   up 1.5 Mbit/s   linked to enora, phone
    "#]]).await;
    let clear = ["members", "set", "gwen", "--neighbours", ""];
    check(&served, &clear, 0, expect![[r#"
        gwen         writer  away since 2025-11-22T12:00:00Z   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s
    "#]]).await;
    let cases: [(&[&str], i32, _); 7] = [
        (
            &["set", "gwen"],
            2,
            expect![[r#"
            error: the command cannot be done as given  [USAGE]
              why:  nothing to set is named: aber members set --help
              mend: see: aber help
        "#]],
        ),
        (
            &["set", "gwen", "--name", "enora"],
            5,
            expect![[r#"
                error: the name enora is taken  [NAME_TAKEN]
                  why:  something else has it already, and names are unique
                  mend: choose another one
            "#]],
        ),
        (
            &["set", "enora", "--role", "reader"],
            10,
            expect![[r#"
            error: enora is the last admin  [LAST_ADMIN]
              why:  without one nobody could let members in, or put them out, ever again
              mend: make another member an admin first: aber members set NAME --role admin
        "#]],
        ),
        (
            &["set", "nobody", "--vote", "no"],
            4,
            expect![[r#"
            error: there is no member nobody  [MEMBER_UNKNOWN]
              why:  none has this name, as this node knows it
              mend: see who there is: aber members
        "#]],
        ),
        (
            &["set", "old", "--vote", "no"],
            10,
            expect![[r#"
            error: old was removed from the cluster  [MEMBER_REMOVED]
              why:  a removal is for good: it is entry 0:31; number and key are never used again
              mend: it can only join anew, as another member, with a new ticket and an empty data directory
        "#]],
        ),
        (
            &["set", "phone", "--vote", "yes"],
            7,
            expect![[r#"
            queued
            ! the change is not ordered yet
                why   too many voters are away
                mend  it lands by itself
        "#]],
        ),
        (
            &["set", "gwen", "--up", "fast"],
            2,
            expect![[r#"
            error: invalid value 'fast' for '--up <RATE>': a number and a unit: "1 Mbit/s", "100 KiB/s", or auto

            For more information, try '--help'.
        "#]],
        ),
    ];
    for (arguments, code, wanted) in cases {
        let arguments = [&["members"], arguments].concat();
        check(&served, &arguments, code, wanted).await;
    }
}

#[tokio::test]
async fn a_removal_is_planned_then_done() {
    let served = Served::start().await;
    let cases: [(&[&str], i32, _); 6] = [
        (
            &["rm", "gwen", "--dry-run"],
            0,
            expect![[r#"
            - it leaves the cluster for good
            ! changes in its outbox are lost to the others
                why   nothing that a removed member sends is ordered
                mend  look first: aber status
            Nothing has changed yet.
        "#]],
        ),
        (
            &["rm", "gwen"],
            2,
            expect![[r#"
            error: the command cannot be done as given  [USAGE]
              why:  nobody can be asked here: look with --dry-run, then say --yes
              mend: see: aber help
        "#]],
        ),
        (
            &["rm", "gwen", "--yes"],
            0,
            expect![[r#"
            removed gwen; its votes in partition 2 move as soon as they can
            - it leaves the cluster for good
            ! changes in its outbox are lost to the others
                why   nothing that a removed member sends is ordered
                mend  look first: aber status
        "#]],
        ),
        (
            &["rm", "enora", "--yes"],
            10,
            expect![[r#"
            error: enora is the last admin  [LAST_ADMIN]
              why:  without one nobody could let members in, or put them out, ever again
              mend: make another member an admin first: aber members set NAME --role admin
        "#]],
        ),
        (
            &["rm", "phone", "--yes"],
            1,
            expect![[r#"
            error: phone may have the last copy of 4096 bytes  [LAST_COPY]
              why:  no other node that can be reached now is known to hold them
              mend: start the nodes that are away, or wait until the others have it: aber status; to remove it all the same: --accept-loss
        "#]],
        ),
        (
            &["rm", "phone", "--yes", "--accept-loss", "--quiet"],
            0,
            expect![[r#"
                removed phone; its votes in partition 2 move as soon as they can
            "#]],
        ),
    ];
    for (arguments, code, wanted) in cases {
        let arguments = [&["members"], arguments].concat();
        check(&served, &arguments, code, wanted).await;
    }
    let ran = run(&served, &["members", "rm", "gwen", "--dry-run", "--json"]).await;
    let last: serde_json::Value = serde_json::from_str(ran.out.trim()).expect("one line");
    assert_eq!(
        (&last["plan"], &last["done"]),
        (&"8hd2-x0mk".into(), &false.into())
    );
}

#[tokio::test]
async fn links_are_listed() {
    let served = Served::start().await;
    check(
        &served,
        &["links"],
        0,
        expect![[r#"
        enora        up   12 ms   [fd42::1]:7787   sent 41.2 MiB, received 512 B
        gwen         down   it refused: node 7 must upgrade
        1 of 2 links up
    "#]],
    )
    .await;
    let ran = run(&served, &["links", "--json"]).await;
    let first = ran.out.lines().next().expect("a line");
    let first: serde_json::Value = serde_json::from_str(first).expect("JSON");
    assert_eq!(
        (&first["round_trip_ms"], &first["why_not"]),
        (&12.into(), &().into())
    );
}

/// S5: a ticket is shown by its id, which is a hash; nothing here knows its secret.
#[tokio::test]
async fn tickets_are_listed_and_revoked() {
    let served = Served::start().await;
    let cases: [(&[&str], i32, _); 5] = [
        (
            &["ls"],
            0,
            expect![[r#"
            11111111   writer  used by gwen at 2025-11-22T12:01:00Z   by enora
            aaaaaaaa   writer  open until 2025-11-23T12:00:00Z   by enora   for phone   never votes
            bbbbbbbb   writer  expired at 2025-11-23T12:00:00Z   by enora
        "#]],
        ),
        (
            &["ls", "--open"],
            0,
            expect![[r#"
            aaaaaaaa   writer  open until 2025-11-23T12:00:00Z   by enora   for phone   never votes
        "#]],
        ),
        (
            &["revoke", "aaaaaaaa"],
            0,
            expect![[r#"
            aaaaaaaa   writer  revoked by yann at 2025-11-22T12:02:00Z   by enora   for phone   never votes
        "#]],
        ),
        (
            &["revoke", "11111111"],
            10,
            expect![[r#"
                error: this ticket was already used  [TICKET_USED]
                  why:  it let gwen in on 2025-11-22T12:01:00Z; a ticket is good for one node
                  mend: ask enora for a new one (aber invite); typing it again will not help
            "#]],
        ),
        (
            &["revoke", "cccc"],
            10,
            expect![[r#"
                error: nobody knows this ticket: cccc  [TICKET_UNKNOWN]
                  why:  it was never ordered, or ended more than 30 days ago
                  mend: ask for a new one (aber invite); typing it again will not help
            "#]],
        ),
    ];
    for (arguments, code, wanted) in cases {
        let arguments = [&["invite"], arguments].concat();
        check(&served, &arguments, code, wanted).await;
    }
}

#[tokio::test]
async fn trees_are_drawn() {
    let served = Served::start().await;
    check(
        &served,
        &["tree", "/music/song"],
        0,
        expect![[r#"
            content of yann goes down 2 trees, a part of it each
            tree 1
            yann                     2 Mbit/s   up
            └─ enora                 8 Mbit/s   up
               └─ gwen               1 Mbit/s for now   away
            tree 2
            yann                     2 Mbit/s   up
            └─ gwen                  1 Mbit/s for now   away
               └─ enora              8 Mbit/s   up
        "#]],
    )
    .await;
    check(
        &served,
        &["tree", "--partition", "0"],
        0,
        expect![[r#"
            entries of partition 0 go from yann, which leads
            yann                     2 Mbit/s   up
            └─ enora                 8 Mbit/s   up
               └─ gwen               1 Mbit/s for now   away
        "#]],
    )
    .await;
    check(
        &served,
        &["tree", "--partition", "7"],
        6,
        expect![[r#"
        error: partition 7 has no majority  [NO_MAJORITY]
          why:  1 of its voters are here, 2 are needed
          mend: start the nodes that are away, then try again
    "#]],
    )
    .await;
    check(
        &served,
        &["tree", "--writer", "nobody"],
        4,
        expect![[r#"
            error: there is no member nobody  [MEMBER_UNKNOWN]
              why:  none has this name, as this node knows it
              mend: see who there is: aber members
        "#]],
    )
    .await;
    let ran = run(&served, &["tree", "--json"]).await;
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].clone()).collect();
    let wanted = [
        "member", "member", "member", "edge", "edge", "edge", "edge", "result",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(
        (&lines[7]["root"], &lines[7]["depth"]),
        (&"yann".into(), &2.into())
    );
}

#[tokio::test]
async fn metrics_are_printed_as_they_are() {
    let served = Served::start().await;
    check(
        &served,
        &["metrics"],
        0,
        expect![[r#"
        # TYPE aber_members gauge
        aber_members{state="up"} 2
    "#]],
    )
    .await;
}
