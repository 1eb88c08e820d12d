//! Who may speak to the public side, and as which user a request runs.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use hyper::{Method, Request, body::Incoming};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    agent::Shared,
    error::{Code, Error, Result},
    http::{header_text, query_value},
    user::User,
};

/// Checks a request on the public side: the access token, or for `/files` a signature in the query.
///
/// Before `/init` has set a token everything is let in: nothing secret can be inside yet.
///
/// # Errors
/// `unauthenticated` with what is wrong with the credentials.
pub fn admit(agent: &Shared, request: &Request<Incoming>) -> Result<()> {
    let settings = agent.settings.borrow();
    let Some(token) = settings.access_token.as_deref() else {
        return Ok(());
    };
    if let Some(given) = header_text(request, "x-access-token") {
        return if same(given, token) {
            Ok(())
        } else {
            Err(refused("the access token is not the one of this sandbox"))
        };
    }
    if request.uri().path() == "/files" {
        let operation = if request.method() == Method::POST {
            "write"
        } else {
            "read"
        };
        return check_signature(request, operation, token);
    }
    Err(refused(
        "this sandbox needs its access token in the header X-Access-Token",
    ))
}

fn check_signature(request: &Request<Incoming>, operation: &str, token: &str) -> Result<()> {
    let given = query_value(request, "signature")
        .ok_or_else(|| refused("this sandbox needs its access token or a signed URL"))?;
    let path = query_value(request, "path").unwrap_or_default();
    let user = query_value(request, "username").unwrap_or_default();
    let expiration = query_value(request, "signature_expiration");
    if !same(
        &given,
        &signature(&path, operation, &user, token, expiration.as_deref()),
    ) {
        return Err(refused("the signature of this URL is not valid"));
    }
    if let Some(expiration) = expiration {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let expiration: u64 = expiration
            .parse()
            .map_err(|_| refused("signature_expiration is not a Unix time"))?;
        if expiration < now {
            return Err(refused("the signature of this URL has expired"));
        }
    }
    Ok(())
}

/// The signature of a `/files` URL, as clients compute it.
pub fn signature(
    path: &str,
    operation: &str,
    user: &str,
    token: &str,
    expiration: Option<&str>,
) -> String {
    let mut text = format!("{path}:{operation}:{user}:{token}");
    if let Some(expiration) = expiration {
        text = format!("{text}:{expiration}");
    }
    format!("v1_{}", BASE64_STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

/// The user of a call: the name in `Authorization: Basic base64("name:")`, else the default.
///
/// # Errors
/// `unauthenticated` for a header that cannot be read or a user that does not exist.
pub fn user(agent: &Shared, request: &Request<Incoming>) -> Result<User> {
    let named = match header_text(request, "authorization") {
        Some(header) => named(header)?,
        None => None,
    };
    pick(agent, named.as_deref())
}

/// The user of a `/files` request: the query's `username`, else as [`user`].
///
/// # Errors
/// As [`user`].
pub fn file_user(agent: &Shared, request: &Request<Incoming>) -> Result<User> {
    match query_value(request, "username").filter(|name| !name.is_empty()) {
        Some(name) => pick(agent, Some(&name)),
        None => user(agent, request),
    }
}

/// The account called `name`, or the default one.
///
/// # Errors
/// `unauthenticated` when it does not exist.
pub fn pick(agent: &Shared, name: Option<&str>) -> Result<User> {
    match name {
        Some(name) => User::lookup(name),
        None => User::default(agent.settings.borrow().default_user.as_deref()),
    }
}

fn named(header: &str) -> Result<Option<String>> {
    let Some((scheme, value)) = header.split_once(' ') else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let text = BASE64_STANDARD
        .decode(value.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| {
            refused("the Authorization header must be Basic with base64 of \"user:\"")
        })?;
    let name = text.split(':').next().unwrap_or_default();
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// Compares digests, so that neither content nor length shows in the time it takes.
fn same(given: &str, expected: &str) -> bool {
    Sha256::digest(given)
        .ct_eq(&Sha256::digest(expected))
        .into()
}

fn refused(message: &str) -> Error {
    Error::new(Code::Unauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_the_clients() {
        // sha256("/a:read:user:tok") computed apart.
        let expected =
            "v1_".to_owned() + &BASE64_STANDARD_NO_PAD.encode(Sha256::digest("/a:read:user:tok"));
        assert_eq!(signature("/a", "read", "user", "tok", None), expected);
        assert_ne!(signature("/a", "read", "user", "tok", Some("5")), expected);
    }

    #[test]
    fn reads_basic_names() {
        assert_eq!(named("Basic dXNlcjo=").expect("valid"), Some("user".into()));
        assert_eq!(named("basic Og==").expect("valid"), None);
        assert_eq!(named("Bearer x").expect("valid"), None);
        assert!(named("Basic ###").is_err());
    }

    #[test]
    fn compares_tokens() {
        assert!(same("abc", "abc"));
        assert!(!same("abc", "abd"));
        assert!(!same("", "abc"));
    }
}
