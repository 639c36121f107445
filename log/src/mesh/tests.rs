//! Meshes over links in memory: urgency, parts, deadlines, and who breaks the rules.

mod world;

use super::*;
use bytes::BytesMut;
use futures::future::join_all;
use world::{MemEnv, Recorder, run};

const MBIT: u64 = 1_000_000;
const MINUTE: Duration = Duration::from_secs(60);
/// A frame of 4 KiB and what stands around it, at 0.85 Mbit/s.
const FRAME_TIME: Duration = Duration::from_micros(4296 * 8 * 1_000_000 / 850_000);

fn bytes(length: usize) -> Bytes {
    BytesMut::zeroed(length).freeze()
}

async fn two() -> (MemEnv, [Mesh<MemEnv>; 2], [Arc<Recorder>; 2]) {
    let env = MemEnv::new(NodeId(1));
    let one = env.start(&[NodeId(2)]);
    let two = env.of(NodeId(2)).start(&[NodeId(1)]);
    env.runtime().sleep(Duration::from_secs(1)).await;
    (env, [one.0, two.0], [one.1, two.1])
}

/// T10: a small question is answered within about two frames while a long answer is on its way.
#[test]
fn small_calls_pass_a_long_answer() {
    run(async {
        let (env, [one, two], _) = two().await;
        two.uplink().set_rate(Some(MBIT));
        let runtime = env.runtime();
        let start = runtime.now();
        let long = async {
            let asked = one.call(NodeId(2), Method::Chunks, Bytes::from("1048576"), MINUTE);
            (
                asked.await.map(|answer| answer.len()),
                runtime.now() - start,
            )
        };
        let small = async {
            for _ in 0..20 {
                runtime.sleep(Duration::from_millis(333)).await;
                let asked = runtime.now();
                let answer = one.call(NodeId(2), Method::Vote, bytes(0), MINUTE).await;
                assert!(answer.is_ok() && runtime.now() - asked < Duration::from_millis(2));
                let answer = one.call(NodeId(2), Method::Status, bytes(0), MINUTE).await;
                let took = runtime.now() - asked;
                assert!(answer.is_ok() && took < 2 * FRAME_TIME, "{took:?}");
            }
        };
        let ((length, took), ()) = futures::join!(long, small);
        assert_eq!(length, Ok(1 << 20));
        let alone = Duration::from_millis(((1 << 20) + 256 * 200 - 8192) * 8000 / 850_000);
        assert!(
            took > alone && took < alone + Duration::from_secs(1),
            "{took:?}"
        );
    });
}

/// Content that is asked for as urgent goes before that of those who catch up.
#[test]
fn a_call_says_how_urgent_its_content_is() {
    run(async {
        let (env, [one, two], _) = two().await;
        two.uplink().set_rate(Some(MBIT));
        let runtime = env.runtime();
        let ask = async |priority| {
            let length = Bytes::from("200000");
            let asked = one.call_as(NodeId(2), Method::Chunks, priority, length, MINUTE);
            assert!(asked.await.is_ok());
            runtime.now()
        };
        let late = async {
            let done = join_all((0..3).map(|_| ask(Priority::CatchUp))).await;
            done.into_iter().min()
        };
        let urgent = async {
            runtime.sleep(Duration::from_millis(200)).await;
            ask(Priority::Content).await
        };
        let (late, urgent) = futures::join!(late, urgent);
        assert!(late > Some(urgent), "{late:?} {urgent:?}");
        let counted = two.uplink().look().sent_bytes;
        assert_eq!(counted[&(NodeId(1), Priority::Content)], 200_000);
        assert_eq!(counted[&(NodeId(1), Priority::CatchUp)], 600_000);
    });
}

/// B6: a deadline holds while the bucket is empty; what was sent of the request is forgotten.
#[test]
fn a_call_that_waits_for_the_line_ends_at_its_deadline() {
    run(async {
        let (env, [one, _], [_, heard]) = two().await;
        one.uplink().set_rate(Some(MBIT));
        let runtime = env.runtime();
        let deadline = Duration::from_millis(300);
        for _ in 0..3 * aber_proto::limit::MESSAGES_UNFINISHED {
            let start = runtime.now();
            let pushed = one.call(NodeId(2), Method::Push, bytes(1 << 20), deadline);
            assert_eq!(pushed.await, Err(CallProblem::Timeout(NodeId(2))));
            assert_eq!(runtime.now() - start, deadline);
        }
        // The last is being cancelled.
        runtime.sleep(Duration::from_millis(1)).await;
        let backlog = one.uplink().look().backlog;
        assert!(backlog.values().all(|lane| lane.message_count == 0));
        let pushed = one.call(NodeId(2), Method::Push, bytes(9000), MINUTE).await;
        assert!(pushed.is_ok());
        assert_eq!(heard.taken(), [(Method::Push, 9000)]);
        assert_eq!(env.dials(), 4, "no link ended");
    });
}

