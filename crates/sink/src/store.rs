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

use crate::batch::Batch;
use crate::breaker::Breaker;
use crate::config::{InsertMode, Route};
use crate::db_tx::{Care, Failure, Progress, write_batch};
use crate::fault::{Action, Fault};
use crate::generic::Unknown;
use crate::generic::layout::Layout;
use crate::learn::{self, Routes};
use crate::postgres::{self, Position};
use crate::unnest::{self, Arrays};
use crate::watchdog::Watchdog;
use crate::write;
use caudal_kafka::TopicPartition;
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
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

struct Session {
    connection: PgConnection,
    /// Tables whose staging table exists.
    staged: BTreeSet<String>,
    /// Array types of the columns of tables that are upserted.
    arrays: BTreeMap<String, Option<Arrays>>,
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
    breaker: Breaker,
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
            breaker: Breaker::new(1.0),
        })
    }

    /// Stores nothing when more than that share of a minute's records would be dead letters.
    #[must_use]
    pub fn stopping_at(self, dead_share: f64) -> Database {
        Database { breaker: Breaker::new(dead_share), ..self }
    }

    /// Claims a partition; see [`postgres::claim`]. Where that waits in vain, the session of a sink
    /// that was stopped may hold the position: the next try finds it ended.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn claim(
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
    /// time: under the lock of the migrations. Then those of topics whose schemas the file declares.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn create_tables(&mut self, routes: &mut Routes) -> Result<Vec<String>, Fault> {
        let made = self.run(async |session| {
            crate::migrations::begin_locked(&mut session.connection).await?;
            let made = crate::query_tables::apply(&mut session.connection, routes.values()).await?;
            session.connection.execute("COMMIT").await?;
            Ok(made)
        });
        if made.is_err() {
            self.session = None;
        }
        let mut made = made?;
        for (topic, unknown, layout) in learn::declared(routes)? {
            if let Some(route) = routes.get_mut(&topic) {
                made.extend(self.learn(route, unknown, layout)?);
            }
        }
        Ok(made)
    }

    /// Brings the table of a topic of others up to a schema; see [`learn::into_table`].
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn learn(
        &mut self,
        route: &mut Route,
        unknown: Unknown,
        layout: Layout,
    ) -> Result<Vec<String>, Fault> {
        let done = self.run(async |session| {
            let done =
                learn::into_table(&mut session.connection, route, unknown, layout.clone()).await?;
            // Made for fewer columns.
            session.arrays.remove(&route.table.name);
            if session.staged.remove(&route.table.name) {
                session.connection.execute(&*write::drop_staging(&route.table)).await?;
            }
            Ok(done)
        });
        if done.is_err() {
            self.session = None;
        }
        done
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

    /// Stores a batch on a thread of its own, `committed` at its end, while `meanwhile` runs on this
    /// one. Both are waited for.
    pub fn store_while<T>(
        &mut self,
        batch: &Batch,
        committed: impl FnOnce(&Stored) + Send,
        meanwhile: impl FnOnce() -> T,
    ) -> (Result<Stored, Trouble>, T) {
        std::thread::scope(|scope| {
            let storing = scope.spawn(|| self.store(batch).inspect(committed));
            let meanwhile = meanwhile();
            match storing.join() {
                Ok(stored) => (stored, meanwhile),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
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
                prepare(session, batch, care).await?;
                write_batch(&mut session.connection, batch, &session.arrays, care).await
            })
        });
        if !matches!(written, Ok(Progress::Written(..))) {
            self.abandon(matches!(&written, Err(Failure::Fault(fault)) if fault.disconnected));
        }
        let (stored, fates) = match written {
            Ok(Progress::Written(stored, fates)) => (stored, fates),
            Ok(Progress::AlreadyStored) => {
                return self.in_doubt.take().ok_or_else(|| {
                    Failure::Halt("sink_offsets moved under this sink's own epoch".into())
                });
            }
            Err(failure) => return Err(failure),
        };
        self.in_doubt = None;
        if let Some(why) = self.breaker.objects(Instant::now(), &fates) {
            self.abandon(false);
            return Err(Failure::Halt(why));
        }
        let Database { runtime, session: Some(session), watchdog, .. } = self else {
            return Err(Failure::Halt("no session after a batch was written".into()));
        };
        // sqlx does not show COMMIT's tag, and a failed db_tx answers COMMIT with ROLLBACK and no
        // error. It cannot have failed: the statement before was the counted UPDATE of the
        // positions, which a failed db_tx would have refused (25P02).
        match watchdog.call(|| runtime.block_on(session.connection.execute("COMMIT"))) {
            Ok(_) => {
                self.breaker.stored(Instant::now(), &fates);
                Ok(stored)
            }
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
        *session = Some(Session { connection, staged: BTreeSet::new(), arrays: BTreeMap::new() });
    }
    session.as_mut().ok_or_else(|| Fault::stop("no session"))
}

/// Makes staging tables, before the db_tx, whose rollback would take a new table with it; and looks up
/// the types of those that are upserted. Both anew before rows are called poison.
async fn prepare(session: &mut Session, batch: &Batch, care: Care) -> Result<(), Fault> {
    let Session { connection, staged, arrays } = session;
    for rows in &batch.tables {
        let table = &rows.table;
        if rows.mode == InsertMode::Upsert && (care.isolating || !arrays.contains_key(&table.name))
        {
            let types = unnest::array_types(connection, table).await?;
            arrays.insert(table.name.clone(), types);
        }
        let has_arrays = matches!(arrays.get(&table.name), Some(Some(_)));
        let needed = care.staging || rows.mode.keeps_last();
        // A row that was passed over comes to its turn when the one after it is poison.
        let deletes = rows.rows.iter().any(|row| row.is_gone);
        let count = rows.rows.iter().filter(|row| row.chosen).count();
        let unneeded = has_arrays && unnest::suits(rows.mode, count, deletes);
        if needed && !unneeded && (care.isolating || !staged.contains(&table.name)) {
            write::create_staging(connection, table).await?;
            staged.insert(table.name.clone());
        }
    }
    Ok(())
}
