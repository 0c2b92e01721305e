//! Whom the scrubber asks: where a stream stands, for its files, and for bytes
//! of it from the other end.
//!
//! ```text
//!   scrubber --- Standing, Fetch, Yield ---> shards --- Fetch ---> the peer
//!        `------ Standing, OpenRun, Adopt -> keeper
//! ```
//!
//! Every answer is awaited by looking, not by blocking: the scrubber's thread
//! belongs to a runtime, and a stop must not wait for a peer.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use super::{Pass, Stopped};
use crate::engine::keeper::{AtRest, Built, Ground, Job, Kept, Offer, Received};
use crate::engine::shard::{Command, Standing};
use crate::ids::{NodeId, SpaceId};
use crate::io::Waker;
use crate::limits::{FETCH_PATIENCE, FETCH_TIMEOUT};
use crate::lsn::{Lsn, Mark};
use crate::protocol::message::Fetch;
use crate::state::catalog::Role;
use crate::state::host::Host;
use crate::state::runs::Run;

/// How long a shard or the keeper may take to say where a stream stands.
const STANDING_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two looks for an answer.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// The pause before somebody is asked again who was not there.
const ASK_AGAIN_DELAY: Duration = Duration::from_millis(50);

/// How many bytes are free on the file system of a directory.
pub type FreeBytes = fn(&Path) -> io::Result<u64>;

/// What the scrubber needs in order to mend.
#[derive(Clone, Debug)]
pub struct Mender {
    /// The shards, and how they are woken.
    pub shards: Vec<(Sender<Command>, Waker)>,
    /// The keeper.
    pub keeper: Sender<Job>,
    /// Where received spaces are known to be damaged.
    pub received: Received,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The host it is on.
    pub host: Arc<dyn Host>,
    /// How much room there is left.
    pub free_bytes: FreeBytes,
}

/// What is known of a space.
pub(super) enum Stand {
    /// Where it stands, what may be built on that, and boundaries on the way.
    Known(Box<Standing>, Ground, BTreeMap<Lsn, Mark>),
    /// It is in no catalog.
    Unknown,
    /// Nobody answers who could know.
    Silent,
}

impl Pass {
    /// Wait for an answer; nothing if who was asked has none, or is late.
    async fn answer<T>(
        &mut self,
        answers: &Receiver<T>,
        patience: Duration,
    ) -> Result<Option<T>, Stopped> {
        let deadline = self.timer.now() + patience;
        loop {
            match answers.try_recv() {
                Ok(answer) => return Ok(Some(answer)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) if self.timer.now() >= deadline => return Ok(None),
                Err(TryRecvError::Empty) => self.sleep(LOOK_INTERVAL).await?,
            }
        }
    }

    /// Ask one shard after the other until one has an answer.
    async fn ask_shards<T>(
        &mut self,
        patience: Duration,
        command: impl Fn(Sender<T>) -> Command,
    ) -> Result<Option<T>, Stopped> {
        let shards = self.mender.as_ref().map_or_else(Vec::new, |mender| mender.shards.clone());
        for (commands, waker) in shards {
            let (reply, answers) = bounded(1);
            // A shard that is overloaded, or gone, has no answer.
            if commands.try_send(command(reply)).is_ok() {
                waker.wake();
                if let Some(answer) = self.answer(&answers, patience).await? {
                    return Ok(Some(answer));
                }
            }
        }
        Ok(None)
    }

    async fn ask_keeper<T>(
        &mut self,
        patience: Duration,
        job: impl FnOnce(Sender<T>) -> Job,
    ) -> Result<Option<T>, Stopped> {
        let deadline = self.timer.now() + patience;
        let (reply, answers) = bounded(1);
        if !self.tell_keeper(deadline, job(reply)).await? {
            return Ok(None);
        }
        let left = deadline.saturating_duration_since(self.timer.now());
        self.answer(&answers, left).await
    }

    /// Queue a job for the keeper. Where there is no room for it, the keeper is
    /// busy, and it is waited for. False if it is gone, or busy for that long.
    async fn tell_keeper(&mut self, deadline: Instant, mut job: Job) -> Result<bool, Stopped> {
        let Some(keeper) = self.mender.as_ref().map(|mender| mender.keeper.clone()) else {
            return Ok(false);
        };
        loop {
            match keeper.try_send(job) {
                Ok(()) => return Ok(true),
                Err(TrySendError::Full(back)) if self.timer.now() < deadline => job = back,
                Err(_) => return Ok(false),
            }
            self.sleep(LOOK_INTERVAL).await?;
        }
    }

