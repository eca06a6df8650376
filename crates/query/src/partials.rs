//! Pre-aggregation in stage 1: one partial per group and pane and commit, whatever the number of
//! records and windows behind it. Nothing of it outlives the commit.

use crate::group::{GroupKey, Row, write_key};
use crate::input::Input;
use crate::plan::Plan;
use crate::sessions::{Session, Sessions};
use crate::table::Table;
use crate::values::Values;
use crate::window::Window;
use caudal_core::avro::{AvroError, Reader, Writer};
use caudal_core::money::SumOverflow;
use caudal_sql::expr::EvalError;

/// A group's pre-aggregated records of one pane. They are in the windows that start at `from` or
/// later and hold the pane; of earlier ones they came too late. Of a query with sessions: those of a
/// session from `from` to `pane`.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    /// The group.
    pub group: GroupKey,
    /// Start of the pane in microseconds.
    pub pane: i64,
    /// Start of the earliest window that the records are in, in microseconds.
    pub from: i64,
    /// What the records add up to.
    pub values: Values,
}

impl Partial {
    /// Writes it into a record of `caudal_parciales` or a state block. The values have their length
    /// before them: whoever does not know the query passes them over.
    pub fn write(&self, out: &mut Writer) {
        out.string(&self.group);
        out.long(self.pane);
        out.long(self.pane - self.from);
        out.sized(|out| self.values.write(out));
    }

    /// It as a row of each of its windows that starts before `until`, or of its session.
    pub fn rows(&self, window: &Window, until: i64) -> Vec<Row> {
        if window.session {
            return vec![self.row((self.from, self.pane))];
        }
        let first = self.from.max(window.first_start(self.pane));
        let starts = window.starts(self.pane).filter(move |s| *s >= first && *s < until);
        starts.map(|start| self.row((start, window.end(start)))).collect()
    }

    fn row(&self, (start, end): (i64, i64)) -> Row {
        Row { group: self.group.clone(), start, end, values: self.values.clone() }
    }
}

/// A partial as it was written, before anybody says of which query it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPartial<'a> {
    /// The group.
    pub group: GroupKey,
    /// Start of the pane in microseconds.
    pub pane: i64,
    /// Start of the earliest window that the records are in, in microseconds.
    pub from: i64,
    values: &'a [u8],
}

impl<'a> RawPartial<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// When the bytes are not a partial.
    pub fn read(input: &mut Reader<'a>) -> Result<RawPartial<'a>, AvroError> {
        let (group, pane) = (input.string()?.into(), input.long()?);
        let earlier = input.long()?;
        let from = pane.checked_sub(earlier).filter(|_| earlier >= 0);
        let from = from.ok_or(input.error("partial whose first window is none of its pane's"))?;
        Ok(RawPartial { group, pane, from, values: input.bytes()? })
    }

    /// Writes it as it was read.
    pub fn write(&self, out: &mut Writer) {
        out.string(&self.group);
        out.long(self.pane);
        out.long(self.pane - self.from);
        out.bytes(self.values);
    }

    /// Its group, with the start of each of its windows.
    pub fn starts(&self, window: &Window) -> impl Iterator<Item = (&str, i64)> {
        let first = self.from.max(window.first_start(self.pane));
        let starts = window.starts(self.pane).filter(move |start| *start >= first);
        starts.map(|start| (&*self.group, start))
    }

    /// The bytes of its values.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.values
    }

    /// As a partial of a query.
    ///
    /// # Errors
    /// When the values are not that query's.
    pub fn of(self, plan: &Plan) -> Result<Partial, AvroError> {
        let mut input = Reader::new(self.values);
        let values = Values::read(plan, &mut input)?;
        input.end()?;
        Ok(Partial { group: self.group, pane: self.pane, from: self.from, values })
    }
}

/// What a record did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whether it missed a window that was already closed.
    pub late: bool,
    /// Expressions without a value for this record.
    pub errors: Vec<EvalError>,
}

/// The partials of one plan and one commit.
#[derive(Debug, Clone, Default)]
pub struct Partials {
    table: Table,
    sessions: Sessions,
    key: String,
}

impl Partials {
    /// Adds a record to the windows that are open at `stream_time`, or to its session.
    ///
    /// # Errors
    /// [`SumOverflow`].
    pub fn add(
        &mut self,
        plan: &Plan,
        row: &Input<'_>,
        stream_time: i64,
    ) -> Result<Taken, SumOverflow> {
        match write_key(plan, row, &mut self.key) {
            Ok(true) => {}
            Ok(false) => return Ok(Taken::default()),
            Err(error) => return Ok(Taken { late: false, errors: vec![error] }),
        }
        if plan.window.session {
            return self.add_to_session(plan, row, stream_time);
        }
        let pane = plan.window.pane(row.event_time());
        let first = plan.window.first_start(pane);
        let from = first.max(plan.window.first_open(stream_time));
        let mut taken = Taken { late: from > first, errors: Vec::new() };
        if from > pane {
            return Ok(taken);
        }
        let one = Values::of(plan, row, &mut taken.errors)?;
        let group = self.table.intern(&self.key);
        self.table.add(plan, group, (pane, from), one)?;
        Ok(taken)
    }

    fn add_to_session(
        &mut self,
        plan: &Plan,
        row: &Input<'_>,
        stream_time: i64,
    ) -> Result<Taken, SumOverflow> {
        let time = row.event_time();
        let mut taken =
            Taken { late: plan.window.is_missed(time, stream_time), errors: Vec::new() };
        if !taken.late {
            let values = Values::of(plan, row, &mut taken.errors)?;
            self.sessions.absorb(plan, &self.key, Session { start: time, end: time, values })?;
        }
        Ok(taken)
    }

    /// Takes the partials of this commit, in a stable order: the same batch gives the same bytes.
    pub fn take(&mut self) -> Vec<Partial> {
        if self.sessions.len() > 0 {
            return self.sessions.take();
        }
        let table = &self.table;
        let mut all: Vec<Partial> = table.touched().map(|cell| table.entry(cell)).collect();
        all.sort_unstable_by(|a, b| (&a.group, a.pane, a.from).cmp(&(&b.group, b.pane, b.from)));
        self.table.clear();
        all
    }

    /// Forgets a batch that was not committed.
    pub fn rollback(&mut self) {
        self.table.clear();
        self.sessions = Sessions::default();
    }
}
