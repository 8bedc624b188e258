//! A pace policy of the user's own. It is code of others: called under no lock, so that it may use the gate.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::{Gate, lock};
use crate::layer::rate_limiter::pace::{EndedCall, Pace, Pacing, StartedCall};

/// The policy, and the notes that it has not received yet. Only the caller that found it free asks it; the others, and calls that the
/// policy itself makes, leave their questions to that one.
pub(super) struct Policy {
    inbox: Mutex<Inbox>,
}

struct Inbox {
    /// `None` while it is asked.
    pace: Option<Box<dyn Pace>>,
    questions: VecDeque<Question>,
    /// The last answer of the policy.
    pacing: Pacing,
}

pub(super) enum Question {
    /// A call has started; `true`: the others wait for the answer.
    Start(StartedCall, bool),
    End(StartedCall, EndedCall),
    /// As [`End`](Self::End), of a call that closed the gate: the generation that begins with the pause.
    Close(StartedCall, EndedCall, u64),
}

impl Question {
    fn ask(&self, pace: &mut dyn Pace) -> Pacing {
        match self {
            Self::Start(call, _) => pace.on_start(call),
            Self::End(call, end) | Self::Close(call, end, _) => pace.on_end(call, end),
        }
    }
}

impl Policy {
    pub(super) fn new(pace: Box<dyn Pace>, pacing: Pacing) -> Self {
        Self {
            inbox: Mutex::new(Inbox {
                pace: Some(pace),
                questions: VecDeque::new(),
                pacing,
            }),
        }
    }

    /// Adds a question. Returns the policy, if it is free.
    fn add(&self, question: Question) -> Option<Box<dyn Pace>> {
        let mut inbox = lock(&self.inbox);
        inbox.questions.push_back(question);
        inbox.pace.take()
    }

    /// The next question and the last answer; or takes the policy back if there is none.
    fn next(&self, pace: &mut Option<Box<dyn Pace>>) -> Option<(Question, Pacing)> {
        let mut inbox = lock(&self.inbox);
        match inbox.questions.pop_front() {
            Some(question) => Some((question, inbox.pacing)),
            None => {
                inbox.pace = pace.take();
                None
            }
        }
    }
}

impl Gate {
    /// Asks the policy, if it is the user's, and passes its answers on. Returns until when the gate is closed if the question
    /// was about that and was answered here.
    ///
    /// # Panics
    /// As the policy does, once every question is answered; a panic counts as the answer before.
    pub(super) fn consult(self: &Arc<Self>, question: impl FnOnce() -> Question) -> Option<Instant> {
        let policy = self.policy.as_ref()?;
        let mut pace = Some(policy.add(question())?);
        let mut panicked: Option<Box<dyn Any + Send>> = None;
        let mut closed_until = None;
        while let Some((question, last)) = policy.next(&mut pace) {
            let Some(pace) = pace.as_mut() else { break };
            let pacing =
                catch_unwind(AssertUnwindSafe(|| question.ask(&mut **pace))).unwrap_or_else(|panic| {
                    panicked.get_or_insert(panic);
                    last
                });
            lock(&policy.inbox).pacing = pacing;
            if let Question::Close(_, _, generation) = question {
                closed_until =
                    self.with(|state, now, effects| state.finish_closing(generation, pacing, now, effects));
            } else {
                // The others may wait for the answer about the first call after a pause.
                let first = match &question {
                    Question::Start(call, true) => Some(call.generation),
                    _ => None,
                };
                if pacing != last || first.is_some() {
                    self.with(|state, now, effects| state.set_pacing(pacing, first, now, effects));
                }
            }
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        closed_until
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").finish_non_exhaustive()
    }
}
