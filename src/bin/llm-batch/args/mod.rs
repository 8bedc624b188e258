//! The command line's words.

mod header;
mod help;
mod simulate;
mod values;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};
use llm_batch::ReasoningEffort;
use llm_batch::layer::rate_limiter::Quota;

pub(crate) use self::header::Header;
use self::help::{EXAMPLES, RUN_EXAMPLES};
pub(crate) use self::simulate::SimulateArgs;
pub(crate) use self::values::{InputFormat, JsonObject, MaxFailures, Progress, StartRamp, Summary};
use self::values::{concurrency, duration, json_object, max_failures, quota, share, start_ramp, temperature};
use crate::input::NamedField;
use crate::output::{Include, OutputFormat, Settings};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

// Clap wraps longer lines at 100 columns, which would break examples.
/// Push very many prompts through an LLM provider, within its limits, with every token accounted for.
#[derive(Debug, Parser)]
#[command(name = "llm-batch", version, after_help = EXAMPLES, styles = STYLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send every prompt of the input and write the answers as they come.
    Run(Box<RunArgs>),
    /// Serve a simulated provider that throttles, stalls and fails as set, and keeps a ledger.
    Simulate(Box<SimulateArgs>),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// The model that answers: PROVIDER:MODEL. Providers: openai, openai-chat, openai-responses, anthropic, gemini,
    /// openai-compatible and azure (both need --base-url), openrouter, deepseek, groq, mistral, xai; on a
    /// machine of your own ollama, vllm, llamacpp, lmstudio; and sim:steady, sim:throttled, sim:chaos, which
    /// need nothing. May be given several times, for models of equal worth: each call goes to the one that can start it first.
    #[arg(short, long, value_name = "PROVIDER:MODEL", required = true)]
    pub(crate) model: Vec<String>,

    /// Print the first three requests, the number of items and their estimated tokens, without calling the provider.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) reporting: ReportingArgs,
}

impl RunArgs {
    /// The fields of the input that options name.
    pub(crate) fn named_fields(&self) -> Vec<NamedField> {
        let named = |option, field: &String| NamedField {
            option,
            field: field.clone(),
        };
        let keep = self.input.keep.iter().map(|field| named("--keep", field));
        let id = self.input.id_field.iter().map(|field| named("--id-field", field));
        let system = self.prompt.system_field.iter();
        let system = system.map(|field| named("--system-field", field));
        keep.chain(id).chain(system).collect()
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputArgs {
    /// Files and folders; `-` is standard input, which is also the default.
    #[arg(value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,

    /// The format of the input. `auto` goes by the name and the first line.
    #[arg(long, value_enum, default_value_t = InputFormat::Auto, value_name = "FORMAT")]
    pub(crate) format: InputFormat,

    /// The files of a folder to take, by name or by path inside the folder; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) glob: Vec<String>,

    /// The field that names an item. Default: `id`. An item without it gets an id from what it holds, which stays the same
    /// wherever the item stands; equal items are numbered: `-2`, `-3` and so on.
    #[arg(long, value_name = "FIELD")]
    pub(crate) id_field: Option<String>,

    /// Input fields to copy to the output.
    #[arg(long, value_name = "FIELD,...", value_delimiter = ',')]
    pub(crate) keep: Vec<String>,

    /// Take only the first N items of the input.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,

    /// Take N items at random, of those within --limit. They are in memory, and nothing is sent before the input was read.
    /// The same input gives the same sample, also with --resume, and ids decide, not positions.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) sample: Option<u64>,

    /// Take the items in a random order, which is the same each time. They wait in a temporary file, and nothing is
    /// sent before the input was read.
    #[arg(long)]
    pub(crate) shuffle: bool,

    /// Another number gives another --sample and another order of --shuffle.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(crate) sample_seed: u64,

    /// Check the whole input first, and call the provider only if every line is valid.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub(crate) struct PromptArgs {
    /// The prompt's template: `{{field}}` stands for a field of the input, `{{ row["any name"] }}` for one whose name is
    /// not one word. Single braces are ordinary text. A field that an item does not have fails that item unsent.
    /// Default: the field `prompt` (of a folder: `text`).
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "prompt_file")]
    pub(crate) prompt: Option<String>,

    /// The template, read from a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,

    /// The system prompt, for items that have none of their own.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,

    /// The field with an item's own system prompt, which outranks --system; where it is missing or empty, --system holds.
    /// Default: `system`, but with --prompt none.
    #[arg(long, value_name = "FIELD")]
    pub(crate) system_field: Option<String>,

