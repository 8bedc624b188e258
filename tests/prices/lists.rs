//! Reading lists, good and bad.

use std::io::Write as _;

use llm_batch::{ErrorKind, PriceTable};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{PUBLIC, found, public};

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = PriceTable::parse(text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    for word in words {
        assert!(
            error.message().contains(word),
            "no {word:?} in {}",
            error.message()
        );
    }
}

#[test]
fn nonsense_is_refused_by_the_name_of_the_model() {
    let json = |value: &str| {
        format!(
            r#"{{"good": {{"input_cost_per_token": 1e-6}}, "bad-one": {{"litellm_provider": "openai", "output_cost_per_token": {value}}}}}"#
        )
    };
    refused(
        &json("-1e-7"),
        &["\"bad-one\"", "output_cost_per_token", "-0.0000001"],
    );
    refused(&json("\"NaN\""), &["\"bad-one\"", "NaN"]);
    refused(&json("\"inf\""), &["\"bad-one\"", "inf"]);
    refused(&json("NaN"), &["\"bad-one\""]);
    refused(&json("1e999"), &["\"bad-one\""]);
    assert!(PriceTable::parse(json("\"ask us\"")).is_ok());
    assert!(PriceTable::parse(json("{\"a\": [1]}")).is_ok());

    let toml = |line: &str| format!("[models.\"openai:bad\"]\ninput = 1.0\n{line}\n");
    refused(
        &toml("output = -1"),
        &["\"openai:bad\"", "`output`", "-1", "per million tokens"],
    );
    refused(&toml("output = nan"), &["\"openai:bad\"", "`output`", "NaN"]);
    refused(
        &toml("output = \"0.1\""),
        &["\"openai:bad\"", "`output`", "string"],
    );
    refused(&toml("ouput = 1"), &["\"openai:bad\"", "`ouput`", "`output`"]);
    refused(
        &toml("batch = { input = -1 }"),
        &["\"openai:bad\"", "batch", "`input`"],
    );
    refused(&toml("batch = 0.5"), &["\"openai:bad\"", "`batch`"]);
    refused(&toml("above = 5"), &["\"openai:bad\"", "`above`"]);
    refused(&toml("above = [{ input = 5 }]"), &["\"openai:bad\"", "`tokens`"]);
    refused(
        &toml("above = [{ tokens = -5, input = 5 }]"),
        &["\"openai:bad\"", "`tokens`"],
    );
    refused("[models.empty]\n", &["\"empty\"", "no price"]);
    refused("models.m = 5", &["\"m\""]);
    refused("[model.m]\ninput = 1", &["`model`", "PROVIDER:MODEL"]);
}

#[test]
fn what_is_no_list_is_refused() {
    refused("", &["no price"]);
    refused("{}", &["no price"]);
    refused(r#"{"sample_spec": {"input_cost_per_token": 0.0}}"#, &["no price"]);
    refused("{\"m\": ", &["not the JSON"]);
    refused("{} trailing", &["not the JSON"]);
    refused("[1, 2]", &["neither"]);
    refused("<html>not found</html>", &["neither"]);
    assert!(PriceTable::parse(b"\xff\xfe").is_err());
    // A file that an editor of Windows wrote.
    assert!(PriceTable::parse(format!("\u{feff}\r\n{PUBLIC}")).is_ok());
}

#[test]
fn a_file_by_its_content() {
    let file = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let json = file(PUBLIC);
    assert_eq!(
        found(&PriceTable::load(json.path()).unwrap(), "openai", "owl-mini"),
        Some(0.15)
    );
    let toml = file("models.m = { input = 2 }");
    assert_eq!(
        found(&PriceTable::load(toml.path()).unwrap(), "openai", "m"),
        Some(2.0)
    );
    let error = PriceTable::load("/nowhere/prices.json").unwrap_err();
    assert!(error.message().contains("/nowhere/prices.json"), "{error}");
    let bad = file("models.m = { input = -2 }");
    let error = PriceTable::load(bad.path()).unwrap_err();
    let name = bad.path().display().to_string();
    assert!(
        error.message().contains(&name) && error.message().contains("\"m\""),
        "{error}"
    );
    // Larger than any list: holes cost nothing.
    let large = file("");
    large.as_file().set_len((64 << 20) + 1).unwrap();
    let error = PriceTable::load(large.path()).unwrap_err();
    assert!(error.message().contains("64 MiB"), "{error}");
}

/// A server that answers one request. `announced` is the length it says the body has.
async fn server(status: &str, body: &str, announced: usize) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "http://user:secret@{}/prices.json?token=secret",
        listener.local_addr().unwrap()
    );
    let reply =
        format!("HTTP/1.1 {status}\r\ncontent-length: {announced}\r\nconnection: close\r\n\r\n{body}");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(reply.as_bytes()).await.unwrap();
    });
    url
}

#[tokio::test]
async fn a_list_from_a_url() {
    let url = server("200 OK", PUBLIC, PUBLIC.len()).await;
    let table = PriceTable::fetch(&url).await.unwrap();
    assert_eq!(found(&table, "openai", "owl-mini"), Some(0.15));

    for (status, body, announced, word) in [
        ("404 Not Found", "", 0, "404"),
        ("200 OK", "{\"m\": 1", 7, "not the JSON"),
        ("200 OK", "{", 100, ""),
    ] {
        let url = server(status, body, announced).await;
        let error = PriceTable::fetch(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("127.0.0.1/prices.json") && text.contains(word),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(PriceTable::fetch("no url").await.is_err());
    assert!(PriceTable::fetch("file:///etc/passwd").await.is_err());
}

proptest! {
    #[test]
    fn a_mutated_list_is_read_or_refused(
        position in 0..PUBLIC.len(),
        byte in any::<u8>(),
        cut in 0..PUBLIC.len(),
    ) {
        let mut bytes = PUBLIC.as_bytes().to_vec();
        bytes[position] = byte;
        let _ = PriceTable::parse(&bytes);
        bytes.truncate(cut);
        let _ = PriceTable::parse(&bytes);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", key in "[a-z0-9:./-]{0,12}", value in "[-0-9a-z.\"{}\\[\\]=, ]{0,20}") {
        let _ = PriceTable::parse(&text);
        let _ = PriceTable::parse(format!("[models.\"{key}\"]\ninput = {value}\n"));
        let _ = PriceTable::parse(format!("{{\"{key}\": {{\"input_cost_per_token\": {value}}}}}"));
        let _ = found(&public(), &key, &text);
    }
}
