//! Tickets in time: who waits how long, and that nothing runs where nothing is held back.

use super::*;
use crate::chunk::testing::{TestRuntime, run};
use std::time::Duration;

type TestUplink = Uplink<TestRuntime>;

const TO: Route = Route {
    peer: NodeId(2),
    link: 1,
};

async fn send(uplink: &TestUplink, priority: Priority, route: Route, bytes: u64) -> u64 {
    let mut ticket = uplink.begin(priority, route, bytes).unwrap();
    let mut sent = 0;
    while let Some(piece) = ticket.next().await {
        sent += piece as u64;
    }
    sent
}

fn since(runtime: &TestRuntime, start: Instant) -> Duration {
    runtime.now() - start
}

#[test]
fn without_a_limit_there_is_no_task_and_no_wait() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        let start = runtime.now();
        for _ in 0..100 {
            assert_eq!(send(&uplink, Priority::Content, TO, 1 << 20).await, 1 << 20);
        }
        assert_eq!(since(&runtime, start), Duration::ZERO);
        assert_eq!(uplink.state().sleeps_until, None);
        let state = uplink.look();
        assert_eq!(state.sent_bytes[&(NodeId(2), Priority::Content)], 100 << 20);
        assert_eq!((state.rate, state.backlog_ms), (None, 0));
    });
}

#[test]
fn a_message_takes_its_time_and_then_the_task_ends() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        uplink.set_rate(Some(1_000_000));
        let start = runtime.now();
        assert_eq!(send(&uplink, Priority::Content, TO, 100_000).await, 100_000);
        // 25 pieces at 850 kbit/s, a burst of 8 KiB less.
        let wanted = (100_000 + 25 * 200 - 8192) * 8000 / 850_000;
        let took = since(&runtime, start).as_millis();
        assert!((wanted..wanted + 30).contains(&took), "{took} ms");
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(uplink.state().sleeps_until, None);
    });
}

#[test]
fn a_new_rate_counts_at_once() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        uplink.set_rate(Some(10_000));
        let start = runtime.now();
        let sending = send(&uplink, Priority::Content, TO, 1 << 20);
        let raising = async {
            runtime.sleep(Duration::from_secs(1)).await;
            assert!(uplink.backlog_ms() > 100_000);
            uplink.set_rate(None);
        };
        futures::join!(sending, raising);
        assert_eq!(since(&runtime, start), Duration::from_secs(1));
    });
}

#[test]
fn a_ticket_given_up_while_it_waits_makes_room() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        uplink.set_rate(Some(100_000));
        let impatient = send(&uplink, Priority::Log, TO, 1 << 20);
        let given_up = runtime.timeout(Duration::from_secs(1), impatient).await;
        assert_eq!(given_up, None);
        let backlog = uplink.look().backlog;
        assert!(backlog.values().all(|lane| *lane == Backlog::default()));
        let start = runtime.now();
        assert_eq!(send(&uplink, Priority::Log, TO, 2000).await, 2000);
        assert!(since(&runtime, start) < Duration::from_millis(300));
    });
}

/// P0 in a full line: at once; P1: after the piece that is on its way.
#[test]
fn the_urgent_do_not_wait_for_content() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        uplink.set_rate(Some(1_000_000));
        let content = send(&uplink, Priority::Content, TO, 1 << 20);
        let other = Route { link: 2, ..TO };
        let urgent = async {
            for _ in 0..20 {
                runtime.sleep(Duration::from_millis(170)).await;
                let start = runtime.now();
                send(&uplink, Priority::Vital, other, 120).await;
                assert_eq!(since(&runtime, start), Duration::ZERO);
                send(&uplink, Priority::Log, other, 400).await;
                assert!(since(&runtime, start) <= Duration::from_millis(45));
            }
        };
        let (sent, ()) = futures::join!(content, urgent);
        assert_eq!(sent, 1 << 20);
    });
}

/// A line that was declared too fast, or not at all, is held back once messages queue behind it.
#[test]
fn a_line_that_queues_is_held_back() {
    run(|env| async move {
        let runtime = env.runtime.clone();
        let uplink = Uplink::new(runtime.clone());
        uplink.set_rate(None);
        let trip = |ms| Sample::RoundTrip(NodeId(2), Duration::from_millis(ms));
        uplink.sample(trip(10));
        for _ in 0..80 {
            runtime.sleep(Duration::from_millis(100)).await;
            uplink.sample(Sample::Waiting(true));
            uplink.sample(Sample::Acknowledged(11_916));
            uplink.sample(trip(900));
        }
        let rate = uplink.rate().expect("a limit");
        assert!((800_000..900_000).contains(&rate), "{rate}");
        uplink.set_rate(None);
        assert_eq!(
            uplink.rate(),
            Some(rate),
            "the same word again says nothing"
        );
        uplink.set_rate(Some(8_000_000));
        assert_eq!(uplink.rate(), Some(6_800_000));
    });
}
