//! The command line of the generator, beside its number, seed and rate.

use super::shape::{Mix, STEP, Shape};
use anyhow::Result;
use caudal_service::exit::Usage;
use clap::Args;
use std::path::PathBuf;

/// What generated records look like.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Accounts of --generate (1 to 10000000)
    #[arg(
        long,
        env = "CAUDAL_ACCOUNTS",
        default_value_t = Shape::LIFE.accounts,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    pub accounts: u64,
    /// Merchants of --generate (1 to 10000000)
    #[arg(
        long,
        env = "CAUDAL_MERCHANTS",
        default_value_t = Shape::LIFE.merchants,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    pub merchants: u64,
    /// How unequal they are: the exponent of Zipf's law, 0 (all alike) to 4, in steps of 0.01
    #[arg(long, env = "CAUDAL_SKEW", default_value = "1", value_parser = hundredths, value_name = "S")]
    pub skew: u32,
    /// What is wrong with generated records: `clean`, or shares of 10,000 such as
    /// broken=20,duplicate=100,conflict=2,late=100,json=1000 (these are the defaults); instead of
    /// broken, single faults by their names
    #[arg(long, env = "CAUDAL_MIX", default_value = "", value_name = "LIST")]
    pub mix: String,
    /// Event time passes so many times as fast as the clock at --rate: 1 is as the clock, 60 an
    /// hour a minute [default: 27 ms from one record to the next]
    #[arg(long, env = "CAUDAL_EVENT_TIME_SPEED", requires = "rate", value_name = "X")]
    pub event_time_speed: Option<u32>,
    /// Write the records of --generate to this file as CSV instead of sending them
    /// (config/sources/generated.toml maps it)
    #[arg(long, env = "CAUDAL_WRITE_CSV", requires = "generate", value_name = "FILE")]
    pub write_csv: Option<PathBuf>,
}

impl GenerateArgs {
    /// The shape that they describe; `rate` in records a second.
    ///
    /// # Errors
    /// [`Usage`] for a mix that is none, or a speed without a rate.
    pub fn shape(&self, rate: u64) -> Result<Shape> {
        let mix = if self.mix.is_empty() { Shape::LIFE.mix } else { Mix::parse(&self.mix)? };
        let step = match self.event_time_speed {
            None => STEP,
            Some(_) if rate == 0 => {
                return Err(Usage("--event-time-speed needs a --rate".into()).into());
            }
            Some(speed) => i64::try_from(u64::from(speed) * 1_000_000 / rate).unwrap_or(i64::MAX),
        };
        let (accounts, merchants) = (self.accounts, self.merchants);
        Ok(Shape { accounts, merchants, skew: self.skew, step, mix })
    }
}

/// `0.9` as 90.
fn hundredths(text: &str) -> std::result::Result<u32, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let value = (!whole.is_empty() && fraction.len() <= 2 && digits(whole) && digits(fraction))
        .then(|| format!("{whole}{fraction:0<2}").parse::<u32>().ok())
        .flatten();
    value.filter(|v| *v <= 400).ok_or_else(|| "a number from 0 to 4 with at most two places".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_read_without_floats() {
        let good = [("0", 0), ("1", 100), ("0.9", 90), ("1.07", 107), ("4.00", 400)];
        good.iter().for_each(|(text, wanted)| assert_eq!(hundredths(text), Ok(*wanted)));
        for wrong in ["", ".5", "1.005", "-1", "4.01", "x", "1e1"] {
            assert!(hundredths(wrong).is_err(), "{wrong}");
        }
    }
}
