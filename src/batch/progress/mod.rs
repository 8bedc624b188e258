//! A progress bar on a terminal, plain lines elsewhere.

mod gates;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::gates::Gates;
use super::handle::BatchHandle;
use super::summary::{BatchSummary, Seconds, grouped, significant};
use crate::events::{EventReceiver, Events};
use crate::usd::Usd;

/// The interval at which a bar is redrawn.
const FRAME: Duration = Duration::from_millis(100);

/// The interval at which the plain display checks whether a line is due.
const LOOK: Duration = Duration::from_secs(1);

/// A plain line is written after every tenth of the items, and at least this often.
const LINE: Duration = Duration::from_secs(10);

/// Shows the progress of a batch: items done and failed, tokens, rate, the gate's state, time left.
///
/// On a terminal it is a bar on standard error. Elsewhere it is plain lines: one after every tenth of the items, at
/// least one in ten seconds, and one at the end. The total follows the source's size hint; for a source of unknown
/// length there is a spinner and no time left.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{Events, LlmError, LlmRequest, LlmResponse, LlmStreamExt, Progress};
/// use tower::service_fn;
///
/// let events = Events::new(); // give it to the gate too, and the bar shows when it is closed
/// let echo = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("hi".to_owned())));
/// let mut results = stream::iter(["a", "b"]).with_strategy(echo).llm_batch(2).events(&events);
///
/// let progress = Progress::new(&results.handle()).events(&events).start();
/// while results.next().await.is_some() {}
/// drop(progress); // draws the final state
/// # }
/// ```
#[must_use = "call `start`"]
pub struct Progress {
    handle: BatchHandle,
    events: Option<EventReceiver>,
    lines: Option<Box<dyn Write + Send>>,
}

impl Progress {
    /// Creates a display for the batch of this handle.
    pub fn new(handle: &BatchHandle) -> Self {
        Self {
            handle: handle.clone(),
            events: None,
            lines: None,
        }
    }

    /// Shows the state of the gates that send their events here.
    pub fn events(mut self, events: &Events) -> Self {
        self.events = Some(events.subscribe());
        self
    }

    /// Writes plain lines to `writer`, whether or not standard error is a terminal.
    pub fn lines_to(mut self, writer: impl Write + Send + 'static) -> Self {
        self.lines = Some(Box::new(writer));
        self
    }

    /// Starts the display. It ends with the batch, or when the returned value is dropped; in both cases the final state is
    /// shown once and is exact.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> RunningProgress {
        let display = match self.lines {
            Some(writer) => Display::lines(writer),
            None if std::io::stderr().is_terminal() => Display::Bar(bar()),
            None => Display::lines(Box::new(std::io::stderr())),
        };
        let period = match display {
            Display::Bar(_) => FRAME,
            Display::Lines { .. } => LOOK,
        };
        let view = Arc::new(View {
            handle: self.handle,
            display: Mutex::new(Some(display)),
        });
        let ticks = run(Arc::clone(&view), self.events, period);
        RunningProgress {
            view,
            task: tokio::spawn(ticks).abort_handle(),
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

/// A running progress display. Dropping it shows the current state and ends the display.
#[must_use = "dropping it ends the display"]
pub struct RunningProgress {
    view: Arc<View>,
    task: AbortHandle,
}

impl RunningProgress {
    /// Hides the bar while `f` runs, so that the output of `f` on the terminal does not garble it. With plain lines it only
    /// runs `f`.
    pub fn suspend<R>(&self, f: impl FnOnce() -> R) -> R {
        let bar = match &*self.view.display.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Display::Bar(bar)) => Some(bar.clone()),
            Some(Display::Lines { .. }) | None => None,
        };
        match bar {
            Some(bar) => bar.suspend(f),
            None => f(),
        }
    }
}

impl Drop for RunningProgress {
    fn drop(&mut self) {
        self.task.abort();
        self.view.end();
    }
}

impl fmt::Debug for RunningProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningProgress")
            .field("handle", &self.view.handle)
            .finish_non_exhaustive()
    }
}

async fn run(view: Arc<View>, mut events: Option<EventReceiver>, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut gates = Gates::default();
    loop {
        ticks.tick().await;
        gates.update(events.as_mut());
        let summary = view.handle.statistics();
        if summary.termination.is_some() && summary.in_flight == 0 {
            return view.end();
        }
        view.show(&summary, &gates);
    }
}

/// The content of the display, shared by the task that draws and by the drop that ends it.
struct View {
    handle: BatchHandle,
    // `None` after the final state was shown.
    display: Mutex<Option<Display>>,
}

impl View {
    fn show(&self, summary: &BatchSummary, gates: &Gates) {
        let mut display = self.display.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(display) = &mut *display {
            display.show(summary, gates);
        }
    }

    fn end(&self) {
        let display = self.display.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(display) = display {
            display.end(&self.handle.statistics());
        }
    }
}

enum Display {
    Bar(ProgressBar),
    Lines {
        writer: Box<dyn Write + Send>,
        last: Instant,
        tenths: u64,
    },
}

