//! The one thread that writes.
//!
//! Commands queue up while a commit waits for the disk; the next commit takes all that have come, up to
//! [`MAX_BATCH_RECORDS`]. So many callers share a flush and a lone one waits for nobody.
//!
//! A commit that fails has an unknown outcome. Everybody in it gets an error, the engine is closed and opened
//! again, and nothing is acknowledged until a commit succeeds; what callers then repeat is found to be a
//! duplicate, or not.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use mhc_protocol::{
    NetworkId, RecordId, SecretKey, Timestamp,
    record::{Body, Draft, RecordKind, VerifiedRecord},
};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot,
};

use super::{
    Committed, Forgotten, Health, Outcome, RecordsError, Shared,
    engine::Space,
    index,
    log::{self, Finished, LogTx, Memory},
    tables::{FORMAT, FORMAT_VERSION, LOG, LogId, LogKey, META, OUTBOX, UPGRADED_FORMATS, number},
};
use crate::kv::{Durability, KvError, WriteTx};

/// What one commit takes at most, unless a single command brings more.
const MAX_BATCH_RECORDS: usize = 256;
/// How many records a rebuild of the index reads between two batches of commands.
const REBUILD_RECORDS: usize = 4096;
/// How many records are forgotten in one transaction.
const FORGOTTEN_RECORDS: usize = 1024;
/// So many steps of a rebuild share a flush when nothing else asks for one.
const REBUILD_STEPS_PER_FLUSH: u32 = 4;
/// Commands that wait for the writer; then callers wait.
const MAX_QUEUED: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, RecordsError>>;

/// A record to sign and append.
pub(super) struct Publication {
    pub(super) key: SecretKey,
    pub(super) network: NetworkId,
    pub(super) kind: RecordKind,
    pub(super) body: Body,
    pub(super) now: Timestamp,
}

/// A key of a private table and what to set it to; `None` deletes.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

pub(super) enum Command {
    Append(Vec<VerifiedRecord>, Reply<Vec<Outcome>>),
    Publish(Box<Publication>, Reply<VerifiedRecord>),
    Private(String, Vec<Change>, Reply<()>),
    OutboxSent(Vec<u64>, Reply<()>),
    Rebuild(Reply<u64>),
    /// Drop these logs, as far as one step goes.
    Forget(Vec<LogId>, Reply<Forgotten>),
    /// A reader found damage at these keys.
    Quarantine(Vec<LogKey>, Option<Reply<()>>),
    Close(oneshot::Sender<()>),
}

impl Command {
    fn records(&self) -> usize {
        match self {
            Self::Append(records, _) => records.len().max(1),
            _ => 1,
        }
    }
}

/// The way to whoever writes. Dropped, it finishes what is queued and ends.
pub(super) enum Writer {
    /// A thread of its own.
    Thread { commands: Option<mpsc::Sender<Command>>, thread: Option<thread::JoinHandle<()>> },
    /// Whoever calls: for simulation, where everything is on one thread.
    #[cfg(any(test, feature = "testing"))]
    Caller(Box<std::sync::Mutex<Core>>),
}

impl Writer {
    pub(super) fn start(core: Core) -> Result<Self, KvError> {
        let (commands, queue) = mpsc::channel(MAX_QUEUED);
        let thread = thread::Builder::new().name("mhc-records".into()).spawn(move || core.run(queue));
        Ok(Self::Thread { commands: Some(commands), thread: Some(thread.map_err(KvError::Io)?) })
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, RecordsError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.unwrap_or(Err(RecordsError::Closed))
    }

