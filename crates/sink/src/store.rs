//! One db_tx per batch: lock the positions, write rows and dead letters, move the positions.
//!
//! What makes it exactly once, whatever dies when:
//! - the positions move in the same db_tx as the rows, so a batch is stored whole or not at all;
//! - every write happens under the lock of its position's row and only with the newest epoch, so a
//!   predecessor that wakes up late finds a newer epoch and writes nothing;
//! - a COMMIT whose answer was lost needs no special path: the batch is simply tried again, and the
//!   first thing a db_tx does is to lock and read its positions. The lock waits for the old session
//!   to end (or times out, and is tried again). Position after the batch: it was stored. Position
//!   before it: it was not. Epoch moved: fenced.

use crate::batch::{Batch, dead_letter_of};
use crate::dead_letter;
use crate::fault::{Action, Fault};
use crate::ledger::Fate;
use crate::postgres::{self, Position};
use crate::watchdog::Watchdog;
use crate::write;
use caudal_kafka::TopicPartition;
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use tokio::runtime::Runtime;

/// Batches in a row without a refused key after which appends go straight to the table again.
const CLEAN_BATCHES: u32 = 20;
/// How often a batch is tried again for a row whose parent row is not there; with the pauses of the
/// loop, for about five seconds.
pub const PARENT_TRIES: u32 = 6;

/// What a stored batch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The new positions.
    pub positions: BTreeMap<TopicPartition, Position>,
    /// Records by table; those of `dead_letters` include the sink's own dead letters.
    pub rows: BTreeMap<String, u64>,
    /// Tombstones by table.
    pub deleted: BTreeMap<String, u64>,
    /// Records that were there already, equal.
    pub duplicates: u64,
    /// Records whose key was there with other contents.
    pub conflicts: u64,
    /// The sink's own dead letters by reason, conflicts included.
    pub dead: BTreeMap<&'static str, u64>,
    /// Whether an append went through a staging table.
    pub staged: bool,
    /// What the server refused on the way to this.
    pub met: Vec<Fault>,
}

/// Why a batch is not stored. Nothing of it is in the database, unless the text says otherwise.
#[derive(Debug)]
pub enum Trouble {
    /// These partitions belong to a newer epoch: drop them and what was read from them.
    Fenced(Vec<TopicPartition>),
    /// It passes: try the same batch again.
    Retry(Fault),
    /// It does not pass by itself.
    Stop(Fault),
    /// Going on would be guessing.
    Halt(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        match fault.action {
            Action::RetryBatch => Trouble::Retry(fault),
            _ => Trouble::Stop(fault),
        }
    }
}

enum Failure {
    Fault(Fault),
    Fenced(Vec<TopicPartition>),
    Halt(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Failure {
        Failure::Fault(error.into())
    }
}

enum Progress {
    Written(Stored),
    AlreadyStored,
}

/// How carefully a batch is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Care {
    /// Appends go through staging tables.
    staging: bool,
    /// Poison rows are isolated under savepoints.
    isolating: bool,
    /// Rows without their parent row are poison.
    orphans: bool,
}

struct Session {
    connection: PgConnection,
    /// Tables whose staging table exists.
    staged: BTreeSet<String>,
}

/// The database as the sink uses it: one session, opened when it is needed.
pub struct Database {
    options: PgConnectOptions,
    runtime: Runtime,
    session: Option<Session>,
    /// Batches that still go through staging.
    staging_batches: u32,
    /// How often the batch was tried again for a parent row.
    parent_tries: u32,
    /// What a COMMIT without an answer would have stored.
    in_doubt: Option<Stored>,
    watchdog: Watchdog,
}

impl Database {
    /// A database that is not connected yet.
    ///
    /// # Errors
    /// When the URL cannot be read, or the system has no resources.
    pub fn new(database_url: &str) -> Result<Database, Fault> {
        Ok(Database {
            options: postgres::options(database_url)?,
            runtime: postgres::runtime()?,
            session: None,
            staging_batches: 0,
            parent_tries: 0,
            in_doubt: None,
            watchdog: Watchdog::start()
                .map_err(|e| Fault::stop(format!("cannot start a thread: {e}")))?,
        })
    }

