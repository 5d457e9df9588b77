//! The supervisor with children that are made to break in every way.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::*;
use crate::{
    actor::Probed,
    config::Config,
    domain::restart::Restart,
    env::{Drill, Tree as _},
    testing::{self, Fixture, until},
};

/// What a cat does when it is told to.
enum Ask {
    Probe(Probe, Reply<()>),
    /// Answers after a moment.
    Slow(Reply<()>),
    /// Sends itself messages past the counting.
    Play(u32),
    /// How often it played in this life.
    Played(Reply<u32>),
    /// Ends well.
    Finish,
}

impl Probed for Ask {
    fn probe(probe: Probe, reply: Reply<()>) -> Self {
        Self::Probe(probe, reply)
    }
}

/// Has several lives; `fail_starts` of them fail before they begin, `hang_starts` never come to an end of the beginning,
/// `spin_starts` block their thread in it.
#[derive(Clone, Default)]
struct Cat {
    fail_starts: Arc<AtomicU32>,
    hang_starts: Arc<AtomicU32>,
    spin_starts: Arc<AtomicU32>,
    stops: Arc<std::sync::Mutex<Vec<&'static str>>>,
    noun: &'static str,
}

fn one_less(count: &AtomicU32) -> bool {
    count.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok()
}

impl Actor for Cat {
    type Msg = Ask;
    /// What this life remembers.
    type State = u32;
    type Arguments = Env;

    async fn pre_start(&self, _: ActorRef<Ask>, _: Env) -> Result<u32, ActorProcessingErr> {
        if one_less(&self.hang_starts) {
            std::future::pending::<()>().await;
        }
        if one_less(&self.spin_starts) {
            std::thread::sleep(Duration::from_secs(2));
        }
        if one_less(&self.fail_starts) { Err("not yet".into()) } else { Ok(0) }
    }

    async fn handle(&self, myself: ActorRef<Ask>, ask: Ask, played: &mut u32) -> Result<(), ActorProcessingErr> {
        match ask {
            Ask::Probe(probe, reply) => actor::answer(probe, reply).await,
            Ask::Slow(reply) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                actor::respond(reply, Ok(()));
            }
            Ask::Play(times) => {
                *played += 1;
                if times > 0 {
                    myself.cast(Ask::Play(times - 1))?;
                }
            }
            Ask::Played(reply) => actor::respond(reply, Ok(*played)),
            Ask::Finish => myself.stop(Some("done".to_owned())),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Ask>, _: &mut u32) -> Result<(), ActorProcessingErr> {
        self.stops.lock().unwrap().push(self.noun);
        Ok(())
    }
}

fn fixture(change: impl FnOnce(&mut Config)) -> Fixture {
    testing::reopen(tempfile::tempdir().unwrap(), "2026-03-01T00:00:00Z", |config| {
        config.supervisor.backoff_base_ms = 1;
        change(config);
    })
}

fn cat(noun: &'static str, critical: bool) -> ChildSpec {
    actor::spec(noun, critical, move || Cat { noun, ..Cat::default() })
}

async fn start(fixture: &Fixture, specs: Vec<ChildSpec>) -> Supervisor {
    Supervisor::start(fixture.env.clone(), specs).await.unwrap()
}

async fn child(supervisor: &Supervisor, noun: &str) -> ChildStatus {
    supervisor.status().await.unwrap().into_iter().find(|c| c.name == noun).unwrap()
}

async fn is(supervisor: &Supervisor, noun: &str, state: &str) {
    until(&format!("{noun} is {state}"), || async { child(supervisor, noun).await.state == state }).await;
}

/// Waits until a further incarnation runs and answered.
async fn is_back(supervisor: &Supervisor, noun: &str, generation: u64) {
    until(&format!("{noun} is back"), || async {
        let now = child(supervisor, noun).await;
        now.state == "running" && now.generation >= generation && now.last_recovery_us.is_some()
    })
    .await;
}