    async fn send(&self, command: Command) -> Result<(), RecordsError> {
        match self {
            Self::Thread { commands, .. } => {
                let commands = commands.as_ref().ok_or(RecordsError::Closed)?;
                commands.send(command).await.map_err(|_| RecordsError::Closed)
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Caller(core) => {
                core.lock().unwrap_or_else(std::sync::PoisonError::into_inner).run_one(command);
                Ok(())
            }
        }
    }

    pub(super) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Command::Close(reply)).await.is_ok() {
            // An error means that it has ended already.
            let _ = answer.await;
        }
    }

    /// Tells the writer without waiting. Lost when it is busy: the next reader will find the damage again.
    pub(super) fn damaged(&self, key: LogKey) {
        match self {
            Self::Thread { commands, .. } => {
                if let Some(commands) = commands {
                    let _ = commands.try_send(Command::Quarantine(vec![key], None));
                }
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Caller(core) => {
                let mut core = core.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                core.run_one(Command::Quarantine(vec![key], None));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        match self {
            Self::Thread { commands, thread } => {
                *commands = None;
                if let Some(thread) = thread.take() {
                    // It panicked, or it didn't: either way it has ended.
                    let _ = thread.join();
                }
            }
            #[cfg(any(test, feature = "testing"))]
            Self::Caller(_) => {}
        }
    }
}

/// What writes.
pub(super) struct Core {
    shared: Arc<Shared>,
    space: Space,
    memory: Memory,
    /// The index must be replayed before anything else is written.
    stale: bool,
    /// Who waits for the rebuild under way.
    rebuild_replies: Vec<Reply<u64>>,
    /// Steps of it since the last flush.
    unflushed_steps: u32,
}

/// An answer that is given once the commit has succeeded or not.
type Answer = Box<dyn FnOnce(Result<(), RecordsError>)>;

fn answer<T: 'static>(reply: Reply<T>, value: Result<T, RecordsError>) -> Answer {
    // A caller that has gone away doesn't change what was done.
    Box::new(move |commit| drop(reply.send(commit.and(value))))
}

/// What a batch gathers while it is carried out.
#[derive(Default)]
struct Batch {
    answers: Vec<Answer>,
    /// Published here.
    local: Vec<RecordId>,
    /// Who wants the index rebuilt.
    rebuild: Vec<Reply<u64>>,
}

impl Batch {
    /// Keeps the answer for after the commit; an engine's error ends the batch and is everybody's answer.
    fn settle<T: 'static>(
        &mut self,
        reply: Reply<T>,
        value: Result<Result<T, RecordsError>, KvError>,
    ) -> Result<(), KvError> {
        let (value, result) = match value {
            Ok(value) => (value, Ok(())),
            Err(error) => (Err(RecordsError::Closed), Err(error)),
        };
        self.answers.push(answer(reply, value));
        result
    }
}

impl Core {
    /// Checks the index and brings it in line if there is room to write.
    pub(super) fn new(shared: Arc<Shared>, space: Space) -> Result<Self, RecordsError> {
        let (memory, rebuild_replies) = (Memory::default(), Vec::new());
        let mut core = Self { shared, space, memory, stale: false, rebuild_replies, unflushed_steps: 0 };
        let snapshot = core.shared.slot.read()?;
        let format = snapshot.get(META, FORMAT)?.map(|bytes| number(&bytes));
        core.stale = !index::is_current(&*snapshot, &core.shared.projections)?;
        drop(snapshot);
        match format {
            None | Some(Some(FORMAT_VERSION)) => {}
            Some(Some(older)) if UPGRADED_FORMATS.contains(&older) => core.stale = true,
            Some(_) => return Err(KvError::Corrupt("not a record store of a version that is known".into()).into()),
        }
        core.shared.set_index_ready(!core.stale);
        match core.make_ready() {
            Ok(()) if core.stale || format.is_none() => core.start_index()?,
            // Read-only: reading works, and the first write that finds room will see to the rest.
            Ok(()) | Err(_) => {}
        }
        Ok(core)
    }

