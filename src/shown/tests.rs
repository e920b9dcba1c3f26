use super::*;

/// A secret in every place of a URL, whole or mistyped.
const WITH_SECRETS: [&str; 33] = [
    "s3://id:hunter2@bucket/x",
    "s3://hunter2@bucket",
    "s3://id:hunter2/x@bucket/x",
    "s3://id:hunter2/bucket",
    "s3:///id:hunter2@bucket/x",
    "S3://id:hunter2@bucket/x",
    " s3://id:hunter2@bucket/x",
    "s3:/id:hunter2@bucket/x",
    "s3:id:hunter2@bucket/x",
    "s3:id:hunter2/bucket",
    "s3//id:hunter2@bucket/x",
    "id:hunter2@bucket/x",
    "id:hunter2@s3://bucket/x",
    "nosuch://id:hunter2@bucket/x",
    "s3://a://id:hunter2@bucket",
    "s3://id%3Ahunter2%40bucket/x",
    "abfss://container:hunter2@account/x",
    "https://user:hunter2@host/x",
    "https://user:hunter2/x",
    "https://user:1/hunter2@host/x",
    "https://host/x?X-Amz-Signature=hunter2&X-Amz-Date=hunter2",
    "https://host/x?hunter2",
    "https://host/x#access_token=hunter2",
    "https:/host/x?sig=hunter2",
    "host/x?sig=hunter2",
    "az://c/x?sp=r&sig=hunter2;sig=hunter2",
    "//id:hunter2@bucket/x",
    "https://host/x%3Fsig=hunter2",
    "https://host/x%3fX-Amz-Signature%3d1&sig=hunter2",
    "https://host/x&sig=hunter2",
    "https://host/x;sig=hunter2",
    "s3://bucket/x%3FX-Amz-Signature=hunter2",
    "s3://id:pa'hunter2@bucket/x",
];

#[test]
fn no_secret_is_shown_however_it_is_written() {
    for text in WITH_SECRETS {
        let url = Url::from(text);
        let json = serde_json::to_string(&url).unwrap();
        let sentence = scrubbed(&format!("cannot read `{text}`: it is \"{text}\", or {text}"));
        for shown in [url.to_string(), format!("{url:?}"), format!("{url:>9}"), json, sentence] {
            assert!(!shown.contains("hunter2"), "{text} as {shown}");
        }
        assert_eq!(redacted(&url.to_string()), url.to_string(), "what was hidden stays as it is");
        assert_eq!(url.exposed(), text);
    }
    assert_eq!(Url::from(WITH_SECRETS[0]).to_string(), "s3://***@bucket/x");
    assert_eq!(
        Url::from(WITH_SECRETS[20]).to_string(),
        "https://host/x?X-Amz-Signature=***&X-Amz-Date=***",
        "keys are no secrets"
    );
}

#[test]
fn what_has_no_secret_is_shown_as_it_is() {
    for text in [
        "results",
        "data/train_*.bin",
        "data/train_??.bin",
        "/data/10:30@x.bin",
        "./a:b@c",
        "file:///a/b.txt",
        "memory://name/a",
        "s3://bucket/prefix/a@b",
        "s3://bucket/train_*.bin",
        "abfss://container@account.dfs.core.windows.net/x",
        "http://127.0.0.1:9000/bucket",
        "http://[::1]:9000/x",
        "https://host/a/b.jsonl",
        "transformer.h.0.attn.c_attn.weight@1",
        "configs/smoke.toml:3:5:",
        "",
    ] {
        assert_eq!(Url::from(text).to_string(), text);
        assert_eq!(Url::from(text).refused(), None, "{text}");
        assert_eq!(scrubbed(&format!("({text}) and `{text}`")), format!("({text}) and `{text}`"));
    }
}

#[test]
fn credentials_are_refused_and_a_signature_is_not() {
    let is_escaped = |text: &str| ["%3F", "%3f", "/x&", "/x;"].iter().any(|mark| text.contains(mark));
    for text in WITH_SECRETS.into_iter().filter(|text| !is_escaped(text)) {
        // hidden in case, but as good a name as others
        let url = Url::from(text);
        let is_signed = text.starts_with("https://host/");
        let may_be_a_port = text.starts_with("https://user:1/"); // hidden, but as good a host, a port and a path
        assert_eq!(url.refused_as_input().is_none(), is_signed || may_be_a_port, "{text}");
        assert_eq!(url.refused().is_none(), may_be_a_port, "{text}");
    }
}

#[test]
fn a_query_is_no_wildcard() {
    for (text, is_glob) in [
        ("a?.bin", true),
        ("file:///a?.bin", true),
        ("s3://b/a*.bin", true),
        ("s3://b/[ab].bin", true),
        ("https://h/a.bin?sig=x*[y]", false),
        ("https://h/a.bin?x", false),
        ("http://[::1]:9000/x", false),
    ] {
        assert_eq!(Url::from(text).is_glob(), is_glob, "{text}");
    }
    let signed = Url::from("https://h/c/a.bin?sig=x/y");
    let (parent, name) = signed.split();
    assert_eq!((parent.exposed(), name, signed.without_query()), ("https://h/c", "a.bin", "https://h/c/a.bin"));
    assert!(signed.has_query() && !Url::from("a?b=c").has_query());
}

#[test]
fn foreign_text_cannot_steer_a_terminal() {
    assert_eq!(printable("a\x1b[31mb\u{9b}c\r\n\td\x07"), "a?[31mb?c?\n\td?");
    assert_eq!(quoted("  a\x1b\x1b[2J\nb\u{fffd} "), "a?[2J?b?");
    assert_eq!(quoted(&"x".repeat(10_000)).len(), 123);
    assert_eq!(scrubbed("host \x1b[8m"), "host ?[8m");
}
