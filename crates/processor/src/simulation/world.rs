//! The cluster with the processes that run against it. A process that stalls lets the others run
//! from inside its own call; one that is killed unwinds out of it.

use super::broker::SimBroker;
use super::cluster::Cluster;
use crate::engine::{Engine, Options, Step};
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::status::Board;
use caudal_kafka::consumer::Limits;
use caudal_service::exit::Halt;
use caudal_service::http::Readiness;
use std::cell::{Cell, RefCell, RefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A kill, on its way up the stack.
struct Killed;

/// A process: its name, and its engine while it runs.
struct Process {
    name: String,
    engine: Option<Box<Engine<SimBroker>>>,
}

/// Everything that a schedule plays with.
pub struct World {
    cluster: RefCell<Cluster>,
    processes: RefCell<Vec<Process>>,
    pub shared: Arc<Shared>,
    stalling: Cell<bool>,
    /// The first thing that must not happen.
    failure: RefCell<Option<String>>,
}

impl World {
    /// A cluster and processes of these names, none of which runs.
    pub fn new(cluster: Cluster, shared: Arc<Shared>, names: &[&str]) -> Rc<World> {
        let process = |name: &&str| Process { name: (*name).to_owned(), engine: None };
        Rc::new(World {
            cluster: RefCell::new(cluster),
            processes: RefCell::new(names.iter().map(process).collect()),
            shared,
            stalling: Cell::new(false),
            failure: RefCell::new(None),
        })
    }

    /// The cluster, for a moment.
    pub fn cluster(&self) -> RefMut<'_, Cluster> {
        self.cluster.borrow_mut()
    }

    /// A call of a process: time passes, and the process may be killed before it.
    pub fn call(&self, instance: &str, what: &'static str) -> RefMut<'_, Cluster> {
        let mut cluster = self.cluster();
        cluster.call();
        let rate = cluster.rates.crash;
        if cluster.strikes(rate, "kills") {
            cluster.note(|| format!("{instance}: killed at {what}"));
            drop(cluster);
            resume_unwind(Box::new(Killed));
        }
        cluster
    }

    /// The process may stall here: the others go on, for a moment, or until its session or even its
    /// txn has ended.
    pub fn stall(&self, instance: &str, at: &'static str) {
        let (turns, time) = {
            let mut cluster = self.cluster();
            let rate = cluster.rates.stall;
            if self.stalling.get() || !cluster.strikes(rate, "stalls") {
                return;
            }
            let time = [2, 8, 8, 20, 60][cluster.dice.index(5)];
            cluster.note(|| format!("{instance}: stalls for {time} s {at}"));
            cluster.group.set_alive(instance, false);
            (4 + cluster.dice.index(30), Duration::from_secs(time))
        };
        self.stalling.set(true);
        for turn in 0..turns {
            if turn % 4 == 0 {
                self.cluster().pass(time / u32::try_from(turns / 4 + 1).expect("few"));
            }
            self.step_any();
        }
        self.stalling.set(false);
        let mut cluster = self.cluster();
        cluster.group.set_alive(instance, true);
        cluster.note(|| format!("{instance}: goes on"));
    }

    /// Says what must not happen; the first word counts.
    pub fn fail(&self, what: String) {
        self.cluster().note(|| format!("FAILURE: {what}"));
        self.failure.borrow_mut().get_or_insert(what);
    }

    /// What must not happen, and did.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Number of processes.
    pub fn len(&self) -> usize {
        self.processes.borrow().len()
    }

    /// Which processes do not run.
    pub fn down(&self) -> Vec<usize> {
        let processes = self.processes.borrow();
        (0..processes.len()).filter(|at| processes[*at].engine.is_none()).collect()
    }

    /// Starts a process that does not run, as a supervisor does.
    pub fn start(self: &Rc<World>, at: usize) {
        let name = self.processes.borrow()[at].name.clone();
        self.cluster().note(|| format!("{name}: starts"));
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).expect("metrics"));
        let board = Board::new(1, Readiness::starting(), Arc::clone(&metrics), u64::MAX);
        let options = Options {
            limits: Limits { records: 30, bytes: 1 << 20, idle: Duration::from_millis(100) },
            interval: Duration::from_millis(20),
            adopt: None,
        };
        let broker = SimBroker::start(self, &name);
        let engine =
            Engine::new(broker, Arc::clone(&self.shared), options, metrics, board.status(0));
        self.processes.borrow_mut()[at].engine = Some(Box::new(engine));
    }

    /// Kills a process between two steps.
    pub fn kill(&self, at: usize) {
        let mut processes = self.processes.borrow_mut();
        let process = &mut processes[at];
        if process.engine.take().is_some() {
            let mut cluster = self.cluster();
            cluster.note(|| format!("{}: killed", process.name));
            cluster.group.set_alive(&process.name, false);
        }
    }

    /// Lets some process that runs take a step.
    pub fn step_any(&self) {
        let running: Vec<usize> = {
            let processes = self.processes.borrow();
            (0..processes.len()).filter(|at| processes[*at].engine.is_some()).collect()
        };
        if !running.is_empty() {
            let at = running[self.cluster().dice.index(running.len())];
            self.step(at);
        }
    }

    /// Lets a process take a step, if it runs; whether it committed something.
    pub fn step(&self, at: usize) -> bool {
        let (name, engine) = {
            let process = &mut self.processes.borrow_mut()[at];
            (process.name.clone(), process.engine.take())
        };
        let Some(mut engine) = engine else { return false };
        match catch_unwind(AssertUnwindSafe(|| engine.step())) {
            Ok(Ok(step)) => {
                self.processes.borrow_mut()[at].engine = Some(engine);
                return step == Step::Committed;
            }
            Ok(Err(error)) if error.downcast_ref::<Halt>().is_some() => {
                self.fail(format!("{name} halts: {error:#}"));
            }
            Ok(Err(error)) => self.cluster().note(|| format!("{name}: ends: {error:#}")),
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied());
                self.fail(format!("{name} panics: {}", text.unwrap_or("?")));
            }
        }
        self.cluster().group.set_alive(&name, false);
        false
    }

    /// Calls `look` with each engine that runs.
    pub fn engines(&self, mut look: impl FnMut(&Engine<SimBroker>)) {
        self.processes.borrow().iter().filter_map(|p| p.engine.as_deref()).for_each(&mut look);
    }

    /// Ends every process; without it they and the cluster would keep each other alive.
    pub fn end(&self) {
        let engines: Vec<_> =
            self.processes.borrow_mut().iter_mut().map(|p| p.engine.take()).collect();
        drop(engines);
    }
}