/// Crashes it until it is put aside.
async fn put_aside(supervisor: &Supervisor, noun: &str) {
    while child(supervisor, noun).await.state != "quarantined" {
        is(supervisor, noun, "running").await;
        let before = child(supervisor, noun).await.restarts;
        supervisor.drill(noun.into()).await.unwrap();
        until("it failed", || async { child(supervisor, noun).await.restarts > before }).await;
        until("it is somewhere", || async { matches!(child(supervisor, noun).await.state, "running" | "quarantined") }).await;
    }
}

#[tokio::test]
async fn a_crashed_child_comes_back_alone_and_says_why() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("a", false), cat("b", true)]).await;
    supervisor.drill("a".into()).await.unwrap();
    is_back(&supervisor, "a", 2).await;
    let a = child(&supervisor, "a").await;
    assert_eq!((a.state, a.restarts, a.generation), ("running", 1, 2));
    assert!(a.last_failure.unwrap().contains("drill"), "the cause is kept");
    let b = child(&supervisor, "b").await;
    assert_eq!((b.state, b.restarts, b.generation), ("running", 0, 1));
    supervisor.probe_critical().await.unwrap();
    supervisor.stop().await;
}

#[tokio::test]
async fn children_stop_in_reverse_order_and_their_ends_are_run() {
    let fixture = fixture(|_| {});
    let stops = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spec = |noun| {
        let stops = stops.clone();
        actor::spec(noun, false, move || Cat { noun, stops: stops.clone(), ..Cat::default() })
    };
    let supervisor = start(&fixture, vec![spec("one"), spec("two"), spec("three")]).await;
    supervisor.stop().await;
    assert_eq!(*stops.lock().unwrap(), ["three", "two", "one"]);
}

#[tokio::test]
async fn a_child_that_does_not_stop_by_its_own_deadline_is_killed_and_the_next_one_stops() {
    let fixture = fixture(|_| {});
    let stops = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spec = |noun| {
        let stops = stops.clone();
        actor::spec(noun, false, move || Cat { noun, stops: stops.clone(), ..Cat::default() })
    };
    let specs = vec![spec("one"), spec("stuck").stop_timeout(Duration::from_millis(50))];
    let supervisor = start(&fixture, specs).await;
    supervisor.rehearse("stuck".into(), Drill::Hang).await.unwrap();
    let start = Instant::now();
    supervisor.stop().await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(*stops.lock().unwrap(), ["one"]);
}

#[tokio::test]
async fn permanent_transient_and_temporary_children_are_restarted_by_their_kind() {
    let fixture = fixture(|_| {});
    let specs = vec![
        cat("permanent", false),
        cat("transient", false).restart(Restart::Transient),
        cat("killed", false).restart(Restart::Transient),
        cat("temporary", false).restart(Restart::Temporary),
        cat("done", false).restart(Restart::Temporary),
    ];
    let supervisor = start(&fixture, specs).await;
    for noun in ["permanent", "transient", "done"] {
        actor::cast(&fixture.env, noun, Ask::Finish);
    }
    ractor::registry::where_is(actor::name(&fixture.env, "killed")).unwrap().kill();
    supervisor.drill("temporary".into()).await.unwrap();
    is_back(&supervisor, "permanent", 2).await;
    is_back(&supervisor, "killed", 2).await;
    for (noun, state) in [("transient", "finished"), ("temporary", "failed"), ("done", "finished")] {
        is(&supervisor, noun, state).await;
        let now = child(&supervisor, noun).await;
        assert_eq!((now.generation, now.down.is_some()), (1, state == "failed"), "{noun}");
    }
    assert!(child(&supervisor, "temporary").await.down.unwrap().contains("drill"), "it says why");
    let refused = supervisor.drill("done".into()).await.unwrap_err();
    assert_eq!(refused.reason, "not_running");
    supervisor.stop().await;
}