    /// Claims a partition; see [`postgres::claim`]. Where that waits in vain, the session of a sink
    /// that was stopped may hold the position: the next try finds it ended.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn claim_of(
        &mut self,
        at: &TopicPartition,
        topic_id: Option<&str>,
        first: Option<i64>,
    ) -> Result<Option<Position>, Fault> {
        let claimed = self.run(async |session| {
            postgres::claim(&mut session.connection, at, topic_id, first).await
        });
        if claimed.as_ref().is_err_and(|fault| fault.sqlstate.as_deref() == Some("55P03")) {
            let ended =
                self.run(async |session| postgres::end_stopped(&mut session.connection).await)?;
            if ended > 0 {
                tracing::warn!(ended, "ended the session of a sink that was stopped in a COPY");
            }
        }
        claimed
    }

    /// As [`Database::claim_of`], whatever the topic's id is.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn claim(
        &mut self,
        at: &TopicPartition,
        first: Option<i64>,
    ) -> Result<Option<Position>, Fault> {
        self.claim_of(at, None, first)
    }

    /// Moves a claimed position over a gap; see [`postgres::pass_over`].
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn pass_over(
        &mut self,
        at: &TopicPartition,
        epoch: i64,
        topic_id: &str,
        next: i64,
    ) -> Result<Option<Position>, Fault> {
        self.run(async |session| {
            postgres::pass_over(&mut session.connection, at, epoch, topic_id, next).await
        })
    }

    /// Every stored position of these topics.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn positions(
        &mut self,
        topics: &[String],
    ) -> Result<BTreeMap<TopicPartition, Position>, Fault> {
        self.run(async |session| postgres::positions(&mut session.connection, topics).await)
    }

    /// Applies the migrations; see [`crate::migrations::apply`].
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn migrate(&mut self) -> Result<Vec<&'static str>, Fault> {
        let applied =
            self.run(async |session| crate::migrations::apply(&mut session.connection).await);
        if applied.is_err() {
            self.session = None;
        }
        applied
    }

    /// Makes and widens the tables of queries; see [`crate::query_tables::apply`]. One program at a
    /// time: under the lock of the migrations.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn create_tables(
        &mut self,
        routes: &BTreeMap<std::sync::Arc<str>, crate::config::Route>,
    ) -> Result<Vec<String>, Fault> {
        let made = self.run(async |session| {
            crate::migrations::begin_locked(&mut session.connection).await?;
            let made = crate::query_tables::apply(&mut session.connection, routes.values()).await?;
            session.connection.execute("COMMIT").await?;
            Ok(made)
        });
        if made.is_err() {
            self.session = None;
        }
        made
    }

    fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Database { runtime, options, session, watchdog, .. } = self;
        let result = watchdog
            .call(|| runtime.block_on(async { work(connected(session, options).await?).await }));
        if result.as_ref().is_err_and(|fault| fault.disconnected) {
            self.session = None;
        }
        result
    }

    /// Stores a batch, in one db_tx. Tries as often as it takes to find the right way (staging,
    /// isolating poison rows), but never waits for an outage: that is [`Trouble::Retry`].
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn store(&mut self, batch: &Batch) -> Result<Stored, Trouble> {
        let orphans = self.parent_tries >= PARENT_TRIES;
        let staging = self.staging_batches > 0;
        let mut care = Care { staging, isolating: false, orphans };
        let mut prepared_again = false;
        let mut met = Vec::new();
        loop {
            let fault = match self.attempt(batch, care) {
                Ok(stored) => {
                    self.remember_conflicts(&stored, care);
                    self.parent_tries = 0;
                    return Ok(Stored { met, ..stored });
                }
                Err(Failure::Fenced(partitions)) => {
                    self.parent_tries = 0;
                    return Err(Trouble::Fenced(partitions));
                }
                Err(Failure::Halt(why)) => return Err(Trouble::Halt(why)),
                Err(Failure::Fault(fault)) => fault,
            };
            tracing::debug!(%fault, ?care, "the batch was refused");
            match fault.action {
                Action::RedoThroughStaging if !care.staging => care.staging = true,
                Action::AwaitParent if !orphans => {
                    self.parent_tries += 1;
                    return Err(Trouble::Retry(fault));
                }
                Action::PoisonRow | Action::RedoThroughStaging | Action::AwaitParent
                    if !care.isolating =>
                {
                    care = Care { staging: true, isolating: true, orphans };
                }
                Action::PrepareAgain if !prepared_again => {
                    prepared_again = true;
                    self.session = None;
                }
                _ => return Err(fault.into()),
            }
            met.push(fault);
        }
    }

    fn remember_conflicts(&mut self, stored: &Stored, care: Care) {
        if care.staging {
            let refused = stored.duplicates + stored.conflicts > 0;
            let left = self.staging_batches.saturating_sub(1);
            self.staging_batches = if refused { CLEAN_BATCHES } else { left };
        }
    }

    fn attempt(&mut self, batch: &Batch, care: Care) -> Result<Stored, Failure> {
        let Database { runtime, options, session, watchdog, .. } = self;
        let written = watchdog.call(|| {
            runtime.block_on(async {
                let session = connected(session, options).await?;
                create_staging(session, batch, care).await?;
                write_batch(&mut session.connection, batch, care).await
            })
        });
        if !matches!(written, Ok(Progress::Written(_))) {
            self.abandon(matches!(&written, Err(Failure::Fault(fault)) if fault.disconnected));
        }
        let stored = match written {
            Ok(Progress::Written(stored)) => stored,
            Ok(Progress::AlreadyStored) => {
                return self.in_doubt.take().ok_or_else(|| {
                    Failure::Halt("sink_offsets moved under this sink's own epoch".into())
                });
            }
            Err(failure) => return Err(failure),
        };
        self.in_doubt = None;
        let Database { runtime, session: Some(session), watchdog, .. } = self else {
            return Err(Failure::Halt("no session after a batch was written".into()));
        };
        // sqlx does not show COMMIT's tag, and a failed db_tx answers COMMIT with ROLLBACK and no
        // error. It cannot have failed: the statement before was the counted UPDATE of the
        // positions, which a failed db_tx would have refused (25P02).
        match watchdog.call(|| runtime.block_on(session.connection.execute("COMMIT"))) {
            Ok(_) => Ok(stored),
            Err(error) => {
                // Stored or not, nobody knows: the next attempt's locking read will tell.
                self.session = None;
                self.in_doubt = Some(stored);
                Err(error.into())
            }
        }
    }
}

