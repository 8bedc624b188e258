//! The texts below the options in the help.

pub(super) const EXAMPLES: &str = "\
Examples:
  # No key, no server: three prompts through a simulated provider that throttles
  printf 'Hello there\\nName a colour\\nName a fruit\\n' | llm-batch run --model sim:throttled

  # A question per line of JSON, answers to a file; started again, it does only what is missing
  llm-batch run --model openai:gpt-4o-mini --prompt 'Question: {{question}}' --keep answer \\
      questions.jsonl -o answers.jsonl --resume

  # A provider to try things on: 500 requests a minute, 2 % of the calls fail
  llm-batch simulate --port 8080 --rpm 500 --status 503=0.02

`llm-batch run --help` describes every option.";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  # See what would be sent, and about how many tokens it takes; nothing is called
  llm-batch run -m openai:gpt-4o-mini --prompt 'Question: {{question}}' questions.jsonl --dry-run

  # A table: the template names its columns, --keep copies them to the answers
  llm-batch run -m openai:gpt-4o-mini --prompt 'Is this review positive? {{review}}' \\
      --keep product,stars reviews.csv --output-format csv -o answers.csv

  # A folder of texts, one file each; the answers go to files of the same names
  llm-batch run -m openai:gpt-4o-mini --glob '*.txt' --prompt 'Summarise: {{text}}' texts/ \\
      --output-dir summaries

  # What you would send to OpenAI's batch API, now, and its kind of results
  llm-batch run -m openai:gpt-4o-mini batch.jsonl --output-format openai-batch -o results.jsonl

  # Answers of a form, checked; an answer that does not follow the schema is requested again
  llm-batch run -m openai:gpt-4o-mini --schema review.schema.json --prompt 'Rate it: {{review}}' \\
      reviews.csv -o ratings.jsonl

  # A server of your own, 64 calls at a time
  llm-batch run -m vllm:my-model --base-url http://gpu:8000/v1 -c 64 prompts.txt -o answers.jsonl

Input:
  JSON lines (objects, or strings as prompts), one JSON array or JSON values over many lines,
  OpenAI batch lines, CSV and TSV with a header, plain text (a prompt a line), folders (a prompt a
  file, with the fields `text` and `path`). gzip and Zstandard are unpacked, whatever their name.
  An item with `messages` (OpenAI's form: every role, images, tool calls and results) is a prompt by
  itself. Beside it are taken, over the options: temperature, top_p, max_completion_tokens or
  max_tokens, stop, seed, tools, tool_choice, parallel_tool_calls, response_format, reasoning_effort,
  store, user, metadata and the other fields of a chat completion; not model, which is --model.
  OpenAI batch lines for /v1/chat/completions are sent as they are to models that have chat
  completions, and converted for anthropic:, gemini: and openai-responses: models; a field without a
  counterpart there fails the line unsent. Lines for /v1/responses need an openai-responses: or
  openai: model.
  Without INPUT, or with `-`, standard input. It is read as it is needed: its size does not matter.
  An item is known by its field `id`, or else by a hash of what it holds: --resume finds its answer
  again when lines are added or moved. An item that changed is a new one if it has no id; with one,
  --resume keeps its answer, also where the prompt or the model is another. Files go by their names.

Templates:
  {{question}} is a field, {{ row[\"first name\"] }} one of any name, {{ row }} the whole item as JSON
  (or a field of that name, if there is one; then {{ row[\"row\"] }} and other fields are elsewhere).
  {% if note %}Note: {{note}}{% endif %} and the like are statements of Jinja; comments do not exist.
  Braces that are text stand between {% raw %} and {% endraw %}; { and {# need nothing.

Output:
  One line of JSON for each item as it finishes:
    {\"id\":\"7\",\"index\":6,\"ok\":true,\"output\":\"...\",\"usage\":{\"input\":31,\"output\":12,...},
     \"attempts\":1,\"calls\":1,\"latency_ms\":812,\"model\":\"...\",\"response_id\":\"...\",
     \"finish_reason\":\"stop\",\"time\":\"2026-01-31T09:30:00.000Z\"}
    {\"id\":\"8\",\"index\":7,\"ok\":false,\"error\":{\"kind\":\"...\",\"message\":\"...\",\"status\":400},
     \"usage\":{...},\"attempts\":1,\"calls\":1,\"time\":\"...\"}
  `usage` covers every call of the item, failed ones too; `unknown_usage_calls` appears where
  calls may have cost more than is known; `latency_ms` is the time inside calls, without waits.
  With --stream there is `first_token_ms`: from the start of the last call to its first token.
  With --prices, or a provider that reports it, there is `cost` in US dollars: null where it is not
  known, with `unknown_cost_calls` where some calls are not in it. `time` is when the outcome came.
  `choices` has the answers after the first where a request asks for several (`n`).
  On a terminal, without --output-format, the answers are text to read.

  --output-format text: line N is item N, so `paste prompts.txt answers.txt` fits where no line of
  the input is blank (blank lines are not items). A line break, a
  carriage return and a backslash inside an answer are written as \\n, \\r and \\\\; an item without an
  answer is `\\error` and the reason. An answer waits for those before it, as with --in-order.
  --output-dir: a file an answer, and in index.jsonl a row an item: its file or its error, and all
  else that a line has. --resume goes by the index.

Exit status:
  0  every item succeeded
  1  some failed
  2  wrong usage or configuration; nothing was called
  3  stopped early: batch timeout, bad key, no money, output closed
  4  stopped early: a quota is used up; the message says when it resets, and --wait-for-reset waits
  130  interrupted (Ctrl-C: running calls finish and are written; a second one stops at once)";