#[tokio::test]
async fn a_transient_child_that_crashes_comes_back() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("a", false).restart(Restart::Transient)]).await;
    supervisor.drill("a".into()).await.unwrap();
    is_back(&supervisor, "a", 2).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_child_over_its_own_budget_is_put_aside_and_the_others_live_on() {
    let fixture = fixture(|config| config.supervisor.max_restarts = 2);
    let supervisor = start(&fixture, vec![cat("bad", false), cat("worse", false).budget(0, 60), cat("good", false)]).await;
    put_aside(&supervisor, "worse").await;
    put_aside(&supervisor, "bad").await;
    let (bad, worse) = (child(&supervisor, "bad").await, child(&supervisor, "worse").await);
    assert_eq!((bad.restarts, worse.restarts), (3, 1));
    let why = bad.down.unwrap();
    assert!(why.contains("failed too often: more than 2 restarts within 60 s") && why.contains("drill"), "{why}");
    assert_eq!(bad.quarantined_until.as_deref(), Some("2026-03-01T00:05:00Z"));
    assert_eq!(child(&supervisor, "good").await.state, "running");
    let parts = supervisor.parts().borrow().clone();
    assert_eq!(parts.iter().map(|p| (p.name, p.down.is_some())).collect::<Vec<_>>(), [("bad", true), ("worse", true), ("good", false)]);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_part_that_was_put_aside_is_released_by_hand_and_by_self_heal_once() {
    let fixture = fixture(|config| config.supervisor.max_restarts = 0);
    let supervisor = start(&fixture, vec![cat("bad", false), cat("good", false)]).await;
    let release = |by: &str| supervisor.release("bad".into(), by.into());
    assert_eq!(release("key_1").await.unwrap_err().reason, "not_quarantined");
    assert_eq!(supervisor.release("nobody".into(), "key_1".into()).await.unwrap_err().code, crate::error::Code::NotFound);
    put_aside(&supervisor, "bad").await;
    release(SELF_HEAL).await.unwrap();
    is_back(&supervisor, "bad", 2).await;
    let back = child(&supervisor, "bad").await;
    assert_eq!((back.down, back.quarantined_until), (None, None));
    put_aside(&supervisor, "bad").await;
    assert_eq!(child(&supervisor, "bad").await.quarantined_until.as_deref(), Some("2026-03-01T00:10:00Z"), "twice as long");
    assert_eq!(release(SELF_HEAL).await.unwrap_err().reason, "released_before");
    release("key_1").await.unwrap();
    is_back(&supervisor, "bad", 3).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_part_that_was_put_aside_is_tried_again_after_its_cool_down() {
    let fixture = fixture(|config| (config.supervisor.max_restarts, config.supervisor.cool_down_s) = (0, 1));
    let supervisor = start(&fixture, vec![cat("bad", false)]).await;
    put_aside(&supervisor, "bad").await;
    is_back(&supervisor, "bad", 2).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_critical_child_over_its_budget_ends_the_process() {
    let fixture = fixture(|config| config.supervisor.max_restarts = 0);
    let supervisor = start(&fixture, vec![cat("heart", true)]).await;
    supervisor.drill("heart".into()).await.unwrap();
    assert!(supervisor.fatal().await.contains("heart failed too often"));
    supervisor.stop().await;
}

#[tokio::test]
async fn a_critical_child_that_is_not_to_be_restarted_ends_the_process() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("heart", true).restart(Restart::Temporary)]).await;
    supervisor.drill("heart".into()).await.unwrap();
    let why = supervisor.fatal().await;
    assert!(why.contains("heart ended and is not to be restarted") && why.contains("drill"), "{why}");
    supervisor.stop().await;
}