    /// The sampling temperature.
    #[arg(long, value_name = "NUMBER", value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,

    /// Nucleus sampling: the share of the likeliest tokens that are sampled from.
    #[arg(long, value_name = "NUMBER", value_parser = share, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,

    /// The sampling seed.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,

    /// A text at which the model stops; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,

    /// The amount of reasoning before an answer: none, minimal, low, medium, high, xhigh, max, or a number of
    /// tokens. A setting that the provider does not support is an error before anything is sent.
    #[arg(long, value_name = "EFFORT")]
    pub(crate) reasoning_effort: Option<ReasoningEffort>,

    /// Tools that the model may call: a JSON array of OpenAI's form, or of objects with name, description, parameters
    /// and strict. The calls are in the field `tool_calls` of the output.
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,

    /// The most tokens that an answer may have, reasoning included.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_output_tokens: Option<u32>,

    /// A JSON Schema that the answers have to follow. It is sent along; an answer that does not follow it is asked for
    /// again, with what was wrong. Answers are written as JSON, not as text.
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,

    /// More fields for every request body, as a JSON object.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub(crate) extra: Option<JsonObject>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Provider")]
pub(crate) struct ProviderArgs {
    /// The address of the API, up to and with its version: http://localhost:8000/v1. Anthropic and Gemini may leave it out.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,

    /// The environment variable that holds the API key. May be given several times, for several accounts: each call goes to the one
    /// that can start it first. The options under Limits hold for each key and model, but for those of items and of the run.
    #[arg(long, value_name = "NAME")]
    pub(crate) api_key_env: Vec<String>,

    /// A header for every request; may be given several times. `NAME=env:VARIABLE` takes its value from an environment
    /// variable. It is never shown.
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<Header>,

    /// Have the answers streamed: a call that is stuck ends after 120 s without a sign of life, not at its --timeout,
    /// and rows have the time to the first token. The answers are the same.
    #[arg(long)]
    pub(crate) stream: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// The file for the answers. Default: standard output. A file that is not empty is refused.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// The form of the answers. Default: csv for an --output that ends so, text to read on a terminal, and else jsonl.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) output_format: Option<OutputFormat>,

    /// Write each answer to a file of its own under this folder, named after the item's id, and a row without the answer
    /// for every item to its `index.jsonl`. Characters that some file systems reject are written as %3A and the like.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["output", "output_format"])]
    pub(crate) output_dir: Option<PathBuf>,

    /// Further parts to write: `reasoning` and `raw` in rows of jsonl and csv and in the index of --output-dir, `id` in text.
    #[arg(long, value_enum, value_name = "PART,...", value_delimiter = ',')]
    pub(crate) include: Vec<Include>,

    /// An answer that is cut by the output token limit, or empty, is a failure. With --resume such answers of an earlier run are
    /// requested again; the earlier ones are kept in FILE.bad, and in --output-dir as files too (NAME~old once a new one is there).
    #[arg(long)]
    pub(crate) require_complete: bool,

    /// Write the answers in the order of the input, not as they finish; --output-format text always does. With --resume, those
    /// that are kept come first. A finished answer waits for those before it, in memory: up to four times --concurrency,
    /// then no new item begins before the oldest one is done. A kill loses those that wait, and so does a power failure;
    /// Ctrl-C loses none.
    #[arg(long)]
    pub(crate) in_order: bool,

    /// Begin the output anew. The answers in it are kept as FILE.old, which is removed once every item has a new answer and stays
    /// if one failed or the run ended early.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,

    /// Keep the answers in the output, and run what is missing or failed.
    #[arg(long)]
    pub(crate) resume: bool,
}

impl OutputArgs {
    /// The format of the rows.
    pub(crate) fn format(&self) -> OutputFormat {
        match (&self.output_dir, self.output_format) {
            (Some(_), _) => OutputFormat::Directory,
            (None, Some(format)) => format,
            (None, None) if self.is_shown() => OutputFormat::Terminal,
            (None, None) if self.names_a_table() => OutputFormat::Csv,
            (None, None) => OutputFormat::Jsonl,
        }
    }

    fn names_a_table(&self) -> bool {
        let extension = self.output.as_deref().and_then(Path::extension);
        extension.is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
    }

