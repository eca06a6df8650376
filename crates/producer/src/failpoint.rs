//! Where tests let the process die: `CAUDAL_FAILPOINT=before:3` ends it just before its third
//! commit, `after:3` just after. It ends as with SIGKILL: nothing is flushed, nothing is told.

/// Environment variable that sets one.
pub const VARIABLE: &str = "CAUDAL_FAILPOINT";

/// A moment at which the process dies, if one is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failpoint {
    set: Option<(Side, u64)>,
    commits: u64,
}

/// Of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing of it was sent.
    Before,
    /// It is in Kafka, and nothing in this process knows yet.
    After,
}

impl Failpoint {
    /// The one that the environment sets; none where it sets none that can be read.
    #[must_use]
    pub fn from_env() -> Failpoint {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let set = text.split_once(':').and_then(|(side, number)| {
            let side = match side {
                "before" => Side::Before,
                "after" => Side::After,
                _ => return None,
            };
            Some((side, number.parse().ok()?))
        });
        Failpoint { set, commits: 0 }
    }

    /// A commit comes to that side.
    pub fn reach(&mut self, side: Side) {
        self.commits += u64::from(side == Side::Before);
        if self.set == Some((side, self.commits)) {
            std::process::abort();
        }
    }
}