#[tokio::test]
async fn a_restart_that_fails_to_start_counts_and_is_tried_again() {
    let fixture = fixture(|_| {});
    let cat = Cat::default();
    let fail = cat.fail_starts.clone();
    let supervisor = start(&fixture, vec![actor::spec("cat", false, move || cat.clone())]).await;
    fail.store(2, SeqCst);
    supervisor.drill("cat".into()).await.unwrap();
    until("it runs again", || async {
        let now = child(&supervisor, "cat").await;
        now.state == "running" && now.restarts == 3
    })
    .await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_restart_that_never_ends_its_start_counts_and_is_tried_again() {
    let fixture = fixture(|_| {});
    let cat = Cat::default();
    let hang = cat.hang_starts.clone();
    let spec = actor::spec("cat", false, move || cat.clone()).ping_limit(Duration::from_millis(100));
    let supervisor = start(&fixture, vec![spec]).await;
    hang.store(1, SeqCst);
    supervisor.drill("cat".into()).await.unwrap();
    until("it runs again", || async {
        let now = child(&supervisor, "cat").await;
        now.state == "running" && now.restarts == 2
    })
    .await;
    assert!(child(&supervisor, "cat").await.last_failure.unwrap().contains("start: not ready after 100 ms"));
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_blocks_its_thread_ends_the_process() {
    let fixture = fixture(quick_pings);
    let cat = Cat::default();
    let spin = cat.spin_starts.clone();
    let supervisor = start(&fixture, vec![actor::spec("cat", false, move || cat.clone())]).await;
    spin.store(1, SeqCst);
    supervisor.drill("cat".into()).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(2), supervisor.fatal()).await.expect("it is seen while it goes on");
    assert!(why.contains("cat cannot be started: its start never waits"), "{why}");
    supervisor.stop().await;
}

#[tokio::test]
async fn a_first_start_that_fails_is_named() {
    let fixture = fixture(|_| {});
    let cat = Cat::default();
    cat.fail_starts.store(9, SeqCst);
    let error = Supervisor::start(fixture.env.clone(), vec![actor::spec("cat", false, move || cat.clone())]).await.unwrap_err();
    assert!(error.message.contains("cat did not start: start: not yet"), "{error}");
}

fn quick_pings(config: &mut Config) {
    (config.supervisor.ping_every_ms, config.supervisor.ping_limit_ms, config.supervisor.kill_limit_ms) = (10, 150, 200);
}

#[tokio::test]
async fn a_hung_child_is_killed_and_comes_back() {
    let fixture = fixture(quick_pings);
    let supervisor = start(&fixture, vec![cat("a", true), cat("b", false)]).await;
    supervisor.rehearse("a".into(), Drill::Hang).await.unwrap();
    is_back(&supervisor, "a", 2).await;
    let a = child(&supervisor, "a").await;
    assert_eq!((a.restarts, a.last_failure.as_deref()), (1, Some("hung: no answer for 150 ms")));
    assert_eq!(child(&supervisor, "b").await.generation, 1);
    // The time that a killed child has to be gone passes without harm.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(supervisor.outcome.borrow().fatal, None);
    supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_waits_cannot_be_killed_and_ends_the_process() {
    let fixture = fixture(quick_pings);
    let supervisor = start(&fixture, vec![cat("spins", false), cat("b", true)]).await;
    let start = Instant::now();
    supervisor.rehearse("spins".into(), Drill::Spin).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(2), supervisor.fatal()).await.expect("it is seen while it goes on");
    assert!(why.contains("spins cannot be killed") && why.contains("hung: no answer for 150 ms"), "{why}");
    assert_eq!(child(&supervisor, "spins").await.state, "hung");
    supervisor.stop().await;
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waits for it at the stop: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_answers_a_ping_and_then_blocks_its_thread_is_seen_too() {
    let fixture = fixture(quick_pings);
    let supervisor = start(&fixture, vec![cat("spins", false)]).await;
    // The ping waits behind the slow message, and the blocking one right behind the ping.
    let env = fixture.env.clone();
    let slow = tokio::spawn(async move { actor::call(&env, "spins", Duration::from_secs(1), Ask::Slow).await });
    tokio::time::sleep(Duration::from_millis(15)).await;
    supervisor.rehearse("spins".into(), Drill::Spin).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(2), supervisor.fatal()).await.expect("it is seen while it goes on");
    assert!(why.contains("spins cannot be killed"), "{why}");
    slow.abort();
    supervisor.stop().await;
}

#[tokio::test]
async fn a_slow_child_is_not_called_hung() {
    let fixture = fixture(|config| (config.supervisor.ping_every_ms, config.supervisor.ping_limit_ms) = (5, 5_000));
    let supervisor = start(&fixture, vec![cat("slow", false)]).await;
    let calls = (0..20).map(|_| actor::call(&fixture.env, "slow", Duration::from_secs(5), Ask::Slow));
    assert!(futures_util::future::join_all(calls).await.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(child(&supervisor, "slow").await.generation, 1);
    supervisor.stop().await;
}

#[tokio::test]
async fn messages_about_a_dead_generation_are_ignored() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("a", true)]).await;
    supervisor.drill("a".into()).await.unwrap();
    is_back(&supervisor, "a", 2).await;
    let (index, generation) = (0, 1);
    let late = || Err(SpawnErr::StartupFailed("late".into()));
    for message in [
        Message::Silent { index, generation },
        Message::StillThere { index, generation },
        Message::StillStarting { index, generation },
        Message::Restart { index, generation },
        Message::Started { index, generation, result: late() },
        Message::Recovered { index, generation },
        Message::Answered { index, generation },
    ] {
        supervisor.cell.cast(message).unwrap();
    }
    let a = child(&supervisor, "a").await;
    assert_eq!((a.state, a.generation, a.restarts), ("running", 2, 1));
    assert_eq!(supervisor.outcome.borrow().fatal, None);
    supervisor.stop().await;
}