/// What nobody waits for does not take the line from what somebody waits for.
#[test]
fn an_answer_that_nobody_waits_for_is_not_sent() {
    run(async {
        let (env, [one, two], _) = two().await;
        two.uplink().set_rate(Some(MBIT));
        let runtime = env.runtime();
        for _ in 0..10 {
            let deadline = Duration::from_millis(500);
            let length = Bytes::from("1048576");
            let asked = one.call(NodeId(2), Method::Chunks, length, deadline);
            assert_eq!(asked.await, Err(CallProblem::Timeout(NodeId(2))));
        }
        runtime.sleep(Duration::from_millis(1)).await;
        let backlog = two.uplink().look().backlog;
        assert!(backlog.values().all(|lane| lane.message_count == 0));
        let length = Bytes::from("20000");
        let start = runtime.now();
        let asked = one.call(NodeId(2), Method::Chunks, length, MINUTE).await;
        assert_eq!(asked.map(|answer| answer.len()), Ok(20_000));
        assert!(runtime.now() - start < 6 * FRAME_TIME);
        assert_eq!(env.dials(), 4, "no link ended");
    });
}

#[test]
fn requests_are_received_in_their_order_whatever_their_length() {
    run(async {
        for rate in [None, Some(20 * MBIT)] {
            let (_, [one, _], [_, heard]) = two().await;
            one.uplink().set_rate(rate);
            let lengths = [2 << 20, 10, 70_000, 65_536, 0, 65_537];
            let calls =
                lengths.map(|length| one.call(NodeId(2), Method::Propose, bytes(length), MINUTE));
            assert!(join_all(calls).await.iter().all(Result::is_ok));
            let taken: Vec<_> = heard
                .taken()
                .into_iter()
                .map(|(_, length)| length)
                .collect();
            assert_eq!(taken, lengths);
        }
    });
}

/// T12: a peer that takes nothing holds up its own content alone.
#[test]
fn a_link_that_stands_still_does_not_hold_up_others() {
    run(async {
        let env = MemEnv::new(NodeId(1));
        let (one, _) = env.start(&[NodeId(2), NodeId(3)]);
        let _two = env.of(NodeId(2)).start(&[NodeId(1)]);
        let _three = env.of(NodeId(3)).start(&[NodeId(1)]);
        let runtime = env.runtime();
        runtime.sleep(Duration::from_secs(1)).await;
        one.uplink().set_rate(Some(MBIT));
        env.stop(NodeId(2), true);
        let start = runtime.now();
        let push = |to, length| one.call(to, Method::Push, bytes(length), MINUTE);
        let stuck = async { (push(NodeId(2), 50_000).await, runtime.now() - start) };
        let others = async {
            let answers = join_all((0..5).map(|_| push(NodeId(3), 10_000))).await;
            assert!(answers.iter().all(Result::is_ok));
            // The time of the bytes, and 200 ms to see that the other stands still.
            let took = runtime.now() - start;
            assert!(
                took < 16 * FRAME_TIME + Duration::from_millis(210),
                "{took:?}"
            );
            runtime.sleep(Duration::from_secs(5)).await;
            env.stop(NodeId(2), false);
        };
        let ((answer, took), ()) = futures::join!(stuck, others);
        assert!(answer.is_ok() && took > Duration::from_secs(5));
    });
}

/// B2: whoever sends parts that do not follow loses the link, and only that.
#[test]
fn broken_parts_end_the_link() {
    run(async {
        let (env, [one, _], [_, heard]) = two().await;
        let head = Head {
            kind: Kind::Request,
            id: 1,
            method: Method::Push,
            priority: Priority::Content,
        };
        let answer = Head {
            kind: Kind::Answer,
            ..head
        };
        let mut unknown = head.whole(b"x").to_vec();
        unknown[9] = 99;
        let broken = [
            vec![head.part(0, 9, b"half"), head.part(5, 9, b"half")],
            vec![head.part(0, usize::try_from(u32::MAX).unwrap(), b"half")],
            vec![head.part(4, 9, b"half")],
            vec![answer.part(0, 4, b"half")],
            vec![Bytes::from(unknown)],
            vec![Bytes::from_static(b"short")],
            (0..9)
                .map(|id| Head { id, ..head }.part(0, 9, b"half"))
                .collect(),
        ];
        for frames in broken {
            let link = env
                .network()
                .dial(NodeId(2), LinkClass::Bulk)
                .await
                .unwrap();
            for frame in frames {
                let _closed = link.send(frame).await.is_err();
            }
            assert_eq!(link.receive().await, Err(LinkProblem::Closed));
        }
        let asked = one.call(NodeId(2), Method::Push, bytes(9), MINUTE).await;
        assert!(asked.is_ok(), "other links stay");
        assert_eq!(heard.taken(), [(Method::Push, 9)]);
    });
}

#[test]
fn calls_fail_at_once_when_their_link_breaks() {
    run(async {
        let (env, [one, _], _) = two().await;
        one.uplink().set_rate(Some(MBIT));
        let runtime = env.runtime();
        let start = runtime.now();
        let push = one.call(NodeId(2), Method::Push, bytes(1 << 20), MINUTE);
        let breaking = async {
            runtime.sleep(Duration::from_secs(1)).await;
            one.set_peers(&BTreeSet::new());
        };
        let (pushed, ()) = futures::join!(push, breaking);
        assert_eq!(pushed, Err(CallProblem::Unreachable(NodeId(2))));
        assert_eq!(runtime.now() - start, Duration::from_secs(1));
        runtime.sleep(Duration::from_secs(1)).await;
        let backlog = one.uplink().look().backlog;
        assert!(backlog.values().all(|lane| lane.message_count == 0));
    });
}
