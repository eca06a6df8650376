//! Windows over event time, in microseconds. Bounds are aligned to 1970, as in Kafka Streams.

/// A window of fixed size that starts every `advance` microseconds (tumbling: advance = size), or a
/// session: records with no more than a gap between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Length.
    pub size: i64,
    /// Distance between starts; divides `size`.
    pub advance: i64,
    /// How long after its end a window still takes records, in stream time.
    pub grace: i64,
    /// `SESSION`: `size` is the gap, and where a window begins and ends is decided by its records
    /// ([`crate::sessions`]); the methods that count in sizes are not for it.
    pub session: bool,
}

impl Window {
    /// `TUMBLING (SIZE size, GRACE PERIOD grace)`.
    #[must_use]
    pub const fn tumbling(size: i64, grace: i64) -> Window {
        Window { size, advance: size, grace, session: false }
    }

    /// `HOPPING (SIZE size, ADVANCE BY advance, GRACE PERIOD grace)`.
    #[must_use]
    pub const fn hopping(size: i64, advance: i64, grace: i64) -> Window {
        Window { size, advance, grace, session: false }
    }

    /// `SESSION (gap, GRACE PERIOD grace)`.
    #[must_use]
    pub const fn session(gap: i64, grace: i64) -> Window {
        Window { size: gap, advance: gap, grace, session: true }
    }

    /// No `WINDOW`: one window that holds every record and never closes.
    #[must_use]
    pub const fn unbounded() -> Window {
        Window { size: i64::MAX, advance: i64::MAX, grace: 0, session: false }
    }

    /// Whether it is [`Window::unbounded`].
    #[must_use]
    pub fn is_unbounded(&self) -> bool {
        self.size == i64::MAX
    }

    /// Start of the pane (the slice of one advance) that holds `time`.
    #[must_use]
    pub fn pane(&self, time: i64) -> i64 {
        if self.is_unbounded() {
            return 0;
        }
        time.div_euclid(self.advance) * self.advance
    }

    /// Starts of the windows that hold `time`, oldest first.
    pub fn starts(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let (last, advance, panes) = (self.pane(time), self.advance, self.size / self.advance);
        (0..panes).rev().map(move |back| last - back * advance)
    }

    /// Whether a record of `time` misses one of its windows, or its session, at `stream_time`.
    #[must_use]
    pub fn is_missed(&self, time: i64, stream_time: i64) -> bool {
        match self.session {
            true => time < self.first_taken(stream_time),
            false => self.is_closed(self.first_start(self.pane(time)), stream_time),
        }
    }

    /// End of the window that starts at `start`.
    #[must_use]
    pub fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    /// The earliest event time that a session still takes at `stream_time`. Kafka Streams also
    /// takes an older record that falls into an open session; here a record's own time decides, so
    /// that the answer does not depend on how partitions interleave.
    #[must_use]
    pub fn first_taken(&self, stream_time: i64) -> i64 {
        stream_time.saturating_sub(self.grace).saturating_sub(self.size)
    }

    /// Whether a session that ends at `end` can grow no more at `stream_time`: the earliest record
    /// that is still taken lies more than a gap behind it.
    #[must_use]
    pub fn is_session_over(&self, end: i64, stream_time: i64) -> bool {
        end.saturating_add(self.size) < self.first_taken(stream_time)
    }

    /// Start of the first window that holds a pane.
    #[must_use]
    pub fn first_start(&self, pane: i64) -> i64 {
        pane - self.size + self.advance
    }

    /// Start of the first window that is not closed at `stream_time`.
    #[must_use]
    pub fn first_open(&self, stream_time: i64) -> i64 {
        if self.is_unbounded() {
            return 0;
        }
        let closed = stream_time.saturating_sub(self.grace).saturating_sub(self.size);
        (closed.div_euclid(self.advance) + 1).saturating_mul(self.advance)
    }

    /// Whether the window that starts at `start` takes no more records at `stream_time`.
    /// The rule is Kafka Streams': closed when its end is at or before stream time − grace.
    #[must_use]
    pub fn is_closed(&self, start: i64, stream_time: i64) -> bool {
        if self.is_unbounded() {
            return false;
        }
        start.saturating_add(self.size) <= stream_time.saturating_sub(self.grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tumbling_window_closes_after_its_grace() {
        let w = Window::tumbling(60, 10);
        assert_eq!(w.starts(119).collect::<Vec<_>>(), [60]);
        assert!(!w.is_closed(60, 129));
        assert!(w.is_closed(60, 130));
    }

    proptest! {
        #[test]
        fn the_first_open_window_follows_the_last_closed_one(
            time in -1_000_i64..1_000, hops in 1_i64..8, grace in 0_i64..30
        ) {
            for time in [time, i64::MIN, i64::MIN + 1_000 + time] {
                let w = Window::hopping(10 * hops, 10, grace);
                let open = w.first_open(time);
                prop_assert_eq!(open.rem_euclid(10), 0);
                prop_assert!(!w.is_closed(open, time));
                prop_assert!(time < -1_000 || w.is_closed(open - 10, time));
            }
        }

        #[test]
        fn every_start_holds_the_time(time in -1_000_000_i64..1_000_000, hops in 1_i64..8) {
            let w = Window::hopping(10 * hops, 10, 0);
            let starts: Vec<_> = w.starts(time).collect();
            prop_assert_eq!(starts.len() as i64, hops);
            for start in starts {
                prop_assert!(start <= time && time < start + w.size);
                prop_assert_eq!(start.rem_euclid(10), 0);
            }
        }
    }
}