#[tokio::test]
async fn the_state_of_a_failed_incarnation_is_not_carried_over() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("a", false)]).await;
    let played = || actor::call(&fixture.env, "a", Duration::from_secs(5), Ask::Played);
    actor::cast(&fixture.env, "a", Ask::Play(2));
    until("it played", || async { played().await.unwrap() == 3 }).await;
    supervisor.drill("a".into()).await.unwrap();
    is_back(&supervisor, "a", 2).await;
    assert_eq!(played().await.unwrap(), 0, "a new life");
    assert!(child(&supervisor, "a").await.handled <= 3, "its counts begin again");
    supervisor.stop().await;
}

#[tokio::test]
async fn callers_of_a_restarting_actor_get_a_retryable_error_within_their_deadline() {
    let fixture = fixture(|config| {
        config.supervisor.backoff_base_ms = 60_000;
        config.supervisor.backoff_cap_ms = 60_000;
    });
    let supervisor = start(&fixture, vec![cat("a", false)]).await;
    let env = fixture.env.clone();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let env = env.clone();
            tokio::spawn(async move { actor::call(&env, "a", Duration::from_secs(30), Ask::Slow).await })
        })
        .collect();
    supervisor.drill("a".into()).await.unwrap(); // the first restart is immediate
    is_back(&supervisor, "a", 2).await;
    supervisor.drill("a".into()).await.unwrap(); // the second waits
    is(&supervisor, "a", "restarting").await;
    let begun = Instant::now();
    let error = actor::call(&env, "a", Duration::from_millis(50), Ask::Slow).await.unwrap_err();
    assert!(error.is_retryable() && error.reason == "restarting", "{error:?}");
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
    for asked in waiting {
        match asked.await.unwrap() {
            Ok(()) => {}
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    supervisor.stop().await;
}

#[tokio::test]
async fn the_depth_of_a_mailbox_is_right_with_its_own_messages_and_after_a_crash() {
    let fixture = fixture(|_| {});
    let supervisor = start(&fixture, vec![cat("a", false)]).await;
    let asks = |n: usize| {
        let env = fixture.env.clone();
        (0..n).map(move |_| {
            let env = env.clone();
            tokio::spawn(async move { actor::call(&env, "a", Duration::from_secs(5), Ask::Slow).await })
        })
    };
    actor::cast(&fixture.env, "a", Ask::Play(1000)); // sends itself a thousand messages past the counting
    let calls: Vec<_> = asks(5).collect();
    until("they wait", || async { child(&supervisor, "a").await.mailbox_depth >= 4 }).await;
    assert!(child(&supervisor, "a").await.mailbox_depth <= 5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    until("all is handled", || async { child(&supervisor, "a").await.handled >= 1006 }).await;
    let now = child(&supervisor, "a").await;
    assert_eq!((now.mailbox_depth, now.in_handler_ms), (0, None));
    assert!(now.handler_longest_ms >= 20 && now.handler_total_ms >= 100, "{now:?}");
    let drilled = supervisor.clone();
    let drill = tokio::spawn(async move { drilled.drill("a".into()).await });
    let calls: Vec<_> = asks(5).collect();
    drill.await.unwrap().unwrap();
    is_back(&supervisor, "a", 2).await;
    for call in calls {
        let _ = call.await.unwrap(); // lost with the mailbox, or answered by the replacement
    }
    until("nothing waits", || async { child(&supervisor, "a").await.mailbox_depth == 0 }).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn a_full_mailbox_refuses_at_once_and_wake_ups_are_one() {
    let fixture = fixture(|config| config.supervisor.max_mailbox = 4);
    let supervisor = start(&fixture, vec![cat("a", false)]).await;
    supervisor.rehearse("a".into(), Drill::Hang).await.unwrap();
    let begun = Instant::now();
    let calls = (0..2000).map(|_| actor::call(&fixture.env, "a", Duration::from_millis(200), Ask::Slow));
    let errors: Vec<_> = futures_util::future::join_all(calls).await.into_iter().map(|answer| answer.unwrap_err()).collect();
    let overloaded = errors.iter().filter(|e| e.reason == "overloaded").count();
    assert_eq!(overloaded, 1996, "four wait until their deadline, the others are refused");
    assert!(errors.iter().all(|e| e.is_retryable() && e.retry_after_s == Some(1)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for _ in 0..2000 {
        actor::cast(&fixture.env, "a", Ask::Play(0)); // dropped
        actor::wake(&fixture.env, "a", Ask::Finish); // one is enough
    }
    let now = child(&supervisor, "a").await;
    assert_eq!(now.mailbox_depth, 5, "the four that gave up, and one wake-up");
    assert!(now.in_handler_ms.is_some_and(|ms| ms >= 200), "{now:?}");
    supervisor.stop().await;
}

/// Its second life fails at its first message, sent at its start, as an actor does that looks at the store first.
#[derive(Clone, Default)]
struct Stillborn {
    lives: Arc<AtomicU32>,
    panics: bool,
}

impl Actor for Stillborn {
    type Msg = Ask;
    type State = bool;
    type Arguments = Env;

    async fn pre_start(&self, myself: ActorRef<Ask>, _: Env) -> Result<bool, ActorProcessingErr> {
        let doomed = self.lives.fetch_add(1, SeqCst) == 1;
        myself.cast(Ask::Play(0))?;
        Ok(doomed)
    }

    async fn handle(&self, _: ActorRef<Ask>, ask: Ask, doomed: &mut bool) -> Result<(), ActorProcessingErr> {
        match ask {
            Ask::Probe(probe, reply) => actor::answer(probe, reply).await,
            Ask::Play(_) if *doomed && self.panics => panic!("the table is gone"),
            Ask::Play(_) if *doomed => return Err("the table is gone".into()),
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_dies_at_its_first_message_is_restarted_however_soon_that_is() {
    for panics in [false, true].into_iter().cycle().take(12) {
        let fixture = fixture(|c| c.supervisor.ping_every_ms = 50);
        let cat = Stillborn { panics, ..Stillborn::default() };
        let lives = cat.lives.clone();
        let supervisor = start(&fixture, vec![actor::spec("kitten", false, move || cat.clone())]).await;
        let _ = supervisor.rehearse("kitten".into(), Drill::Panic).await; // its second life is the one that fails
        until("the third life", || async { lives.load(SeqCst) == 3 }).await;
        until("it runs", || async { child(&supervisor, "kitten").await.state == "running" }).await;
        assert_eq!(child(&supervisor, "kitten").await.restarts, 2);
        supervisor.stop().await;
    }
}
