//! A limit in time.

/// A bucket of tokens: so many at once, so many per second in the long run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Milliseconds per token.
    every: u64,
    /// Tokens at most.
    burst: u64,
    /// When it would be empty of debt, milliseconds.
    full_at: u64,
}

impl Bucket {
    /// Full. At most one token a millisecond.
    pub(crate) const fn new(per_second: u64, burst: u64) -> Bucket {
        Bucket { every: 1000 / per_second, burst, full_at: 0 }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let full_at = self.full_at.max(now) + self.every;
        let ok = full_at <= now + self.burst * self.every;
        if ok {
            self.full_at = full_at;
        }
        ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let mut b = Bucket::new(100, 5);
        assert_eq!((0..20).filter(|_| b.take(1000)).count(), 5);
        assert_eq!((1000..2000).filter(|&now| b.take(now)).count(), 99 + 1 - 1);
        assert_eq!((0..20).filter(|_| b.take(9000)).count(), 5);
    }
}