impl Database {
    /// Ends the db_tx without storing anything: by ROLLBACK, or with the session where that fails.
    fn abandon(&mut self, disconnected: bool) {
        let Database { runtime, session, watchdog, .. } = self;
        let rolled_back = match session {
            Some(session) if !disconnected => {
                watchdog.call(|| runtime.block_on(session.connection.execute("ROLLBACK"))).is_ok()
            }
            _ => false,
        };
        if !rolled_back {
            self.session = None;
        }
    }
}

async fn connected<'s>(
    session: &'s mut Option<Session>,
    options: &PgConnectOptions,
) -> Result<&'s mut Session, Fault> {
    if session.is_none() {
        let connection = postgres::connect(options).await?;
        *session = Some(Session { connection, staged: BTreeSet::new() });
    }
    session.as_mut().ok_or_else(|| Fault::stop("no session"))
}

/// Before the db_tx, whose rollback would take a new table with it.
async fn create_staging(session: &mut Session, batch: &Batch, care: Care) -> Result<(), Fault> {
    for rows in &batch.tables {
        let needed = care.staging || rows.mode.keeps_last();
        // Made anew before rows are called poison.
        if needed && (care.isolating || !session.staged.contains(&rows.table.name)) {
            write::create_staging(&mut session.connection, &rows.table).await?;
            session.staged.insert(rows.table.name.clone());
        }
    }
    Ok(())
}

