//! Load that lasts as long as the faults do.

use crate::pipeline::{Pipeline, Service};
use anyhow::{Result, bail, ensure};
use std::time::Duration;

/// A generator that is paced while faults are played, so that there is work in flight on any
/// machine, and then sends the rest as fast as it can.
pub struct PacedLoad<'a> {
    pipeline: &'a Pipeline,
    records: &'a str,
    seed: &'a str,
    rate: &'a str,
    producer: Service,
}

impl<'a> PacedLoad<'a> {
    /// Starts it: so many records of a seed, so many a second, in small transactions.
    ///
    /// # Errors
    /// When the producer cannot be started.
    pub fn start(
        pipeline: &'a Pipeline,
        records: &'a str,
        seed: &'a str,
        rate: &'a str,
    ) -> Result<PacedLoad<'a>> {
        let producer = produce(pipeline, records, seed, rate)?;
        Ok(PacedLoad { pipeline, records, seed, rate, producer })
    }

    /// For a load whose brokers are killed: its own calls may fail in the outage, and a user would
    /// start it again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn revive(&mut self) -> Result<()> {
        if self.producer.ended()?.is_some_and(|status| !status.success()) {
            println!(
                "the producer ended and is started again; log {}",
                self.producer.log.display()
            );
            self.producer = produce(self.pipeline, self.records, self.seed, self.rate)?;
        }
        Ok(())
    }

    /// Stops pacing, and returns when everything is in Kafka.
    ///
    /// # Errors
    /// When the load ended before (the faults may have hit nothing), or the producer fails.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        if let Some(status) = self.producer.ended()? {
            bail!(
                "the load ended ({status}) before the faults were over: they may have hit nothing; log {}",
                self.producer.log.display()
            );
        }
        ensure!(self.producer.terminate()?.success(), "log {}", self.producer.log.display());
        let mut rest = produce(self.pipeline, self.records, self.seed, "0")?;
        ensure!(rest.wait(limit)?.success(), "the producer failed; log {}", rest.log.display());
        Ok(())
    }
}

fn produce(pipeline: &Pipeline, records: &str, seed: &str, rate: &str) -> Result<Service> {
    let batch = if rate == "0" { "10000" } else { "2000" };
    let args = ["--generate", records, "--seed", seed, "--batch-records", batch, "--rate", rate];
    pipeline.start("caudal-producer", "producer", &args)
}
