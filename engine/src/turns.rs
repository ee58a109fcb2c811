//! Which of its queues a worker serves next.
//!
//! In turn, one batch each; but the queues whose frames are flooded come last. On a bridge of 500 ports a flooded frame
//! costs as much as 500 others, and a few hundred containers that start at once send thousands of them: in turn
//! with those, two that only want to talk to each other would wait for seconds. So a queue is charged for the
//! copies that its frames made, and pays with the packets that it brings. Those in debt are served one small batch
//! at a time, by turns the one with the least debt and the one that has waited longest, each when nothing else is
//! ready or when the others have had as much of the worker as the last such batch took. An eighth of a debt is
//! forgiven every second.

use std::collections::VecDeque;

/// Copies beyond which a queue is in debt.
const DEBT: u32 = 32;
/// Copies after which a worker looks who else is ready.
pub(crate) const ENOUGH: usize = 1024;

#[derive(Clone, Copy, Default)]
struct Account {
    /// Among those to be served.
    ready: bool,
    /// Copies made of its frames lately, less the frames.
    debt: u32,
}

/// One queue's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// The queue.
    pub(crate) slot: usize,
    /// It is in debt: no more frames than make [`ENOUGH`] copies.
    pub(crate) short: bool,
}

/// The queues that may have frames, by their slots.
#[derive(Default)]
pub(crate) struct Turns {
    accounts: Vec<Account>,
    ready: VecDeque<usize>,
    indebted: VecDeque<usize>,
    /// The next of those in debt is the one that has waited longest.
    longest: bool,
    /// Of `ready`, how many are yet to be served in this round.
    left: usize,
    /// Copies made in this round.
    copies: usize,
    /// Packets and copies that the others may have before one in debt gets its next turn.
    owed: usize,
    /// One in debt may have its turn in this round.
    lend: bool,
}

impl Turns {
    /// Makes room for so many queues.
    pub(crate) fn resize(&mut self, count: usize) {
        if self.accounts.len() < count {
            self.accounts.resize(count, Account::default());
            self.ready.reserve(count.saturating_sub(self.ready.len()));
            self.indebted.reserve(count.saturating_sub(self.indebted.len()));
        }
    }

