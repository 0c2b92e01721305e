//! Proof of equality: digests of ranges of a stream, for another node to
//! compare with its own.
//!
//! ```text
//!   admin ---- Question ----> prover (a thread, one question at a time)
//!                               |  catalog: which run holds the position
//!                               |  ground:  which file holds the run
//!                               |  walker:  where records begin, the chain
//!         <--- Answer ----------+  reading: bytes -> digests
//! ```
//!
//! Two nodes that hold the same stream in differently cut files give the same
//! digests, because what is digested is the stream. Whoever compares asks for
//! large parts first and then for smaller ones of those that differ, so what
//! agrees is read once and no payload travels.
//!
//! The prover reads with the scrubber's kind of reads, on a thread of its own,
//! in constant memory, a bounded time per question. It touches no file and no
//! data core knows of it. It answers for both roles and while bytes are
//! written: whoever asks keeps to positions that are durable.

pub mod chart;
mod ground;
pub mod question;
mod reading;
mod walker;

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;

use self::chart::{Chart, ChartAsk};
use self::ground::Ground;
use self::question::{Answer, Question};
use self::reading::Reading;
use super::keeper::Places;
use crate::ids::SpaceId;
use crate::io::bulk::{self, Reads};
use crate::limits::{MAX_PROOF_QUESTIONS, PROOF_TIME};
use crate::lsn::Lsn;
use crate::state::catalog::{Catalog, CatalogError};
use crate::state::pins::Pins;
use crate::wal::record::Checksums;

/// Why a question has no answer. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// This node has no such space.
    #[error("this node has no space {space}")]
    Unknown {
        /// The space.
        space: SpaceId,
    },
    /// Others are being answered. Ask again in a moment.
    #[error("{MAX_PROOF_QUESTIONS} other questions wait for their answers: ask again")]
    Busy,
    /// Not even the first part could be read in time. Ask again, for smaller
    /// parts if it stays so.
    #[error(
        "not one part of {part_bytes} bytes of space {space} was read within {PROOF_TIME:?}, \
         from lsn {lsn} on"
    )]
    Late {
        /// The space.
        space: SpaceId,
        /// Where the part begins.
        lsn: Lsn,
        /// How large it is.
        part_bytes: u64,
    },
    /// The catalog does not say where the stream lies.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A segment is there and cannot be read.
    #[error("cannot read the stream: {source}")]
    Read {
        /// What the system said; names the file.
        #[from]
        source: io::Error,
    },
    /// The thread that answers is gone; the log says why. Restart the node.
    #[error("the thread that compares has ended; the log says why")]
    Ended,
}

/// A question, and who waits for its answer.
enum Asked {
    Range { question: Question, at: Instant, reply: Reply<Answer> },
    Chart { ask: ChartAsk, reply: Reply<Chart> },
}

type Reply<T> = oneshot::Sender<Result<T, ProofError>>;

/// What the prover reads from.
struct Sources {
    places: Places,
    pins: Pins,
    catalog: Arc<Catalog>,
    checksums: Checksums,
}

/// Answers questions, until it is dropped.
#[derive(Debug)]
pub struct Prover {
    questions: Option<mpsc::Sender<Asked>>,
    thread: Option<JoinHandle<()>>,
}

impl Prover {
    /// Answer on a thread of its own.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(
        places: Places,
        pins: Pins,
        catalog: Arc<Catalog>,
        checksums: Checksums,
    ) -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<Asked>(MAX_PROOF_QUESTIONS);
        let sources = Sources { places, pins, catalog, checksums };
        let thread = Builder::new().name("saltus-proof".to_owned()).spawn(move || {
            let ended = bulk::run(|reads| async move {
                while let Some(asked) = asked.recv().await {
                    // Whoever asked may have gone.
                    match asked {
                        Asked::Range { question, at, reply } => {
                            let wanted = || !reply.is_closed();
                            let answer = sources.answer(&question, reads, at, &wanted).await;
                            let _ = reply.send(answer);
                        }
                        Asked::Chart { ask, reply } => {
                            let _ = reply.send(sources.chart(&ask));
                        }
                    }
                }
            });
            if let Err(error) = ended {
                tracing::error!(%error, "nothing can be compared: no runtime");
            }
        })?;
        Ok(Self { questions: Some(questions), thread: Some(thread) })
    }

    /// Ask. Dropping the future gives the answer up.
    ///
    /// # Errors
    ///
    /// See [`ProofError`].
    pub async fn ask(&self, question: Question) -> Result<Answer, ProofError> {
        let (reply, answer) = oneshot::channel();
        self.put(Asked::Range { question, at: Instant::now(), reply })?;
        answer.await.map_err(|_| ProofError::Ended)?
    }

    /// Where a stream lies. Dropping the future gives the answer up.
    ///
    /// # Errors
    ///
    /// See [`ProofError`].
    pub async fn chart(&self, ask: ChartAsk) -> Result<Chart, ProofError> {
        let (reply, answer) = oneshot::channel();
        self.put(Asked::Chart { ask, reply })?;
        answer.await.map_err(|_| ProofError::Ended)?
    }

    fn put(&self, asked: Asked) -> Result<(), ProofError> {
        let questions = self.questions.as_ref().ok_or(ProofError::Ended)?;
        questions.try_send(asked).map_err(|error| match error {
            TrySendError::Full(_) => ProofError::Busy,
            TrySendError::Closed(_) => ProofError::Ended,
        })
    }
}

impl Drop for Prover {
    fn drop(&mut self) {
        // Without questions to come the thread ends, at the latest when the
        // time for the present one is up.
        self.questions = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that compares has panicked");
        }
    }
}

impl Sources {
    fn chart(&self, ask: &ChartAsk) -> Result<Chart, ProofError> {
        let record = self.catalog.space(&ask.space)?;
        let record = record.ok_or_else(|| ProofError::Unknown { space: ask.space.clone() })?;
        Ok(Chart::of(&record, ask.first))
    }

    async fn answer(
        &self,
        question: &Question,
        reads: Reads,
        asked: Instant,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Answer, ProofError> {
        let deadline = asked + PROOF_TIME;
        if Instant::now() >= deadline {
            return Err(ProofError::Busy);
        }
        let space = &question.space;
        let record = self
            .catalog
            .space(space)?
            .ok_or_else(|| ProofError::Unknown { space: space.clone() })?;
        let (places, pins) = (self.places.clone(), self.pins.clone());
        let ground = Ground::new(places, pins, space.clone(), record, reads);
        Reading::new(question, ground, self.checksums, deadline, wanted).answer().await
    }
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