    /// Returns `true` if the answers go to standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        let names_it = |path: &Path| {
            ["-", "/dev/stdout", "/dev/fd/1"]
                .iter()
                .any(|name| path == Path::new(name))
        };
        self.output_dir.is_none() && self.output.as_deref().is_none_or(names_it)
    }

    /// Returns `true` if the answers go to a terminal.
    fn is_shown(&self) -> bool {
        let is_unnamed = self.output.as_deref().is_none_or(|path| path == Path::new("-"));
        is_unnamed && io::stdout().is_terminal()
    }

    /// Returns `true` if the rows come in the order of the input.
    pub(crate) fn is_in_order(&self) -> bool {
        self.in_order || self.format().facts().is_in_order
    }

    /// The settings of the rows.
    pub(crate) fn settings(&self, input: &InputArgs) -> Settings {
        Settings {
            keep: input.keep.clone(),
            include: self.include.clone(),
            require_complete: self.require_complete,
            keeps_old_files: self.resume,
            ids_are_paths: !input.inputs.is_empty() && input.inputs.iter().all(|path| path.is_dir()),
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// The number of items at a time, waiting ones included.
    #[arg(short, long, default_value_t = 10, value_name = "N", value_parser = concurrency)]
    pub(crate) concurrency: usize,

    /// The provider's request quota, per minute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rpm: Option<u32>,

    /// The provider's token quota, per minute, input and output together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tpm: Option<u32>,

    /// A further quota of the provider, as its page of limits has it; may be given several times. `500 requests per minute`,
    /// `30000 input tokens per minute excluding cached reads`, `8000 output tokens per minute`, `1000 requests per day resetting at
    /// 08:00` (UTC; 00:00 by default), per second, minute, hour, day or a time, as `50 requests per 10s`, and `with burst 2s`.
    #[arg(long, value_name = "QUOTA", value_parser = quota)]
    pub(crate) quota: Vec<Quota>,

    /// Wait for the reset of a quota that is used up: one of --quota per day or with a reset, or the provider's, where it says when
    /// it resets. The wait counts to --item-timeout and --batch-timeout. By default the run stops, with status 4.
    #[arg(long)]
    pub(crate) wait_for_reset: bool,

    /// The part of --rpm and --tpm that may be used at once, as a time: 2s of 60 requests a minute are 2 requests.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) burst: Option<Duration>,

    /// The number of calls at a time. Default: as many as items.
    #[arg(long, value_name = "N", value_parser = concurrency)]
    pub(crate) max_in_flight: Option<usize>,

    /// The calls that start per second at first, after 16 at once; the rate doubles every 0.25 s. `off` starts all of them at once, for
    /// a server of your own. Default: 50.
    #[arg(long, value_name = "off|RATE", value_parser = start_ramp)]
    pub(crate) start_ramp: Option<StartRamp>,

    /// Neither start with the provider's limit as an earlier run has found it, nor keep the one that this run finds.
    #[arg(long)]
    pub(crate) no_learned_limits: bool,

    /// The most attempts of an item. A throttled call does not count.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: u32,

    /// The most throttled calls of an item.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) max_throttles: u32,

    /// The most repeats of an item's calls that ran out of time, and so may have been billed already.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) max_billed_repeats: u32,

    /// The time limit of a call; at most --item-timeout. Default: 600s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// The time limit of an item, with every call and every wait. Default: no limit.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) item_timeout: Option<Duration>,

    /// The time limit of the run. When it is over, running calls finish and the rest is not sent.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) batch_timeout: Option<Duration>,

    /// Stop the run once more than this many items have failed, or more than this share of those that finished, judged
    /// from 100 items on. Running calls finish and are written. Default: no limit.
    #[arg(long, value_name = "N|P%", value_parser = max_failures)]
    pub(crate) max_failures: Option<MaxFailures>,

    /// Go on after a failure that every later item will share (a bad key, no money, an unknown model), or if the first 20 items
    /// fail alike.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Reporting (on standard error)")]
pub(crate) struct ReportingArgs {
    /// Append everything that happens to this file, an event a line of JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,

    /// Prices, for the cost of items: LiteLLM's JSON (model_prices_and_context_window.json) or a TOML of your own, as
    /// a file or a URL. A cost that the provider reports outranks it.
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) prices: Option<String>,

    /// A progress bar: `auto` shows it where standard error is a terminal.
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "WHEN")]
    pub(crate) progress: Progress,

    /// The closing account, for people or for programs.
    #[arg(long, value_enum, default_value_t = Summary::Text, value_name = "FORM")]
    pub(crate) summary: Summary,

    /// No progress, no summary, no warnings; errors remain.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