    /// A queue may have frames.
    pub(crate) fn add(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.accounts[slot].ready, true) {
            self.enqueue(slot);
        }
    }

    fn enqueue(&mut self, slot: usize) {
        if self.accounts[slot].debt < DEBT {
            self.ready.push_back(slot);
        } else {
            self.indebted.push_back(slot);
        }
    }

    /// The queue is no more.
    pub(crate) fn remove(&mut self, slot: usize) {
        self.accounts[slot] = Account::default();
        if let Some(at) = self.ready.iter().position(|&s| s == slot) {
            self.ready.remove(at);
            self.left -= usize::from(at < self.left);
        }
        self.indebted.retain(|&s| s != slot);
    }

    /// Forgets who is ready.
    pub(crate) fn clear(&mut self) {
        self.ready.clear();
        self.indebted.clear();
        self.left = 0;
        self.accounts.iter_mut().for_each(|a| a.ready = false);
    }

    /// Nobody is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.indebted.is_empty()
    }

    /// A round begins: everybody is ready who is to be served in it.
    pub(crate) fn begin(&mut self) {
        self.left = self.ready.len();
        self.copies = 0;
        self.lend = true;
    }

    /// Who is next in this round. To be followed by [`Turns::done`], or [`Turns::remove`].
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Turn> {
        if self.left > 0 && self.copies < ENOUGH {
            self.left -= 1;
            return self.ready.pop_front().map(|slot| Turn { slot, short: false });
        }
        if self.indebted.is_empty() || !std::mem::take(&mut self.lend) {
            return None;
        }
        if self.owed > 0 && !self.ready.is_empty() {
            return None;
        }
        // Or who tries again and again, as one does who gets no answer, would be the last for ever.
        self.longest = !self.longest;
        let debt = |&(_, &slot): &(usize, &usize)| self.accounts[slot].debt;
        let at = if self.longest { 0 } else { self.indebted.iter().enumerate().min_by_key(debt)?.0 };
        self.indebted.remove(at).map(|slot| Turn { slot, short: true })
    }

    /// A turn has brought so many packets, of which so many copies were made; there may be more.
    #[inline]
    pub(crate) fn done(&mut self, turn: Turn, packets: usize, copies: usize, more: bool) {
        let account = &mut self.accounts[turn.slot];
        account.debt = account.debt.saturating_add(copies as u32).saturating_sub(packets as u32);
        account.ready = more;
        self.copies += copies;
        self.owed = if turn.short { packets + copies } else { self.owed.saturating_sub(packets + copies) };
        if more {
            self.enqueue(turn.slot);
        }
    }

    /// A second has gone by.
    pub(crate) fn forgive(&mut self) {
        self.accounts.iter_mut().for_each(|a| a.debt -= a.debt.div_ceil(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves one round: who had a turn. `work` says what a queue brings: packets, copies, and whether it has more.
    fn round(turns: &mut Turns, work: impl Fn(Turn) -> (usize, usize, bool)) -> Vec<usize> {
        turns.begin();
        let mut served = Vec::new();
        while let Some(turn) = turns.next() {
            let (packets, copies, more) = work(turn);
            turns.done(turn, packets, copies, more);
            served.push(turn.slot);
        }
        served
    }

    fn ready(count: usize) -> Turns {
        let mut turns = Turns::default();
        turns.resize(count);
        (0..count).for_each(|slot| turns.add(slot));
        turns
    }

    #[test]
    fn each_in_turn_once_a_round() {
        let mut turns = ready(3);
        turns.add(1);
        assert_eq!(round(&mut turns, |t| (64, 0, t.slot != 1)), [0, 1, 2]);
        assert_eq!(round(&mut turns, |_| (64, 0, true)), [0, 2]);
        turns.add(1);
        turns.remove(0);
        assert_eq!(round(&mut turns, |_| (64, 0, false)), [2, 1]);
        assert!(turns.is_empty());
    }

    #[test]
    fn who_was_not_served_for_lack_of_time_is_first_next_time() {
        let mut turns = ready(5);
        assert_eq!(round(&mut turns, |_| (1, 600, false)), [0, 1]);
        assert_eq!(round(&mut turns, |_| (1, 0, false)), [2, 3, 4]);
    }

    #[test]
    fn floods_wait_for_others() {
        // 0 to 499 flood 500 ports without end; each gets into debt at its first turn.
        let mut turns = ready(500);
        let flood = |t: Turn| if t.slot < 500 { (1, 499, true) } else { (1, 0, false) };
        while !turns.ready.is_empty() {
            round(&mut turns, flood);
        }
        // Somebody who is not has its turn in the next round.
        turns.resize(501);
        for _ in 0..1000 {
            turns.add(500);
            let served = round(&mut turns, flood);
            assert_eq!(served[0], 500);
            assert!(served.len() <= 2, "{served:?}");
        }
    }

    #[test]
    fn the_least_indebted_and_the_longest_waiting_come_in_turn() {
        let mut turns = ready(3);
        // A round ends after the first; each is in the next one again.
        let debts = [5000, 500, 700];
        while !turns.ready.is_empty() {
            round(&mut turns, |t| (1, debts[t.slot], true));
        }
        turns.accounts.iter_mut().zip(debts).for_each(|(a, debt)| a.debt = debt as u32);
        let mut order = Vec::new();
        for _ in 0..6 {
            order.extend(round(&mut turns, |_| (1, 300, true)));
        }
        // 0 has the most debt, but has waited longest.
        assert_eq!((order[0], order[1], order.contains(&0)), (0, 1, true), "{order:?}");
    }

    #[test]
    fn floods_get_half_of_a_busy_worker() {
        let mut turns = ready(2);
        let (mut plain, mut flooded) = (0, 0);
        for _ in 0..10_000 {
            turns.begin();
            while let Some(turn) = turns.next() {
                let flood = turn.slot == 0;
                let (packets, copies) = if flood { (2, 998) } else { (64, 0) };
                turns.done(turn, packets, copies, true);
                *(if flood { &mut flooded } else { &mut plain }) += packets + copies;
            }
        }
        assert!(
            (0.9..1.1).contains(&(f64::from(flooded as u32) / f64::from(plain as u32))),
            "{flooded} {plain}"
        );
    }

    /// Whether a queue that made 1,000 copies is still in debt after each of these: seconds, or packets.
    fn in_debt(steps: &[(usize, usize)]) -> Vec<bool> {
        let mut turns = ready(1);
        assert_eq!(round(&mut turns, |_| (1, 1000, false)), [0]);
        let after = |&(seconds, packets): &(usize, usize)| {
            (0..seconds).for_each(|_| turns.forgive());
            for packets in [packets, 0] {
                turns.add(0);
                turns.begin();
                let turn = turns.next().unwrap();
                turns.done(turn, packets, 0, false);
                if packets == 0 {
                    return turn.short;
                }
            }
            unreachable!()
        };
        steps.iter().map(after).collect()
    }

    #[test]
    fn debts_are_paid_and_forgiven() {
        assert_eq!(in_debt(&[(0, 64), (5, 64), (20, 64)]), [true, true, false]);
        assert_eq!(in_debt(&[(0, 900), (0, 64), (0, 64)]), [true, true, false]);
    }
}