    /// Where a space stands, and what may be built on that.
    pub(super) async fn standing(&mut self, space: &SpaceId) -> Result<Stand, Stopped> {
        if self.mender.is_none() {
            return Ok(Stand::Unknown);
        }
        let deadline = self.timer.now() + STANDING_TIMEOUT;
        let (kept, live) = loop {
            // The keeper first: a cut that comes between the two answers is seen
            // then, when something is built on them.
            let kept = self.kept(space).await?;
            let ask = |reply| Command::Standing(space.clone(), reply);
            let live = self.ask_shards(STANDING_TIMEOUT, ask).await?;
            // A session that nobody has is about to begin, or has ended between
            // the two answers: then the keeper is about to hear how far it got.
            // Its checkpoint would leave the rest unread.
            let is_lent = matches!(&kept, Some(Some(kept)) if kept.is_lent);
            if !is_lent || live.is_some() {
                break (kept, live);
            }
            if self.timer.now() >= deadline {
                return Ok(Stand::Silent);
            }
            self.sleep(ASK_AGAIN_DELAY).await?;
        };
        Ok(match (kept, live) {
            (Some(None), _) => Stand::Unknown,
            (Some(Some(Kept { standing, history, recoveries, boundaries, .. })), live) => {
                let standing = live.unwrap_or(standing);
                let ground = Ground { history, mark: standing.mark, recoveries };
                Stand::Known(Box::new(standing), ground, boundaries)
            }
            // Nothing is put in the place of a primary's files.
            (None, Some(live)) if live.role == Role::Primary => {
                let ground = Ground { history: Vec::new(), mark: live.mark, recoveries: 0 };
                Stand::Known(Box::new(live), ground, BTreeMap::new())
            }
            (None, _) => Stand::Silent,
        })
    }

    /// What the keeper knows of a space, and that may be nothing; or it does not
    /// answer.
    pub(super) async fn kept(&mut self, space: &SpaceId) -> Result<Option<Option<Kept>>, Stopped> {
        let space = space.clone();
        self.ask_keeper(STANDING_TIMEOUT, |reply| Job::Standing { space, reply }).await
    }

    /// The file that holds a run.
    pub(super) async fn at_rest(
        &mut self,
        space: &SpaceId,
        run: Run,
    ) -> Result<Option<AtRest>, Stopped> {
        let space = space.clone();
        self.ask_keeper(STANDING_TIMEOUT, |reply| Job::OpenAtRest { space, run, reply }).await
    }

    /// Bytes of a stream from the other end. Nothing if nobody is there who
    /// could be asked, or who was asked has them no more.
    pub(super) async fn fetch(
        &mut self,
        space: &SpaceId,
        from: Option<&NodeId>,
        fetch: Fetch,
    ) -> Result<Option<Vec<u8>>, Stopped> {
        let deadline = self.timer.now() + FETCH_PATIENCE;
        loop {
            let ask = |reply| Command::Fetch(space.clone(), from.cloned(), fetch, reply);
            if let Some(bytes) = self.ask_shards(FETCH_TIMEOUT, ask).await? {
                return Ok(Some(bytes));
            }
            if self.timer.now() >= deadline {
                return Ok(None);
            }
            // A connection that was lost comes back.
            self.sleep(ASK_AGAIN_DELAY).await?;
        }
    }

    /// Put files that were built in the place of damaged ones, as soon as nobody
    /// writes to them. The answer is where the old ones are. When this returns,
    /// the files are in their place, or gone.
    pub(super) async fn adopt(
        &mut self,
        space: &SpaceId,
        ground: Ground,
        built: Vec<Built>,
    ) -> Result<Result<Vec<PathBuf>, String>, Stopped> {
        let offer = Offer::new(ground, built);
        let (reply, answers) = bounded(1);
        let job = Job::Adopt { space: space.clone(), offer: offer.clone(), reply };
        let deadline = self.timer.now() + STANDING_TIMEOUT;
        if !self.tell_keeper(deadline, job).await? {
            return Ok(Err("the keeper is overloaded or gone".into()));
        }
        let outcome = self.await_adoption(space, &offer, &answers).await;
        // A stop, above all.
        drop(offer.take());
        outcome
    }

    async fn await_adoption(
        &mut self,
        space: &SpaceId,
        offer: &Offer,
        answers: &Receiver<Result<Vec<PathBuf>, String>>,
    ) -> Result<Result<Vec<PathBuf>, String>, Stopped> {
        let deadline = self.timer.now() + FETCH_TIMEOUT;
        loop {
            // Whoever receives it now must let go of it first.
            for (commands, waker) in
                self.mender.as_ref().map_or_else(Vec::new, |mender| mender.shards.clone())
            {
                if !offer.is_taken() && commands.try_send(Command::Yield(space.clone())).is_ok() {
                    waker.wake();
                }
            }
            let begun = self.timer.now();
            loop {
                match answers.try_recv() {
                    Ok(outcome) => return Ok(outcome),
                    Err(TryRecvError::Disconnected) => {
                        return Ok(Err("the keeper has no answer".into()));
                    }
                    Err(TryRecvError::Empty) if self.timer.now() > begun + STANDING_TIMEOUT => {
                        break;
                    }
                    Err(TryRecvError::Empty) => self.sleep(LOOK_INTERVAL).await?,
                }
            }
            // Once the keeper has the files, it is waited for.
            if self.timer.now() >= deadline && offer.take().is_some() {
                return Ok(Err(format!(
                    "the session that receives the space did not end within {FETCH_TIMEOUT:?}"
                )));
            }
        }
    }
}
