//! What `saltus rebuild` asks the other node.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::admin::{Client, ClientError};
use crate::engine::proof::chart::{Chart, ChartAsk};
use crate::engine::proof::question::{Answer, Of, Question};
use crate::engine::rebuild::Other;
use crate::ids::SpaceId;
use crate::limits::{MAX_PROOF_PARTS, MIN_PROOF_PART_BYTES};
use crate::lsn::{Chain, Lsn, Mark};

/// For how long a node that is busy is asked again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two attempts.
const ASK_AGAIN_DELAY: Duration = Duration::from_millis(200);

/// The whole chart of a space.
pub(super) fn chart(client: &Client, space: &SpaceId) -> anyhow::Result<Chart> {
    let mut ask = ChartAsk { space: space.clone(), first: 0 };
    let mut chart = patiently(|| client.chart(&ask))?;
    let unusable = || format!("the chart of {space} cannot be used");
    while chart.missing().with_context(unusable)? > 0 {
        ask.first = u32::try_from(chart.runs.len()).unwrap_or(u32::MAX);
        let next = patiently(|| client.chart(&ask))?;
        chart.extend(next).with_context(unusable)?;
    }
    Ok(chart)
}

/// Ask again while the node is busy.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(ClientError::Busy { .. } | ClientError::TimedOut { .. })
                if Instant::now() < deadline =>
            {
                thread::sleep(ASK_AGAIN_DELAY);
            }
            other => return other,
        }
    }
}

/// The other node, for one space.
pub(super) struct Asked<'a> {
    pub(super) client: &'a Client,
    pub(super) space: &'a SpaceId,
    /// The stream of the chart.
    pub(super) stream: &'a str,
    /// Boundaries that the other node knows, ascending.
    pub(super) marks: Vec<Mark>,
}

impl Asked<'_> {
    fn ask(&self, from: Lsn, chain: Chain, to: Lsn) -> Result<Answer, String> {
        let parts = MAX_PROOF_PARTS as u64;
        let part = to.bytes_since(from).div_ceil(parts).max(MIN_PROOF_PART_BYTES);
        let question = Question {
            space: self.space.clone(),
            of: Of::Headers,
            from: from.0,
            to: to.0,
            part,
            record: Some(from.0),
            chain: Some(chain.0),
        };
        let answer = patiently(|| self.client.ask(&question)).map_err(|error| error.to_string())?;
        if answer.stream != self.stream {
            return Err(format!("it has another stream by now, {}", answer.stream));
        }
        Ok(answer)
    }
}

impl Other for Asked<'_> {
    /// Walks the other node's headers there from the last boundary that it
    /// knows, in as many questions as that takes.
    fn chain_at(&mut self, lsn: Lsn) -> Result<Option<Chain>, String> {
        let known = self.marks.iter().rev().find(|mark| mark.lsn <= lsn);
        let (mut at, mut chain) = known.map_or((Lsn::ZERO, Chain::START), |m| (m.lsn, m.chain));
        while at < lsn {
            let answer = self.ask(at, chain, lsn)?;
            let gone = || match answer.absent.first() {
                Some(absent) => format!("it has nothing at lsn {}: {}", absent.from, absent.why),
                None => format!("it does not know the chain behind {at}"),
            };
            let Some(boundary) = &answer.boundary else { return Err(gone()) };
            let ends = answer.to >= lsn.0;
            if ends && boundary.lsn != lsn.0 {
                return Ok(None);
            }
            let bits = boundary.chain.as_deref().ok_or_else(gone)?;
            chain = u64::from_str_radix(bits, 16)
                .map(Chain)
                .map_err(|_| format!("it says that the chain is {bits:?}"))?;
            if !ends && boundary.lsn <= at.0 {
                return Err(gone());
            }
            at = Lsn(boundary.lsn);
        }
        Ok(Some(chain))
    }
}
