//! What generated records look like: how many deal with whom, how fast, and what is wrong with them.

use super::broken::Fault;
use super::draw::Dice;
use anyhow::Result;
use caudal_service::exit::Usage;
use std::fmt;

/// Event time from one record of [`Shape::LIFE`] to the next, in microseconds: 200,000 records span
/// 90 minutes.
pub const STEP: i64 = 27_000;
/// Shares are of so many records.
pub const WHOLE: u32 = 10_000;

/// How many deal with whom, how fast, and how often something is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Number of accounts.
    pub accounts: u64,
    /// Number of merchants.
    pub merchants: u64,
    /// Exponent of Zipf's law for both, in hundredths; 0: all alike.
    pub skew: u32,
    /// Event time from one record to the next, in microseconds.
    pub step: i64,
    /// What is not as it should be.
    pub mix: Mix,
}

impl Shape {
    /// Ten thousand accounts, a thousand merchants; one record in ten is JSON, one in 500 broken,
    /// one in 5,000 contradicts an earlier one.
    pub const LIFE: Shape = Shape {
        accounts: 10_000,
        merchants: 1_000,
        skew: 100,
        step: STEP,
        mix: Mix { json: 1_000, broken: 20, duplicate: 100, conflict: 2, late: 100, faults: None },
    };
    /// The load of benchmarks: a hundred thousand accounts, ten thousand merchants; all Avro, one
    /// in a thousand broken. Event time passes at 1,000,000 records an hour.
    pub const LOAD: Shape = Shape {
        accounts: 100_000,
        merchants: 10_000,
        skew: 100,
        step: 3_600,
        mix: Mix { json: 0, broken: 10, duplicate: 100, conflict: 0, late: 100, faults: None },
    };

    /// Its part of a label: empty for [`Shape::LIFE`]; the same shape has the same in every version.
    #[must_use]
    pub fn label(&self) -> String {
        match *self {
            Shape::LIFE => String::new(),
            Shape::LOAD => "-load".into(),
            _ => {
                let Shape { accounts, merchants, skew, step, mix } = self;
                // FNV-1a: ids of different shapes must differ, and that is all.
                let text = format!("{accounts} {merchants} {skew} {step} {mix}");
                let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
                });
                format!("-{hash:08x}")
            }
        }
    }
}

/// Shares of 10,000 records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mix {
    /// JSON instead of Avro.
    pub json: u32,
    /// Broken in some way.
    pub broken: u32,
    /// The same again, a while later.
    pub duplicate: u32,
    /// The same id with another amount, a while later.
    pub conflict: u32,
    /// Arrive half a minute to six minutes after their time.
    pub late: u32,
    /// Shares of the ways to be broken, in the order of [`Fault::ALL`]; `None`: all alike.
    pub faults: Option<[u32; Fault::ALL.len()]>,
}

impl Mix {
    /// Nothing but good Avro, in time.
    pub const CLEAN: Mix =
        Mix { json: 0, broken: 0, duplicate: 0, conflict: 0, late: 0, faults: None };

    /// Reads `clean`, or shares of 10,000 such as `duplicate=200,late=0`; those not named stay as
    /// they are in [`Shape::LIFE`]. A fault's name instead of `broken` is a share of its own.
    ///
    /// # Errors
    /// [`Usage`] that names what is known.
    pub fn parse(text: &str) -> Result<Mix> {
        let mut mix = Shape::LIFE.mix;
        for part in text.split(',').map(str::trim) {
            if part == "clean" {
                mix = Mix::CLEAN;
                continue;
            }
            let share = part.split_once('=').and_then(|(name, share)| {
                Some((name.trim(), share.trim().parse::<u32>().ok().filter(|s| *s <= WHOLE)?))
            });
            let (name, share) = share.ok_or_else(|| unknown(part))?;
            match name {
                "json" => mix.json = share,
                "broken" => (mix.broken, mix.faults) = (share, None),
                "duplicate" => mix.duplicate = share,
                "conflict" => mix.conflict = share,
                "late" => mix.late = share,
                fault => {
                    let at = Fault::ALL.iter().position(|f| f.name() == fault);
                    mix.faults.get_or_insert_default()[at.ok_or_else(|| unknown(part))?] = share;
                }
            }
        }
        if let Some(faults) = mix.faults {
            mix.broken = faults.iter().sum();
        }
        if mix.broken > WHOLE {
            return Err(Usage(format!("--mix {text}: more than all records are broken")).into());
        }
        Ok(mix)
    }

    /// Draws a way to be broken.
    pub(super) fn fault(&self, dice: &mut Dice) -> Fault {
        let Some(faults) = self.faults else { return dice.pick(&Fault::ALL) };
        let mut at = dice.below(u64::from(self.broken));
        let drawn = Fault::ALL.into_iter().zip(faults).find(|(_, share)| {
            let hit = at < u64::from(*share);
            at = at.saturating_sub(u64::from(*share));
            hit
        });
        drawn.map_or(Fault::NoFraming, |(fault, _)| fault)
    }
}

fn unknown(part: &str) -> anyhow::Error {
    let faults = Fault::ALL.map(Fault::name).join(", ");
    Usage(format!(
        "--mix {part}: `clean`, or a share of 10,000 such as late=50 of json, broken, duplicate, \
         conflict, late, {faults}"
    ))
    .into()
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mix { json, broken, duplicate, conflict, late, faults } = self;
        write!(f, "{json} {broken} {duplicate} {conflict} {late}")?;
        faults.iter().flatten().try_for_each(|share| write!(f, " {share}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_what_is_wrong_is_named() {
        assert_eq!(Mix::parse("clean").unwrap(), Mix::CLEAN);
        assert_eq!(Mix::parse("late=0").unwrap(), Mix { late: 0, ..Shape::LIFE.mix });
        let faults = Mix::parse("clean, cut_json=5, tombstone=7").unwrap();
        assert_eq!((faults.broken, faults.late), (12, 0));
        for wrong in ["", "late", "late=x", "late=10001", "lates=1", "cut_json=9999,tombstone=2"] {
            assert!(Mix::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_named_faults_are_drawn() {
        let (mix, mut dice) = (Mix::parse("cut_json=30,tombstone=10").unwrap(), Dice::new(3));
        let drawn: Vec<Fault> = (0..4_000).map(|_| mix.fault(&mut dice)).collect();
        let count = |fault| drawn.iter().filter(|f| **f == fault).count();
        assert_eq!(count(Fault::CutJson) + count(Fault::Tombstone), 4_000);
        assert!((850..1_150).contains(&count(Fault::Tombstone)));
    }

    #[test]
    fn shapes_have_labels_of_their_own() {
        assert_eq!((Shape::LIFE.label(), Shape::LOAD.label()), (String::new(), "-load".into()));
        let other = Shape { skew: 90, ..Shape::LIFE };
        assert!(other.label() != Shape { skew: 91, ..Shape::LIFE }.label());
        assert_eq!(other.label().len(), 9);
    }
}