async fn write_batch(
    connection: &mut PgConnection,
    batch: &Batch,
    care: Care,
) -> Result<Progress, Failure> {
    // Immediate: a deferred constraint would speak at COMMIT, when no row can be isolated.
    connection.execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await?;
    let locked = postgres::lock(connection, batch.moves.keys()).await?;
    let mut fenced = Vec::new();
    let mut done = 0;
    for (at, (expected, after)) in &batch.moves {
        match locked.get(at) {
            Some((epoch, next)) if *epoch == after.epoch && next == expected => {}
            Some((epoch, next)) if *epoch == after.epoch && *next == after.next_offset => done += 1,
            _ => fenced.push(at.clone()),
        }
    }
    if !fenced.is_empty() {
        return Err(Failure::Fenced(fenced));
    }
    if done == batch.moves.len() {
        return Ok(Progress::AlreadyStored);
    }
    if done > 0 {
        let why = "sink_offsets holds one part of a batch without the other";
        return Err(Failure::Halt(why.into()));
    }
    let mut fates = batch.fates.clone();
    for rows in &batch.tables {
        if care.isolating {
            write::isolating(connection, rows, &mut fates, care.orphans).await?;
        } else if care.staging || rows.mode.keeps_last() {
            write::through_staging(connection, rows, &mut fates).await?;
        } else {
            write::append(connection, rows).await?;
        }
    }
    let dead = write::dead_letters(connection, batch, &fates).await.map_err(dead_letter_there)?;
    let (stored, moves) = account(batch, &fates, dead, care)?;
    let moved = postgres::advance(connection, &moves).await?;
    if usize::try_from(moved) != Ok(moves.len()) {
        // The rows were locked above: only a hand in the table can do this.
        return Err(Failure::Fenced(moves.into_keys().collect()));
    }
    Ok(Progress::Written(stored))
}

/// A dead letter's key is where it was read, and positions move with it: it can be there already
/// only when the topic is not the one it was.
fn dead_letter_there(fault: Fault) -> Failure {
    if fault.action == Action::RedoThroughStaging {
        let why = "dead_letters already has a record of this topic, partition and offset: \
                   was the topic deleted and created again? docs/topics-that-change.md says how \
                   to set the old letters aside";
        return Failure::Halt(why.into());
    }
    Failure::Fault(fault)
}

type Moves = BTreeMap<TopicPartition, (i64, Position)>;

fn account(
    batch: &Batch,
    fates: &[Fate],
    dead_letters: u64,
    care: Care,
) -> Result<(Stored, Moves), Failure> {
    let mut moves = batch.moves.clone();
    let mut stored = Stored { staged: care.staging, ..Stored::default() };
    for (at, (partition, _)) in batch.records.iter().enumerate() {
        if let Some((_, position)) = moves.get_mut(partition) {
            let place = || format!("{}-{}", partition.0, partition.1);
            position
                .ledger
                .add(&fates[at], batch.money[at])
                .map_err(|e| Failure::Halt(format!("{}: {e}", place())))?;
        }
        match &fates[at] {
            Fate::Duplicate => stored.duplicates += 1,
            Fate::Conflict => stored.conflicts += 1,
            Fate::Row | Fate::Gone | Fate::Dead(..) => {}
        }
        if let Some((reason, _)) = dead_letter_of(&fates[at]) {
            *stored.dead.entry(reason.as_str()).or_default() += 1;
        }
    }
    for rows in &batch.tables {
        let count = |fate| rows.rows.iter().filter(|row| fates[row.record] == fate).count() as u64;
        stored.rows.insert(rows.table.name.clone(), count(Fate::Row));
        let deleted = count(Fate::Gone);
        if deleted > 0 {
            stored.deleted.insert(rows.table.name.clone(), deleted);
        }
    }
    if dead_letters > 0 {
        stored.rows.insert(dead_letter::TABLE.to_owned(), dead_letters);
    }
    stored.positions = moves.iter().map(|(at, (_, after))| (at.clone(), after.clone())).collect();
    Ok((stored, moves))
}