impl Display {
    fn lines(writer: Box<dyn Write + Send>) -> Self {
        Self::Lines {
            writer,
            last: Instant::now(),
            tenths: 0,
        }
    }

    fn show(&mut self, summary: &BatchSummary, gates: &Gates) {
        match self {
            Self::Bar(bar) => {
                draw(
                    bar,
                    summary,
                    format!("{}{}", count(summary), status(summary, gates)),
                );
            }
            Self::Lines { writer, last, tenths } => {
                let now_tenths = summary.expected.map_or(0, |total| {
                    (summary.finished() * 10).checked_div(total).unwrap_or(0)
                });
                if now_tenths > *tenths || last.elapsed() >= LINE {
                    *tenths = now_tenths;
                    *last = Instant::now();
                    write_line(writer, &format!("{}{}", count(summary), status(summary, gates)));
                }
            }
        }
    }

    fn end(self, summary: &BatchSummary) {
        let mut text = status(summary, &Gates::default());
        text.push_str(&format!(", took {}", Seconds(summary.elapsed)));
        match self {
            Self::Bar(bar) => {
                draw(&bar, summary, format!("{}{text}", count(summary)));
                bar.abandon();
                // The bar leaves the cursor at its end.
                write_line(&mut std::io::stderr(), "");
            }
            Self::Lines { mut writer, .. } => write_line(&mut writer, &format!("{}{text}", count(summary))),
        }
    }
}

/// A closed standard error does not stop the batch.
fn write_line(writer: &mut impl Write, line: &str) {
    let _ = writeln!(writer, "{line}");
    let _ = writer.flush();
}

fn bar() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
}

fn draw(bar: &ProgressBar, summary: &BatchSummary, text: String) {
    // Queried each time, as a terminal can be resized.
    let columns = console::Term::stderr()
        .size_checked()
        .map_or(80, |(_, columns)| columns);
    if let Ok(style) = ProgressStyle::with_template(template(columns, summary.expected.is_some())) {
        bar.set_style(style);
    }
    match summary.expected {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_position(summary.finished());
    bar.set_message(text);
}

/// The template for a terminal of this width: the text takes precedence over the bar, and is truncated if it does not fit.
const fn template(columns: u16, knows_total: bool) -> &'static str {
    match (knows_total, columns) {
        (_, ..60) => "{wide_msg}",
        (true, 60..100) => "{bar:12} {wide_msg}",
        (true, 100..) => "{bar:24} {wide_msg}",
        (false, 60..) => "{spinner} {wide_msg}",
    }
}

/// `12/200 items (6 %)`.
fn count(summary: &BatchSummary) -> String {
    let done = summary.finished();
    match summary.expected {
        Some(total) => {
            let percent = (done * 100).checked_div(total).unwrap_or(100);
            format!("{}/{} items ({percent} %)", grouped(done), grouped(total))
        }
        None => format!("{} items", grouped(done)),
    }
}

/// Returns the text behind the count.
fn status(summary: &BatchSummary, gates: &Gates) -> String {
    let mut text = format!(", {} failed", grouped(summary.failed));
    // Shown only if the usage of a call is known.
    if summary.unknown_usage_calls < summary.calls {
        text.push_str(&format!(", {} tokens", grouped(summary.usage.total())));
    }
    if summary.cost > Usd::ZERO {
        // Some calls may have cost more.
        let known = if summary.unknown_cost_calls > 0 {
            "at least "
        } else {
            ""
        };
        text.push_str(&format!(", {known}{}", summary.cost));
    }
    if summary.throttled_calls > 0 {
        text.push_str(&format!(", {} throttled", grouped(summary.throttled_calls)));
    }
    if summary.items_per_second > 0.0 {
        text.push_str(&format!(", {}/s", significant(summary.items_per_second)));
    }
    text.push_str(&gates.text());
    if let Some(cause) = summary.termination {
        if summary.in_flight > 0 || cause != super::Termination::Completed {
            text.push_str(&format!(", {cause}"));
        }
    } else if let Some(left) = time_left(summary) {
        text.push_str(&format!(", {} left", Seconds(left)));
    }
    text
}

/// The time left at the rate up to now.
fn time_left(summary: &BatchSummary) -> Option<Duration> {
    let left = summary.expected?.saturating_sub(summary.finished());
    if left == 0 || summary.items_per_second <= 0.0 {
        return None;
    }
    Duration::try_from_secs_f64((left as f64 / summary.items_per_second).ceil()).ok()
}

#[cfg(test)]
mod tests {
    use super::template;

    #[test]
    fn a_narrow_terminal_shows_the_text_and_a_wide_one_a_bar() {
        for columns in [1, 30, 59] {
            assert_eq!(template(columns, true), "{wide_msg}");
            assert_eq!(template(columns, false), "{wide_msg}");
        }
        assert!(template(60, true).starts_with("{bar:12}"));
        assert!(template(200, true).starts_with("{bar:24}"));
        assert!(template(200, false).starts_with("{spinner}"));
    }
}
