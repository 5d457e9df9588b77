//! What is counted about each actor: the messages that wait for it, how many it handled and for how long. `actor.rs` counts, the
//! supervisor shows. The actor library has no queue length, so a message is counted by its kind where it is sent and taken off
//! where it is handled; kinds that were not counted (an actor's own timers) are not taken off either, so that a count is never
//! negative. Every incarnation has counts of its own: what died with a mailbox is not carried on. It knows no actors.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The present incarnation of every actor of an instance, by noun.
#[derive(Debug, Default)]
pub struct Mailboxes(Mutex<BTreeMap<&'static str, Arc<Mailbox>>>);

impl Mailboxes {
    /// A new incarnation takes the place of the old one.
    pub fn open(&self, noun: &'static str, mailbox: Arc<Mailbox>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(noun, mailbox);
    }

    pub fn of(&self, noun: &str) -> Option<Arc<Mailbox>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(noun).cloned()
    }
}

/// The counts of one incarnation.
#[derive(Debug)]
pub struct Mailbox {
    /// The incarnation's own number: a message is counted only where it is delivered.
    pub owner: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// By kind of message; there are few kinds.
    waiting: Vec<(u64, usize)>,
    handled: u64,
    busy_since: Option<Instant>,
    busy: Duration,
    longest: Duration,
}

/// What a mailbox looks like now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub depth: usize,
    pub handled: u64,
    /// How long the message being handled has been so.
    pub in_handler: Option<Duration>,
    /// The longest handling, also of the message being handled.
    pub longest: Duration,
    /// All handling together.
    pub total: Duration,
}

impl Counts {
    fn depth(&self) -> usize {
        self.waiting.iter().map(|(_, n)| n).sum()
    }

    fn waiting(&mut self, kind: u64) -> &mut usize {
        let at = self.waiting.iter().position(|(k, _)| *k == kind).unwrap_or_else(|| {
            self.waiting.push((kind, 0));
            self.waiting.len() - 1
        });
        &mut self.waiting[at].1
    }
}

impl Mailbox {
    pub fn new(owner: u64) -> Self {
        Self { owner, counts: Mutex::default() }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message that is about to be sent; not if `limit` wait already, and the answer is `false`.
    pub fn enter(&self, kind: u64, limit: usize) -> bool {
        let mut counts = self.counts();
        let fits = counts.depth() < limit;
        if fits {
            *counts.waiting(kind) += 1;
        }
        fits
    }

    /// As `enter`, but only if none of its kind waits: one that waits will find the same work.
    pub fn enter_alone(&self, kind: u64) -> bool {
        let mut counts = self.counts();
        let waiting = counts.waiting(kind);
        let alone = *waiting == 0;
        *waiting += usize::from(alone);
        alone
    }

    /// It could not be sent after all.
    pub fn leave(&self, kind: u64) {
        let mut counts = self.counts();
        let waiting = counts.waiting(kind);
        *waiting = waiting.saturating_sub(1);
    }

    /// The handler takes a message; it has it until the answer is dropped, however that comes about.
    pub fn take(&self, kind: u64) -> AtWork<'_> {
        let mut counts = self.counts();
        let waiting = counts.waiting(kind);
        *waiting = waiting.saturating_sub(1);
        counts.busy_since = Some(Instant::now());
        AtWork(self)
    }

    pub fn figures(&self) -> Figures {
        let counts = self.counts();
        let in_handler = counts.busy_since.map(|since| since.elapsed());
        let now = in_handler.unwrap_or_default();
        Figures { depth: counts.depth(), handled: counts.handled, in_handler, longest: counts.longest.max(now), total: counts.busy + now }
    }
}

/// A message is being handled.
#[derive(Debug)]
pub struct AtWork<'a>(&'a Mailbox);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        let took = counts.busy_since.take().map(|since| since.elapsed()).unwrap_or_default();
        counts.handled += 1;
        counts.busy += took;
        counts.longest = counts.longest.max(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_counted_is_not_taken_off() {
        let mailbox = Mailbox::new(1);
        assert!(mailbox.enter(1, 10) && mailbox.enter(1, 10) && mailbox.enter(2, 10));
        for _ in 0..5 {
            drop(mailbox.take(3)); // an actor's own timer
        }
        assert_eq!(mailbox.figures().depth, 3);
        drop(mailbox.take(1));
        mailbox.leave(2);
        assert_eq!((mailbox.figures().depth, mailbox.figures().handled), (1, 6));
        for _ in 0..5 {
            drop(mailbox.take(1));
        }
        assert_eq!(mailbox.figures().depth, 0, "never below nothing");
    }

    #[test]
    fn a_full_mailbox_takes_no_more_until_one_is_handled() {
        let mailbox = Mailbox::new(1);
        assert!((0..3).all(|_| mailbox.enter(1, 3)) && !mailbox.enter(1, 3) && !mailbox.enter(2, 3));
        drop(mailbox.take(1));
        assert!(mailbox.enter(2, 3) && !mailbox.enter(1, 3));
    }

    #[test]
    fn a_wake_up_waits_alone() {
        let mailbox = Mailbox::new(1);
        assert!(mailbox.enter_alone(7) && !mailbox.enter_alone(7) && mailbox.enter_alone(8));
        let at_work = mailbox.take(7);
        assert!(mailbox.enter_alone(7), "what comes during the work needs another look");
        drop(at_work);
        assert_eq!(mailbox.figures().depth, 2);
    }

    #[test]
    fn the_time_in_the_handler_is_seen_while_it_goes_on_and_after() {
        let mailbox = Mailbox::new(1);
        let at_work = mailbox.take(1);
        std::thread::sleep(Duration::from_millis(5));
        let during = mailbox.figures();
        assert!(during.in_handler.is_some_and(|t| t >= Duration::from_millis(5)) && during.longest >= Duration::from_millis(5));
        drop(at_work);
        let after = mailbox.figures();
        assert_eq!(after.in_handler, None);
        assert!(after.longest >= during.longest && after.total >= during.total && after.handled == 1);
    }

    #[test]
    fn a_new_incarnation_begins_with_nothing() {
        let mailboxes = Mailboxes::default();
        mailboxes.open("a", Arc::new(Mailbox::new(1)));
        mailboxes.of("a").unwrap().enter(1, 9);
        mailboxes.open("a", Arc::new(Mailbox::new(2)));
        let now = mailboxes.of("a").unwrap();
        assert_eq!((now.owner, now.figures()), (2, Figures::default()));
        assert!(mailboxes.of("b").is_none());
    }
}
