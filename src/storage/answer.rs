//! What a storage server answered, as a message may repeat it.
//!
//! Answers are foreign text: a server, or whatever stands between, may put tokens and whole pages into them, and the libraries
//! put addresses with their queries into their errors. So a message has the status, an error code that is known, or the last
//! cause that the operating system or the protocol gives; never the answer itself.

use std::error::Error;

use crate::shown::{quoted, scrubbed};

/// How the libraries begin the text that has a status.
const STATUS: &str = "Server returned non-2xx status code: ";
/// Text before an answer that says that it is an error.
const RESPONSE: &str = "Server returned error response: ";
/// Text before what went wrong on the way to the server or back.
const TRANSPORT: &str = "HTTP error";
/// How our own error of an answer begins that lacks bytes.
pub(super) const SHORT: &str = "too few bytes came: ";
/// Codes of S3 and Azure that say what to do.
const CODES: [&str; 25] = [
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "BadDigest",
    "BucketAlreadyExists",
    "EntityTooLarge",
    "ExpiredToken",
    "InternalError",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidRange",
    "InvalidToken",
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchUpload",
    "PermanentRedirect",
    "QuotaExceeded",
    "RequestTimeTooSkewed",
    "ServerBusy",
    "SignatureDoesNotMatch",
    "SlowDown",
];

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The HTTP status that a request failed with.
pub(super) fn status(error: &(dyn Error + 'static)) -> Option<u16> {
    chain(error).find_map(|error| error.to_string().strip_prefix(STATUS)?.get(..3)?.parse().ok())
}

/// Whether a server has understood a request and will not do it.
pub(crate) fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    status(error).is_some_and(|status| (400..500).contains(&status) && ![408, 429].contains(&status))
}

/// Why a request failed, in words of ours.
pub(super) fn described(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = chain(error).map(|error| error.to_string()).collect();
    let answer = texts.iter().find_map(|text| text.strip_prefix(STATUS).or_else(|| text.strip_prefix(RESPONSE)));
    if let Some(answer) = answer {
        let status = status(error).map_or("an error".into(), |status| format!("{status}{}", reason(status)));
        let code = CODES.iter().find(|code| answer.contains(&format!("<Code>{code}</Code>")));
        return format!("the server answered {status}{}", code.map_or(String::new(), |code| format!(" ({code})")));
    }
    // whatever else fails may repeat the answer, as parsers do
    let is_transport =
        |error: &(dyn Error + 'static)| error.is::<std::io::Error>() || error.to_string().starts_with(TRANSPORT);
    let is_told = chain(error).any(is_transport) || texts.iter().any(|text| text.starts_with(SHORT));
    let last = texts.last().filter(|text| is_told && !text.contains(['"', '`', '<']));
    match last {
        Some(last) => quoted(&scrubbed(last)),
        None => "the request cannot be made, or the server's answer is not what such storage answers".into(),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => " Bad Request",
        401 => " Unauthorized",
        403 => " Forbidden",
        404 => " Not Found",
        412 => " Precondition Failed",
        416 => " Range Not Satisfiable",
        429 => " Too Many Requests",
        500 => " Internal Server Error",
        503 => " Service Unavailable",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error as the libraries nest them: texts from the outermost to the innermost.
    #[derive(Debug)]
    struct Nested(Vec<String>, Option<Box<Nested>>);

    impl std::fmt::Display for Nested {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.0[0])
        }
    }

    impl Error for Nested {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|inner| inner as _)
        }
    }

    fn nested(texts: &[&str]) -> Nested {
        let inner = (texts.len() > 1).then(|| Box::new(nested(&texts[1..])));
        Nested(vec![texts[0].into()], inner)
    }

    #[test]
    fn an_answer_is_never_repeated() {
        let body = "<Error><Code>AccessDenied</Code><Message>hunter2</Message></Error>";
        let refused = format!("Server returned non-2xx status code: 403 Forbidden: {body}");
        let get = "Error performing GET https://host/x?sig=hunter2 in 1ms - ...";
        let error = nested(&[&format!("Generic S3 error: {get}{refused}"), get, &refused]);
        assert_eq!(described(&error), "the server answered 403 Forbidden (AccessDenied)");
        assert_eq!(status(&error), Some(403));
        let unknown = nested(&["Server returned non-2xx status code: 418 I'm a teapot: <Code>hunter2</Code>"]);
        assert_eq!(described(&unknown), "the server answered 418");
        let inside = nested(&["x", "Server returned error response: <Code>SlowDown</Code>hunter2"]);
        assert_eq!(described(&inside), "the server answered an error (SlowDown)");
        let parser = nested(&["Got invalid list response", "expected `</x>`, but `</hunter2>` was found"]);
        assert!(!described(&parser).contains("hunter2"));
        let short = nested(&["Generic answer error", "too few bytes came: 1 for the bytes 0..2"]);
        assert_eq!(described(&short), "too few bytes came: 1 for the bytes 0..2");
        let transport = nested(&[get, "HTTP error: error sending request", "Connection refused (os error 111)"]);
        assert_eq!((described(&transport).as_str(), status(&transport)), ("Connection refused (os error 111)", None));
    }
}