    fn start_index(&mut self) -> Result<(), RecordsError> {
        match self.process(Vec::new()) {
            Ok(()) | Err(RecordsError::StorageFull) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(first) = self.next(&mut queue) {
            let mut records = first.as_ref().map_or(0, Command::records);
            let mut batch: Vec<_> = first.into_iter().collect();
            while records < MAX_BATCH_RECORDS
                && let Ok(next) = queue.try_recv()
            {
                records += next.records();
                batch.push(next);
            }
            let closing = batch.iter().position(|command| matches!(command, Command::Close(_)));
            let closing = closing.map(|at| batch.split_off(at));
            if !batch.is_empty() || closing.is_none() {
                // Everybody in the batch has had the error.
                let _ = self.process(batch);
            }
            if let Some(Command::Close(reply)) = closing.and_then(|rest| rest.into_iter().next()) {
                self.shared.slot.close();
                // Whoever asked may have gone away.
                let _ = reply.send(());
                return;
            }
        }
        self.shared.slot.close();
    }

    /// Carries out one command at once, and all of the rebuild that it begins.
    #[cfg(any(test, feature = "testing"))]
    fn run_one(&mut self, command: Command) {
        if let Command::Close(reply) = command {
            self.shared.slot.close();
            // Whoever asked may have gone away.
            let _ = reply.send(());
            return;
        }
        // Whoever asked has had the error.
        let _ = self.process(vec![command]);
        while self.memory.rebuild.is_some() && self.process(Vec::new()).is_ok() {}
    }

    /// Waits for a command; while a rebuild is under way it doesn't wait: `Some(None)` is time for the next step.
    /// None when nobody can send any more.
    fn next(&self, queue: &mut mpsc::Receiver<Command>) -> Option<Option<Command>> {
        if self.memory.rebuild.is_none() {
            return queue.blocking_recv().map(Some);
        }
        match queue.try_recv() {
            Ok(command) => Some(Some(command)),
            Err(TryRecvError::Empty) => Some(None),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    /// One transaction for all of `commands`, and for a step of the rebuild under way.
    fn process(&mut self, commands: Vec<Command>) -> Result<(), RecordsError> {
        let mut commands = commands.into_iter();
        let mut batch = Batch::default();
        let finished = self.make_ready().and_then(|()| {
            // An engine may panic over a damaged page, as redb does in debug builds. Nothing of the transaction
            // outlives it: the engine is opened again and what waits in memory is forgotten.
            let done = catch_unwind(AssertUnwindSafe(|| self.transact(&mut commands, &mut batch)));
            done.unwrap_or_else(|_| Err(KvError::Corrupt("a transaction panicked".into()))).map_err(|error| {
                self.recover(&error);
                RecordsError::from(error)
            })
        });
        // Those that weren't reached share the error of the one that failed.
        batch.answers.extend(commands.filter_map(Command::give_up));
        self.rebuild_replies.append(&mut batch.rebuild);
        let result = finished.map(|finished| {
            self.stale = false;
            self.shared.set_index_ready(true);
            self.shared.set_health(Health::ReadWrite);
            self.space.restore_reserve();
            self.announce(finished.activated, &batch.local);
            if let Some(records) = finished.rebuilt {
                self.rebuild_ends(Ok(records));
            }
        });
        for answer in batch.answers {
            answer(result.clone());
        }
        if let Err(error) = &result {
            // It would fail again and again; whoever asked for it may ask once more.
            self.memory.rebuild = None;
            self.rebuild_ends(Err(error.clone()));
        }
        result
    }

    fn rebuild_ends(&mut self, result: Result<u64, RecordsError>) {
        for reply in self.rebuild_replies.drain(..) {
            // A caller that has gone away doesn't change what was done.
            let _ = reply.send(result.clone());
        }
    }

    fn transact(
        &mut self,
        commands: &mut impl ExactSizeIterator<Item = Command>,
        batch: &mut Batch,
    ) -> Result<Finished, KvError> {
        let is_step_only = commands.len() == 0 && self.memory.rebuild.is_some();
        let slot = self.shared.slot.get();
        let Ok(engine) = slot.engine() else { return Err(KvError::Other("the engine isn't open".into())) };
        let mut tx = engine.write()?;
        tx.put(META, FORMAT, &FORMAT_VERSION.to_be_bytes())?;
        let mut log = LogTx::begin(&mut *tx, &self.shared.projections, &mut self.memory, self.stale)?;
        for command in commands {
            carry_out(command, &mut log, batch)?;
        }
        log.go_on_rebuilding(REBUILD_RECORDS)?;
        let finished = log.finish()?;
        // Nobody waits for a step of a rebuild but for the last, and a restart begins it again.
        self.unflushed_steps += u32::from(is_step_only);
        let may_wait = is_step_only && finished.rebuilt.is_none() && self.unflushed_steps < REBUILD_STEPS_PER_FLUSH;
        match may_wait {
            true => tx.commit(Durability::Buffered)?,
            false => {
                tx.commit(Durability::Durable)?;
                self.unflushed_steps = 0;
            }
        }
        Ok(finished)
    }

    /// Whether the next transaction may be tried.
    fn make_ready(&mut self) -> Result<(), RecordsError> {
        if let Err(reason) = self.space.check() {
            self.shared.set_health(Health::ReadOnly { reason });
            return Err(RecordsError::StorageFull);
        }
        match self.shared.slot.is_open() {
            true => Ok(()),
            false => self.reopen(),
        }
    }

    /// After a failed transaction.
    fn recover(&mut self, error: &KvError) {
        tracing::error!(%error, "a transaction failed: opening the store again");
        self.shared.set_health(Health::ReadOnly { reason: error.to_string() });
        // What waited may have been taken out for the transaction that failed; the next sync brings it.
        self.memory = Memory::default();
        // An error has been logged, and the next write tries again.
        let _ = self.reopen();
    }

    fn reopen(&mut self) -> Result<(), RecordsError> {
        self.shared.slot.reopen(|| self.space.open()).inspect_err(|error| {
            tracing::error!(%error, "the record store can't be opened again");
            self.shared.set_health(Health::ReadOnly { reason: error.to_string() });
        })
    }

    fn announce(&self, activated: Vec<VerifiedRecord>, local: &[RecordId]) {
        for record in activated {
            let local = local.contains(&record.id());
            // Nobody may be listening.
            let _ = self.shared.events.send(Committed { record, local });
        }
    }
}

impl Command {
    /// The answer of a command that wasn't carried out.
    fn give_up(self) -> Option<Answer> {
        let closed = RecordsError::Closed;
        Some(match self {
            Self::Append(_, reply) => answer(reply, Err(closed)),
            Self::Publish(_, reply) => answer(reply, Err(closed)),
            Self::Private(_, _, reply) | Self::OutboxSent(_, reply) => answer(reply, Err(closed)),
            Self::Rebuild(reply) => answer(reply, Err(closed)),
            Self::Forget(_, reply) => answer(reply, Err(closed)),
            Self::Quarantine(_, reply) => answer(reply?, Err(closed)),
            Self::Close(_) => return None,
        })
    }
}

fn carry_out(command: Command, log: &mut LogTx<'_>, batch: &mut Batch) -> Result<(), KvError> {
    match command {
        Command::Append(records, reply) => {
            let outcomes = records.iter().map(|record| log.append(record)).collect();
            batch.settle(reply, Result::map(outcomes, Ok))
        }
        Command::Publish(publication, reply) => {
            let published = publish(*publication, log);
            if let Ok(Ok(record)) = &published {
                batch.local.push(record.id());
            }
            batch.settle(reply, published)
        }
        Command::Private(table, changes, reply) => {
            let done = change(log.raw(), &table, &changes);
            batch.settle(reply, done.map(Ok))
        }
        Command::OutboxSent(numbers, reply) => {
            let mut numbers = numbers.iter();
            let done = numbers.try_for_each(|number| log.raw().delete(OUTBOX, &number.to_be_bytes()));
            batch.settle(reply, done.map(Ok))
        }
        Command::Rebuild(reply) => {
            batch.rebuild.push(reply);
            log.begin_rebuild()
        }
        Command::Forget(logs, reply) => {
            let forgotten = log.forget(&logs, FORGOTTEN_RECORDS);
            batch.settle(reply, forgotten.map(Ok))
        }
        Command::Quarantine(keys, reply) => {
            let done = keys.iter().try_for_each(|key| quarantine(log, key));
            match reply {
                Some(reply) => batch.settle(reply, done.map(Ok)),
                None => done,
            }
        }
        Command::Close(_) => Ok(()),
    }
}

fn publish(publication: Publication, log: &mut LogTx<'_>) -> Result<Result<VerifiedRecord, RecordsError>, KvError> {
    let Publication { key, network, kind, body, now } = publication;
    let id = LogId { network, author: key.author() };
    if log.is_incomplete(id)? {
        return Ok(Err(RecordsError::LogIncomplete(id.author)));
    }
    let head = log.head(id)?;
    let (epoch, seq) = head.map_or((0, 0), |head| (head.epoch, head.seq.saturating_add(1)));
    let draft = Draft { network, epoch, seq, prev: head.map(|head| head.id), at: now, kind, body };
    let record = match draft.sign(&key) {
        Ok(record) => record,
        Err(error) => return Ok(Err(error.into())),
    };
    if let Err(error) = log.may_write(&record)? {
        return Ok(Err(error));
    }
    match log.append(&record)? {
        Outcome::Appended => {
            log.send(record.id())?;
            Ok(Ok(record))
        }
        outcome => Err(KvError::Other(format!("the next record of our own log was {outcome:?}"))),
    }
}

fn change(tx: &mut dyn WriteTx, table: &str, changes: &[Change]) -> Result<(), KvError> {
    changes.iter().try_for_each(|(key, value)| match value {
        Some(value) => tx.put(table, key, value),
        None => tx.delete(table, key),
    })
}

/// Looks again before it believes the reader: the record may have come back in the meantime.
fn quarantine(log: &mut LogTx<'_>, key: &LogKey) -> Result<(), KvError> {
    let found = log.raw().get(LOG, &key.encode())?;
    let is_expected = log::locate(log.raw(), key.id)?.is_some_and(|(place, _)| place == *key);
    match found {
        Some(bytes) if log::verified(key, &bytes).is_some() => Ok(()),
        None if !is_expected => Ok(()),
        found => log.quarantine(key, &found.unwrap_or_default()),
    }
}
